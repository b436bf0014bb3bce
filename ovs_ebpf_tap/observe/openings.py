"""Which devices Open vSwitch has open, where names do not tell.

Names change hands while Open vSwitch goes on with the devices that it has opened. The userspace
datapath receives from a packet socket that is bound to a device's ifindex
(`netdev_linux_rxq_construct` in `lib/netdev-linux.c`), and that is bound to none once that device
has ended or left (`packet_notifier` in the kernel's `net/packet/af_packet.c`). So a row's socket is
remembered for as long as it is open. The device of a port of the kernel's datapath has the
datapath's local device as its master (`ovs_netdev_link` in `net/openvswitch/vport-netdev.c`).
Internal ports and taps have no packet socket and no master.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from uuid import UUID

from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.rows import Database, Interface
from ovs_ebpf_tap.observe.packet_sockets import open_sockets

_TYPES = ("", "system")
_KERNELS = "openvswitch"

_REOPENING = 1.0
"""Seconds in which Open vSwitch opens a socket again that it has closed (`port_reconfigure` in
`lib/dpif-netdev.c`)."""
_STARTING = 10.0
"""Seconds in which ovs-vswitchd, after its start, opens the devices that it had open before."""
_DOUBT = 0.2
"""Seconds from one look to the next while a device may be about to be opened."""
_AGAIN = 1.0
"""The same while another device has a port's name: a restart of ovs-vswitchd opens that one, and
need not change any row."""


class Openings:
    """Finds, for Interface rows, the device that Open vSwitch has open."""

    def __init__(
        self,
        age: Callable[[], float | None],
        sockets: Callable[[], Mapping[int, int] | None] = open_sockets,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`age` tells for how many seconds ovs-vswitchd runs; `sockets` is as `open_sockets`."""
        self._age = age
        self._read_sockets = sockets
        self._clock = clock
        self._bound: dict[UUID, frozenset[int]] = {}
        """The sockets of rows, by inode."""
        self._closed: dict[UUID, float] = {}
        """When a row's socket was first seen to be closed."""
        self._asked: tuple[object, ...] = ()
        """The rows and devices when it was looked last; empty to have `look` ask the kernel."""
        self._interfaces: Mapping[UUID, Interface] = {}
        self.wake = math.inf
        """When, by the clock, it is to be looked again though nothing has changed."""
        self.misnamed: Mapping[UUID, int] = {}
        """`Interface.bound` of the rows that have it."""

    def look(self, db: Database, devices: Mapping[str, Device]) -> Database:
        """The rows, with `bound` where it is not the device of their name that is open."""
        # `cur_cfg` alone may tell that others were opened, as for another `ofport_request`.
        asked = (db, devices)
        if asked != self._asked or self._clock() >= self.wake:
            self._asked = asked
            self._find(db, devices)
            self._interfaces = {
                **db.interfaces,
                **{
                    uuid: replace(db.interfaces[uuid], bound=ifindex)
                    for uuid, ifindex in self.misnamed.items()
                    if uuid in db.interfaces
                },
            }
        return replace(db, interfaces=self._interfaces) if self.misnamed else db

    def refresh(self) -> None:
        """Has the next `look` ask the kernel."""
        self._asked = ()

    def _find(self, db: Database, devices: Mapping[str, Device]) -> None:
        now = self._clock()
        self.wake = math.inf
        userspace = dict(_opened(db, netdev=True))
        sockets = self._read_sockets() if userspace else {}
        if sockets is None:
            return  # By name, or what was known.
        self._bind(userspace, devices, sockets, now)
        since = self._age()
        # Rows may still tell of what an earlier ovs-vswitchd had open.
        starting = since is None or since < _STARTING
        found = {}
        named = {name: each.ifindex for name, each in devices.items() if each.name == name}
        for uuid, row in userspace.items() if sockets else ():
            ifindex = self._ifindex(uuid, sockets)
            if ifindex is None and (row.name not in named or starting or self._reopens(uuid, now)):
                continue
            if ifindex != named.get(row.name):
                found[uuid] = ifindex or 0
        ports = {each.ifindex for each in devices.values() if each.slave == _KERNELS}
        for uuid, row in _opened(db, netdev=False) if ports and not starting else ():
            if row.name in named and named[row.name] not in ports:
                found[uuid] = 0
        unopened = userspace.keys() - self._bound.keys() if sockets else set()
        if any(db.interfaces[uuid].name in named for uuid in unopened - found.keys()):
            self.wake = now + (_AGAIN if since is None else _DOUBT)
        elif any(db.interfaces[uuid].name in named for uuid in found):
            self.wake = now + _AGAIN
        if found != self.misnamed:
            self.misnamed = found

    def _bind(
        self,
        rows: Mapping[UUID, Interface],
        devices: Mapping[str, Device],
        sockets: Mapping[int, int],
        now: float,
    ) -> None:
        """Finds the sockets of rows: those that they had, or else those of the device of the name,
        where Open vSwitch has looked when it opened one.
        """
        before = {uuid: inodes for uuid, inodes in self._bound.items() if uuid in rows}
        kept = {uuid: inodes & sockets.keys() for uuid, inodes in before.items()}
        self._bound = {uuid: frozenset(inodes) for uuid, inodes in kept.items() if inodes}
        closed = before.keys() - self._bound.keys()
        self._closed = {uuid: at for uuid, at in self._closed.items() if uuid in rows}
        self._closed |= dict.fromkeys(closed, now)
        free = defaultdict(set)
        for inode in sockets.keys() - set().union(*self._bound.values()):
            free[sockets[inode]].add(inode)
        for uuid, row in rows.items():
            device = devices.get(row.name)
            if uuid in self._bound or device is None or device.name != row.name:
                continue
            if device.ifindex in free:
                self._bound[uuid] = frozenset(free[device.ifindex])
                self._closed.pop(uuid, None)

    def _ifindex(self, uuid: UUID, sockets: Mapping[int, int]) -> int | None:
        """Of the device that the row's socket is bound to; 0 if that is gone; None without one."""
        inodes: Collection[int] = self._bound.get(uuid, ())
        return max((sockets[inode] for inode in inodes), default=None)

    def _reopens(self, uuid: UUID, now: float) -> bool:
        return now < self._closed.get(uuid, -math.inf) + _REOPENING


def _opened(db: Database, *, netdev: bool) -> Iterator[tuple[UUID, Interface]]:
    """The rows that have opened a device of the host, on bridges of one of the datapaths.

    A bridge's local port is internal, whatever its row says (`iface_get_type` in
    `vswitchd/bridge.c`).
    """
    for bridge in db.bridges.values():
        if (bridge.datapath_type == "netdev") != netdev:
            continue
        for port in bridge.ports:
            for uuid in db.ports[port].interfaces if port in db.ports else ():
                row = db.interfaces.get(uuid)
                if row and row.opened and row.type in _TYPES and row.name != bridge.name:
                    yield uuid, row
