"""The devices of the network namespace, and what others have on them, as the kernel notifies of it.

Notifications arrive on a socket of our own, whose descriptor a poll loop can wait for.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from errno import ENOBUFS
from typing import Self

from ovs_ebpf_tap.model import surroundings
from ovs_ebpf_tap.model.desired import PRIORITIES
from ovs_ebpf_tap.model.device import Departure, Device
from ovs_ebpf_tap.observe import links, netlink, notifications, tc
from ovs_ebpf_tap.observe.device_names import DeviceNames
from ovs_ebpf_tap.observe.foreign_filters import ForeignFilters

_RTMGRP_LINK = 0x1
_RTMGRP_TC = 0x8
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
_RECEIVE_BUFFER = 4 << 20
_LONGEST = 1 << 16


@dataclass
class Changes:
    """What was notified."""

    devices: bool = False
    """Whether devices changed."""
    hooks: bool = False
    """Whether clsact qdiscs, or filters where ours are, were removed."""
    appeared: set[int] = field(default_factory=set)
    """The devices, by ifindex, that were not there before."""
    freed: set[int] = field(default_factory=set)
    """The devices, by ifindex, whose ingress no qdisc of another kind holds any more."""
    left: dict[str, Departure] = field(default_factory=dict)
    """The devices that have left for another network namespace, by all names that they had."""


class DeviceMonitor:
    """Devices, and others' filters on those that are followed, as of the last `run`."""

    def __init__(self, opened: socket.socket) -> None:
        """`opened` receives notifications, of which it waits for none."""
        self._socket = opened
        self._names = DeviceNames()
        self._foreign = ForeignFilters(self._receive_filters)
        self._lost = False

    @classmethod
    def open(cls) -> Self:
        """The devices of the caller's network namespace. Raises OSError."""
        opened = netlink.open_socket()
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        notifications.receive_only(opened, notifications.program((), PRIORITIES))
        opened.bind((0, _RTMGRP_LINK | _RTMGRP_TC))
        opened.setblocking(False)
        monitor = cls(opened)
        monitor.refresh()
        return monitor

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor that turns readable when `run` has something to do."""
        return self._socket.fileno()

    @property
    def devices(self) -> Mapping[str, Device]:
        """The devices by name; another mapping when changed.

        Also by names that they had before, where no other device has these.
        """
        return self._names.devices

    @property
    def devices_version(self) -> int:
        """Grows when `devices` changes."""
        return self._names.version

    @property
    def others(self) -> surroundings.State:
        """What others have on the devices that are followed; another object when changed."""
        return self._foreign.state

    def name_of(self, ifindex: int) -> str | None:
        """The name of a device; None if there is none."""
        device = self._names.by_index.get(ifindex)
        return None if device is None else device.name

    def is_up(self, ifindex: int) -> bool:
        """Whether there is such a device, and it is up."""
        device = self._names.by_index.get(ifindex)
        return device is not None and device.up

    def follow(self, ifindexes: frozenset[int]) -> None:
        """Has `others` tell of these devices. Raises OSError."""
        self._foreign.follow(ifindexes)

    def refresh(self) -> None:
        """Reads all devices anew, and what others have on those that are followed.

        Raises OSError.
        """
        found = links.list_devices()
        self._foreign.refresh()
        self._names.replace(found)  # What fails before is tried again, with the same names known.

    def run(self) -> Changes:
        """Takes in what was notified.

        Raises OSError if notifications were lost and devices can't be listed; the next time it
        tries that again.
        """
        before = self._names.version
        changes = Changes()
        for kind, body in self._receive():
            self._take(kind, body, changes)
        if self._lost:
            known = set(self._names.by_index)
            self.refresh()
            self._lost = False
            changes.appeared |= self._names.by_index.keys() - known
            changes.hooks = True
        else:
            self._names.update()
            self._foreign.update()
        changes.devices = self._names.version != before
        return changes

    def _receive(self) -> Iterator[tuple[int, bytes]]:
        """The type and body of each message that waits, until some were lost."""
        while True:
            try:
                data = self._socket.recv(_LONGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                self._lost = True
                continue
            if self._lost:
                continue  # Older than what was lost: a device in it may be gone.
            for kind, _, body in netlink.messages(data):
                yield kind, body

    def _take(self, kind: int, body: bytes, changes: Changes) -> None:
        if kind in (links.NEWLINK, links.DELLINK):
            device = links.device(body)
            if device is not None and kind == links.NEWLINK:
                if self._names.add(device):
                    changes.appeared.add(device.ifindex)
            elif device is not None:
                self._take_end(device, links.departure(body), changes)
        elif kind in (tc.NEWQDISC, tc.DELQDISC):
            qdisc = tc.ingress_qdisc(body)
            if qdisc is not None:
                self._take_qdisc(*qdisc, kind == tc.DELQDISC, changes)
        elif kind in (tc.NEWTFILTER, tc.DELTFILTER):
            changes.hooks |= kind == tc.DELTFILTER and tc.priority(body) in PRIORITIES
            self._foreign.take_filter(tc.ifindex(body))

    def _take_end(self, device: Device, gone: Departure | None, changes: Changes) -> None:
        """Takes in that a device has ended, or has gone there."""
        names = self._names.remove(device)
        self._foreign.forget(device.ifindex)
        if gone is not None:
            changes.left |= dict.fromkeys(names, gone)

    def _take_qdisc(self, ifindex: int, name: str, removed: bool, changes: Changes) -> None:
        self._foreign.take_qdisc(ifindex, None if removed else name)
        if removed and name == tc.CLSACT:
            changes.hooks = True
        elif removed and name == tc.INGRESS_QDISC:
            changes.freed.add(ifindex)

    def _receive_filters(self, ifindexes: frozenset[int]) -> None:
        program = notifications.program(ifindexes, PRIORITIES)
        notifications.receive_only(self._socket, program)
