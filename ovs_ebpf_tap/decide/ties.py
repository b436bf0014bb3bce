"""Why a mirror that could be offloaded by itself can't be beside the others of its component."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

from ovs_ebpf_tap.decide.component_decisions import ComponentDecisions
from ovs_ebpf_tap.decide.mirror_filter import parse
from ovs_ebpf_tap.decide.native_mirrors import NativeMirrors, output_of
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.frame_rewrite import ACCESS, KEEP, NATIVE, PRIORITY_NEVER, TUNNEL
from ovs_ebpf_tap.model.reasons import packet_reasons
from ovs_ebpf_tap.model.reasons.reason import Reason
from ovs_ebpf_tap.model.rows import Mirror


@dataclass
class Ties:
    """What ties mirrors of a component to each other."""

    topology: Topology
    copying_to: Mapping[UUID, Sequence[int]]
    """By output port: the indices of the mirrors that copy to it."""

    @cached_property
    def _snaplens(self) -> set[int]:
        return {mirror.cut for mirror in self.topology.mirrors}

    def find(
        self, mirror: Mirror, native: NativeMirrors, decisions: ComponentDecisions
    ) -> str | None:
        """Why the mirror has to be OVS's because of another; None if it need not be."""
        reason = native.tie(mirror)
        if reason is not None:
            return reason
        for other in decisions.offloaded if len(self._snaplens) > 1 else ():
            if (
                mirror.cut != other.cut
                and output_of(mirror) == output_of(other)
                and self._meet(mirror, other)
            ):
                return packet_reasons.ANOTHER_SNAPLEN.told(mirror=other.name)
        return self._lost_behind(mirror, native, decisions)

    def _meet(self, mirror: Mirror, other: Mirror) -> bool:
        """Whether a port is a source, or a destination, of both."""
        sides = (self.topology.source_uuids, self.topology.destination_uuids)
        return any(not set(side(mirror)).isdisjoint(side(other)) for side in sides)

    def _lost_behind(
        self, mirror: Mirror, native: NativeMirrors, decisions: ComponentDecisions
    ) -> str | None:
        """Why copies that the mirror selects can't be followed to it."""
        selected = self.topology.destination_uuids(mirror)
        for index, uuid, tie in self._behind(mirror, selected, native, decisions):
            other = self.topology.mirrors[index]
            if tie is not None:
                return tie.told(mirror=other.name)
            if mirror.filter and parse(mirror.filter).on_tags:
                return packet_reasons.COPIES_FILTERED_BY_TAGS.told(mirror=other.name)
            output = self.topology.seen[uuid]
            followed = output.vlans.mode in (KEEP, ACCESS)
            if not followed or output.vlans.priority != PRIORITY_NEVER:
                return packet_reasons.COPIES_CHANGED.told(mirror=other.name, port=output.port.name)
            if self._minds_lost_tags(mirror):
                return packet_reasons.COPIES_LOST_TAGS.told(mirror=other.name)
        return None

    def _behind(
        self,
        mirror: Mirror,
        selected: Iterable[UUID],
        native: NativeMirrors,
        decisions: ComponentDecisions,
    ) -> list[tuple[int, UUID, Reason | None]]:
        """Others whose copies are selected: of each output, the first of those that are alike.

        The index and output port of each, and of native ones, the reason that they are.
        """
        traits = self.topology.context.traits
        beside = traits is not None and traits.outputs
        found: list[tuple[int, UUID, Reason | None]] = []
        for uuid in selected:
            for index in self.copying_to.get(uuid, ()):
                other = self.topology.mirrors[index]
                if other.uuid != mirror.uuid and decisions.is_offloaded(other):
                    found.append((index, uuid, None))
                    break
            if uuid in native.changing:
                found.append((native.changing[uuid], uuid, packet_reasons.NATIVE_COPIES_CHANGED))
            elif beside and uuid in native.copying:
                # The packet may leave there, too. Open vSwitch copies one of the two.
                found.append(
                    (native.copying[uuid], uuid, packet_reasons.NATIVE_COPIES_BESIDE_FLOWS)
                )
        return sorted(found, key=lambda each: each[:2])

    def _minds_lost_tags(self, mirror: Mirror) -> bool:
        """Whether a tag or priority that a port has taken off makes a difference to its outputs."""
        for output in self.topology.outputs(mirror):
            vlans = self.topology.vlans(output)
            two_tags = self.topology.context.db.vlan_limit > 1
            inner = two_tags and vlans.out_mode in (NATIVE, TUNNEL)
            if inner or vlans.priority != PRIORITY_NEVER:
                return True
        return False
