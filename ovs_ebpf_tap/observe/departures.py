"""Devices that have left the network namespace while Open vSwitch has them open.

Open vSwitch goes on with an internal port's device in another namespace, whatever it is called
there, and the userspace datapath sends to any device that has the name here. The rows do not tell
these apart: `ifindex` is that of the device that has the name (`netdev_linux_update__` in
`lib/netdev-linux.c`). So it is remembered where the device went, and the kernel is asked whether it
is still there when another one has its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from ovs_ebpf_tap.model.device import Departure, Device
from ovs_ebpf_tap.model.rows import INTERNAL_TYPES, Database
from ovs_ebpf_tap.observe import links
from ovs_ebpf_tap.observe.vswitchd import read_pid


@dataclass(frozen=True)
class _Left:
    to: Departure
    pid: int | None
    """The ovs-vswitchd that had the device open."""


class Departures:
    """Remembers devices that have left, by the Interface rows that they are of."""

    def __init__(self, run_dir: Path, is_there: Callable[[Departure], bool] = links.is_there):
        """`run_dir` is where ovs-vswitchd has its pid file."""
        self._run_dir = run_dir
        self._is_there = is_there
        self._left: dict[UUID, _Left] = {}
        self._asked: Mapping[str, Device] | None = None
        """The devices when the kernel was asked last; None to ask it at the next look."""

    def note(self, left: Mapping[str, Departure], db: Database) -> None:
        """Takes in that devices have left, by their names."""
        pid = read_pid(self._run_dir)
        keeping = _keeping(db)
        for uuid, interface in db.interfaces.items():
            if interface.name in left and interface.opened and uuid in keeping:
                self._left[uuid] = _Left(left[interface.name], pid)

    def look(self, db: Database, devices: Mapping[str, Device]) -> Database:
        """The rows, with `away` where the device that Open vSwitch has open is elsewhere."""
        if self._left:
            self._drop_returned(db, devices)
        away = {uuid: replace(db.interfaces[uuid], away=True) for uuid in self._left}
        return replace(db, interfaces={**db.interfaces, **away}) if away else db

    def _drop_returned(self, db: Database, devices: Mapping[str, Device]) -> None:
        """Drops those that Open vSwitch has no longer open, or that are no longer elsewhere."""
        pid = read_pid(self._run_dir)
        self._left = {
            uuid: left
            for uuid, left in self._left.items()
            if uuid in db.interfaces
            and db.interfaces[uuid].opened
            and pid in (left.pid, None)  # Another one has opened what it found by the name.
        }
        if devices != self._asked:
            self._asked = devices
            self._left = {
                uuid: left
                for uuid, left in self._left.items()
                if db.interfaces[uuid].name not in devices or self._is_there(left.to)
            }

    def refresh(self) -> None:
        """Has the next `look` ask the kernel: one that has come back by another name, or has
        ended, is not notified of.
        """
        self._asked = None


def _keeping(db: Database) -> set[UUID]:
    """The interfaces whose device Open vSwitch keeps when that leaves.

    The kernel's datapath lets go of others than its own (`dp_device_event` in its
    `net/openvswitch/dp_notify.c`).
    """
    return {
        uuid
        for bridge in db.bridges.values()
        for port in bridge.ports
        if port in db.ports
        for uuid in db.ports[port].interfaces
        if uuid in db.interfaces
        and (bridge.datapath_type == "netdev" or db.interfaces[uuid].type in INTERNAL_TYPES)
    }
