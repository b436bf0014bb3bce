"""The ports that flows were followed back from when their bridge last told of its flow tables.

While flow tables are not known, offloaded mirrors stay offloaded: the ports that they select were
checked. A port that is added to one meanwhile was not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from ovs_ebpf_tap.model.flow_traits import FlowTraits
from ovs_ebpf_tap.model.rows import Bridge, Database, Mirror


@dataclass
class ExaminedPorts:
    """Remembers these ports, bridge by bridge."""

    _of_bridges: dict[UUID, frozenset[UUID]] = field(default_factory=dict)

    def look(self, db: Database, traits: Mapping[str, FlowTraits]) -> frozenset[UUID]:
        """The ports by now; of a bridge that has told of none yet, those of parked mirrors."""
        found = {}
        for uuid, bridge in db.bridges.items():
            told = bridge.name in traits
            if told or uuid not in self._of_bridges:
                mirrors = (db.mirrors[each] for each in bridge.mirrors if each in db.mirrors)
                found[uuid] = _destinations(bridge, (m for m in mirrors if told or m.parked))
            else:
                found[uuid] = self._of_bridges[uuid]
        self._of_bridges = found
        return frozenset().union(*found.values())


def _destinations(bridge: Bridge, mirrors: Iterable[Mirror]) -> frozenset[UUID]:
    found: set[UUID] = set()
    for mirror in mirrors:
        found.update(bridge.ports if mirror.select_all else mirror.select_dst_port)
    return frozenset(found)
