"""rtnetlink: devices as they come and go, and the clsact qdiscs and filters on them.

With `links`, the only module that talks netlink. Devices are followed by notifications on a socket
of our own, whose descriptor a poll loop can wait for; requests go through pyroute2's IPRoute.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENOBUFS, ENODEV, ENOENT
from typing import Any

import tenacity
from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from ovs_ebpf_tap import links
from ovs_ebpf_tap.links import Device

INGRESS = "ingress"
EGRESS = "egress"

# Filters of ours are known by their name, which ends in the build that they run.
FILTER_NAME = "ovs-ebpf-tap/"
_PRIORITY = 0xA7A0
_HANDLE = 1
_ETH_P_ALL = 3

_RTMGRP_LINK = 0x1
_RTMGRP_TC = 0x8
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
_RECEIVE_BUFFER = 4 << 20

# TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS: include/uapi/linux/pkt_sched.h
_PARENT = {INGRESS: 0xFFFFFFF2, EGRESS: 0xFFFFFFF3}
_CLSACT_PARENT = 0xFFFFFFF1

_retry_dump = tenacity.retry(
    retry=tenacity.retry_if_exception_type((NetlinkDumpInterrupted, links.InterruptedDumpError)),
    stop=tenacity.stop_after_attempt(5),
    reraise=True,
)


@dataclass(frozen=True)
class Filter:
    """A filter of ours on a clsact qdisc."""

    ifindex: int
    direction: str
    build: str


def _gone(error: NetlinkError) -> bool:
    """Whether a request failed because the device, qdisc or filter is not there."""
    return error.code in (ENODEV, ENOENT, EINVAL)


class Netlink:
    """Devices and their clsact hooks, in the network namespace of the caller."""

    def __init__(self) -> None:
        self._events = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._events.bind((0, _RTMGRP_LINK | _RTMGRP_TC))
        self._events.setblocking(False)
        self._route = IPRoute()
        self._by_index: dict[int, Device] = {}
        self.devices: Mapping[str, Device] = {}
        """The devices by name, as of the last `run` or `refresh`; another mapping when changed."""
        self.refresh()

    def close(self) -> None:
        """Closes the sockets."""
        self._route.close()
        self._events.close()

    def fileno(self) -> int:
        """The descriptor that turns readable when `run` has something to do."""
        return self._events.fileno()

    @_retry_dump
    def refresh(self) -> None:
        """Reads all devices anew."""
        self._by_index = {device.ifindex: device for device in links.list_devices()}
        self._note_devices()

    def _note_devices(self) -> None:
        devices = {device.name: device for device in self._by_index.values()}
        if devices != self.devices:
            self.devices = devices

    def run(self) -> tuple[bool, bool]:
        """Takes in what was notified; says whether devices, and whether TC hooks, changed."""
        before = self.devices
        told = hooks = False
        while True:
            try:
                data = self._events.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                self.refresh()
                hooks = True
                continue
            for kind, _, body in links.messages(data):
                hooks |= self._take(kind, body)
            told = True
        if told:
            self._note_devices()
        return before is not self.devices, hooks

    def _take(self, kind: int, body: bytes) -> bool:
        """Takes in one notification; returns whether a TC hook was removed."""
        device = links.device(body) if kind in (links.NEWLINK, links.DELLINK) else None
        if device is not None and kind == links.NEWLINK:
            self._by_index[device.ifindex] = device
        elif device is not None:
            self._by_index.pop(device.ifindex, None)
        return kind in (links.DELQDISC, links.DELTFILTER)

    def ingress_qdisc(self, ifindex: int) -> str | None:
        """The kind of what holds the device's ingress: clsact, ingress, or None."""
        try:
            qdiscs = self._get_qdiscs(ifindex)
        except NetlinkError as error:
            if _gone(error):
                return None
            raise OSError(error.code, os.strerror(error.code)) from None
        for message in qdiscs:
            if message["parent"] == _CLSACT_PARENT:
                kind = message.get_attr("TCA_KIND")
                return str(kind)
        return None

    @_retry_dump
    def _get_qdiscs(self, ifindex: int) -> list[Any]:
        return list(self._route.get_qdiscs(index=ifindex))

    @_retry_dump
    def _get_filters(self, ifindex: int, direction: str) -> list[Any]:
        return list(self._route.get_filters(index=ifindex, parent=_PARENT[direction]))

    def ensure_clsact(self, ifindex: int) -> bool:
        """Sees to it that the device has a clsact qdisc; returns whether it was made now.

        Raises OSError (EBUSY, EEXIST) where OVS's ingress policing, or somebody else, holds
        the ingress with a qdisc of the other kind.
        """
        kind = self.ingress_qdisc(ifindex)
        if kind == "clsact":
            return False
        if kind is not None:
            raise OSError(EEXIST, f"an {kind} qdisc holds the device's ingress")
        try:
            self._route.tc("add", "clsact", ifindex)
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from None
        return True

    def remove_clsact(self, ifindex: int) -> None:
        """Removes the clsact qdisc unless it carries filters; it may be gone already."""
        if self.ingress_qdisc(ifindex) != "clsact":
            return
        try:
            if any(self._get_filters(ifindex, direction) for direction in _PARENT):
                return
            self._route.tc("del", "clsact", ifindex)
        except NetlinkError as error:
            if not _gone(error):
                raise OSError(error.code, os.strerror(error.code)) from None

    def announce(self, ifindex: int) -> None:
        """Has the kernel notify of the device, which stays as it is.

        ovs-vswitchd remembers that it could not police a device until it hears of it again
        (`netdev_linux_set_policing` in `lib/netdev-linux.c`).
        """
        try:
            (link,) = self._route.get_links(ifindex)
            alias = link.get_attr("IFLA_IFALIAS") or ""
            self._route.link("set", index=ifindex, ifalias=alias)
        except NetlinkError as error:
            if not _gone(error):
                raise OSError(error.code, os.strerror(error.code)) from None

    def filters(self, ifindex: int) -> list[Filter]:
        """The filters of ours on the device."""
        found: list[Filter] = []
        if self.ingress_qdisc(ifindex) != "clsact":
            return found
        for direction in _PARENT:
            try:
                messages = self._get_filters(ifindex, direction)
            except NetlinkError as error:
                if _gone(error):
                    continue
                raise OSError(error.code, os.strerror(error.code)) from None
            for message in messages:
                options = message.get_attr("TCA_OPTIONS")
                name = options.get_attr("TCA_BPF_NAME") if options else None
                if name and name.startswith(FILTER_NAME):
                    build = name.removeprefix(FILTER_NAME)
                    found.append(Filter(ifindex, direction, build))
        return found

    def replace_filter(self, ifindex: int, direction: str, program_fd: int, build: str) -> None:
        """Puts the program on the hook, in the place of an earlier one of ours if there is one.

        Raises OSError as the kernel says it.
        """
        try:
            self._route.tc(
                "replace-filter",
                "bpf",
                ifindex,
                parent=_PARENT[direction],
                prio=_PRIORITY,
                handle=_HANDLE,
                protocol=_ETH_P_ALL,
                fd=program_fd,
                name=FILTER_NAME + build,
                direct_action=True,
            )
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from None

    def remove_filter(self, ifindex: int, direction: str) -> None:
        """Removes our filter from the hook; it may be gone already."""
        try:
            self._route.tc(
                "del-filter",
                "bpf",
                ifindex,
                parent=_PARENT[direction],
                prio=_PRIORITY,
                handle=_HANDLE,
                protocol=_ETH_P_ALL,
            )
        except NetlinkError as error:
            if not _gone(error):
                raise OSError(error.code, os.strerror(error.code)) from None
