"""The ports of which it was known how flows send packets there when a bridge was last asked.

While a bridge does not tell of its flows, mirrors go on that are offloaded: what they select was
looked at. A port that is added to one meanwhile was not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from ovs_ebpf_tap.model.flow_traits import FlowTraits
from ovs_ebpf_tap.model.rows import Bridge, Database, Mirror


@dataclass
class ExaminedPorts:
    """Follows, bridge by bridge, which ports were looked at."""

    _of_bridges: dict[UUID, frozenset[UUID]] = field(default_factory=dict)

    def look(self, db: Database, traits: Mapping[str, FlowTraits]) -> frozenset[UUID]:
        """The ports that were, by now; of a bridge not asked yet, those of parked mirrors."""
        found = {}
        for uuid, bridge in db.bridges.items():
            mirrors = [db.mirrors[each] for each in bridge.mirrors if each in db.mirrors]
            if bridge.name in traits or uuid not in self._of_bridges:
                asked = bridge.name in traits
                found[uuid] = _destinations(bridge, (m for m in mirrors if asked or m.parked))
            else:
                found[uuid] = self._of_bridges[uuid]
        self._of_bridges = found
        return frozenset().union(*found.values())


def _destinations(bridge: Bridge, mirrors: Iterable[Mirror]) -> frozenset[UUID]:
    found: set[UUID] = set()
    for mirror in mirrors:
        found.update(bridge.ports if mirror.select_all else mirror.select_dst_port)
    return frozenset(found)
