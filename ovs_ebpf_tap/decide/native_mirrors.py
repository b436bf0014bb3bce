"""The mirrors of a component that OVS keeps, and what of theirs ties others to OVS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.desired import NATIVE, OffloadDecision
from ovs_ebpf_tap.model.reasons import packet_reasons
from ovs_ebpf_tap.model.rows import Mirror

Output = tuple[UUID | None, int | None]


def output_of(mirror: Mirror) -> Output:
    """What mirrors with the same output share: `mirror_update_dups` in
    `ofproto/ofproto-dpif-mirror.c`.
    """
    return mirror.output_port, mirror.output_vlan if mirror.output_port is None else None


@dataclass(frozen=True)
class NativeMirrors:
    """The mirrors that OVS keeps: of each kind the first one, by its index in the component."""

    topology: Topology
    by_output: Mapping[Output, int]
    selecting: Mapping[UUID, int]
    """By port: one that selects what leaves there."""
    copying: Mapping[UUID, int]
    """By output port: one that copies to it."""
    changing: Mapping[UUID, int]
    """By output port: one whose copies leave there otherwise than packets did."""

    @classmethod
    def of(cls, topology: Topology, decisions: Mapping[UUID, OffloadDecision]) -> Self:
        """Those of the component that the decisions leave to OVS."""
        mirrors = topology.mirrors
        native = [n for n, each in enumerate(mirrors) if decisions[each.uuid].state == NATIVE]
        by_output: dict[Output, int] = {}
        selecting: dict[UUID, int] = {}
        copying: dict[UUID, int] = {}
        for index in native:
            by_output.setdefault(output_of(mirrors[index]), index)
            for uuid in topology.destination_uuids(mirrors[index]):
                selecting.setdefault(uuid, index)
            for output in topology.outputs(mirrors[index]):
                copying.setdefault(output.uuid, index)
        return cls(topology, by_output, selecting, copying, _find_changing(topology, native))

    def tie(self, mirror: Mirror) -> str | None:
        """Why the mirror has to be OVS's, too."""
        mirrors = self.topology.mirrors
        last = len(mirrors)
        shares = self.by_output.get(output_of(mirror), last)
        outputs = self.topology.outputs(mirror) if self.selecting else ()
        selects = min((self.selecting.get(output.uuid, last) for output in outputs), default=last)
        if shares < last and shares <= selects:
            return packet_reasons.NATIVE_SHARES_OUTPUT.told(mirror=mirrors[shares].name)
        if selects < last:
            return packet_reasons.NATIVE_SELECTS_OUTPUT.told(mirror=mirrors[selects].name)
        return None


def _find_changing(topology: Topology, native: Sequence[int]) -> dict[UUID, int]:
    found: dict[UUID, int] = {}
    for index in native:
        for uuid in _changed_outputs(topology, topology.mirrors[index]):
            found.setdefault(uuid, index)
    known = 0
    while known < len(found):  # Copies of changed copies are changed, too.
        known = len(found)
        for index in native:
            mirror = topology.mirrors[index]
            if not found.keys().isdisjoint(topology.destination_uuids(mirror)):
                for output in topology.outputs(mirror):
                    found.setdefault(output.uuid, index)
    return found


def _changed_outputs(topology: Topology, mirror: Mirror) -> Iterator[UUID]:
    """Outputs where OVS's copies leave otherwise than the packets did."""
    cut = bool(mirror.cut)
    for output in topology.outputs(mirror):
        if cut or mirror.output_port is None or not topology.vlans(output).plain:
            yield output.uuid
