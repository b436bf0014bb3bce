"""Mirror rows that ovn-controller makes anew: whose hooks linger, and which row takes them over.

At each start, ovn-controller deletes its rows while it knows of no bound port yet, and makes them
again in a later turn of its main loop, with other UUIDs (`should_delete_ovs_mirror` and
`create_ovs_mirror` in OVN's `controller/mirror.c`; 23.03 and 26.03 were read).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from uuid import UUID

from ovs_ebpf_tap.model.rows import (
    PARKED_VLANS,
    SELECT_VLAN_KEY,
    Database,
    Mirror,
    format_vlans,
)

LINGER = 1.0
"""Seconds for which hooks stay when a row of ovn-controller's is gone.

It takes 11 to 13 ms to make one again on a host at rest. A mirror that is removed for good copies
on for so long.
"""


_OVN_REMOTE = "ovn-remote"


class _Place(NamedTuple):
    """What a row of ovn-controller's is known by."""

    bridge: UUID
    name: str


class _Gone(NamedTuple):
    mirror: Mirror
    until: float


class Successor(NamedTuple):
    """A row in the place of another, by UUID."""

    former: UUID
    mirror: UUID
    seamless: bool
    """Whether it asks for the copies that hooks have made for the other."""


@dataclass
class Recreations:
    """Compares the rows with those that there were; times are of the monotonic clock."""

    _rows: Mapping[_Place, Mirror] = field(default_factory=dict)
    _gone: dict[_Place, _Gone] = field(default_factory=dict)
    _looked: bool = False
    _orphans_until: float = 0.0
    orphans: frozenset[UUID] = frozenset()
    """The mirrors that have hooks, and whose rows went while no sidecar ran: whose they were, and
    whether they are there again under another UUID, is not known. Where ovn-controller runs, their
    hooks linger, too."""

    def look(self, db: Database, hooked: Collection[UUID], now: float) -> list[Successor]:
        """Takes in the rows, and which mirrors have hooks; returns the rows that are in the place
        of others now."""
        if not self._looked:
            self._looked, self._orphans_until = True, now + LINGER
            if _has_ovn(db):
                self.orphans = frozenset(hooked) - db.mirrors.keys()
        elif now >= self._orphans_until:
            self.orphans = frozenset()
        before, self._rows = self._rows, _owned(db)
        for place, mirror in before.items():
            if mirror.uuid not in db.mirrors:
                self._gone[place] = _Gone(mirror, now + LINGER)
        self._gone = {
            place: each
            for place, each in self._gone.items()
            if each.until > now and place.bridge in db.bridges
        }
        return [
            Successor(former.uuid, mirror.uuid, former.parked and _asks(former) == _asks(mirror))
            for place, mirror in self._rows.items()
            if place in self._gone
            for former in [self._gone.pop(place).mirror]
        ]

    @property
    def lingering(self) -> frozenset[UUID]:
        """The rows that are gone, and may come again."""
        return frozenset(each.mirror.uuid for each in self._gone.values())

    @property
    def wake(self) -> float:
        """When the first of them, or an orphan, is given up; infinite without one."""
        until = [each.until for each in self._gone.values()]
        return min([*until, self._orphans_until] if self.orphans else until, default=float("inf"))

    def with_lingering(self, db: Database, hooked: Collection[UUID]) -> Database:
        """The rows, and those of the lingering ones that are `hooked`, as parked."""
        mirrors, bridges = dict(db.mirrors), dict(db.bridges)
        for place, (mirror, _) in self._gone.items():
            if mirror.uuid in hooked:
                bridge = bridges[place.bridge]
                mirrors[mirror.uuid] = _parked(mirror, db)
                bridges[place.bridge] = replace(bridge, mirrors=(*bridge.mirrors, mirror.uuid))
        changed = len(mirrors) > len(db.mirrors)
        return replace(db, mirrors=mirrors, bridges=bridges) if changed else db


def _has_ovn(db: Database) -> bool:
    """Whether ovn-controller is configured: `ovn-remote`, or `ovn-remote-CHASSIS`."""
    return any(key.startswith(_OVN_REMOTE) for key in db.external_ids)


def _owned(db: Database) -> dict[_Place, Mirror]:
    return {
        _Place(bridge.uuid, db.mirrors[uuid].name): db.mirrors[uuid]
        for bridge in db.bridges.values()
        for uuid in bridge.mirrors
        if uuid in db.mirrors and db.mirrors[uuid].is_of_ovn
    }


def _asks(mirror: Mirror) -> Mirror:
    """What a row asks for, whoever copies."""
    return replace(
        mirror,
        uuid=UUID(int=0),
        select_vlan=mirror.desired_vlans,
        external_ids={},
        statistics={},
    )


def _parked(mirror: Mirror, db: Database) -> Mirror:
    """OVSDB would have taken ports that are gone off the row."""
    kept = format_vlans(mirror.desired_vlans)
    return replace(
        mirror,
        select_src_port=tuple(port for port in mirror.select_src_port if port in db.ports),
        select_dst_port=tuple(port for port in mirror.select_dst_port if port in db.ports),
        select_vlan=PARKED_VLANS,
        external_ids={**mirror.external_ids, SELECT_VLAN_KEY: kept},
    )
