"""Which of a packet's copies to one output is made, and where that is undecided.

A packet is copied to an output, or into an output VLAN, once. Which mirror Open vSwitch comes to
first depends on what was created first (`mirror_scan` in `ofproto/ofproto-dpif-mirror.c`), but for
those that the copies have come through. Of what is flooded, it copies what leaves first. Where the
copies look alike, that is of no consequence; where they do not, the mirror is undecided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ovs_ebpf_tap.decide.copied_set import CopiedByGroup, CopiedSet, nothing_copied
from ovs_ebpf_tap.decide.port_direction import PortDirection
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.decide.traversal import TraversalState
from ovs_ebpf_tap.decide.vlan import Path
from ovs_ebpf_tap.model.frame_rewrite import ACCESS, ALL, TUNNEL
from ovs_ebpf_tap.model.rows import Mirror


@dataclass
class CopyOrder:
    """What the packets of a port, in one direction, were copied to so far."""

    topology: Topology
    direction: PortDirection
    state: TraversalState
    copied: CopiedByGroup = field(default_factory=nothing_copied)
    _leaving: CopiedByGroup = field(default_factory=nothing_copied)
    """What may leave through other ports, too, of all that is copied."""
    _above: list[tuple[int, int]] = field(default_factory=list)
    """The groups that the copies that are followed have come through, and their VLANs."""

    def not_copied_yet(self, mirror: Mirror, group: int, path: Path, selected: int) -> Path:
        """What is left of a path for a mirror to copy to a group; that counts as copied then.

        What is in the output VLAN already counts as copied there, too, as the mirror has
        `selected` it. Packets that were copied to the group are not followed, either: so mirror
        loops end.
        """
        copied, this = self.copied[group], CopiedSet.of(path)
        already = selected & ~path.selected
        ways = [(this, ~already)]
        if already:
            ways.append((replace(this, copied=False), already))
        undecided = selected & ~self._decided(group)
        for looks, vlans in ways:
            self._compare(mirror, looks, undecided & vlans, copied)
        for each, bits in copied.items():
            if each.covers(this):
                path = replace(path, selected=path.selected & ~bits)
                selected &= ~bits
        for looks, vlans in ways:
            copied[looks] |= selected & vlans
        if self.direction.arrival:
            if already:
                looks, vlans = ways[-1]
                self.state.inside[group][looks] |= selected & vlans
        else:
            self._compare(mirror, this, path.selected, self.state.inside[group])
        if self.direction.floods:
            self._compare_flooded(
                mirror, group, self._flooded(mirror, path, ways), selected, undecided
            )
        return path

    @contextmanager
    def behind(self, group: int, vlans: int) -> Iterator[None]:
        """While copies to the group, of packets in these VLANs, are followed."""
        self._above.append((group, vlans))
        yield
        self._above.pop()

    def finish(self) -> None:
        """Tells the ports that come later what leaves through this one."""
        for group, leaving in self._leaving.items():
            for each, bits in leaving.items():
                self.state.leaving[group][each] |= bits
                if self._is_late(each):
                    self.state.leaving_late[group][each] |= bits

    def _decided(self, group: int) -> int:
        """The VLANs of what is copied there first, whatever comes first elsewhere."""
        found = 0 if self.direction.arrival else self.state.arrived.get(group, 0)
        for at, vlans in self._above:
            found |= vlans if at == group else 0
        return found

    def _compare_flooded(
        self,
        mirror: Mirror,
        group: int,
        ways: Iterator[tuple[CopiedSet, int]],
        selected: int,
        undecided: int,
    ) -> None:
        """Compares copies with those of what leaves through other ports."""
        for looks, vlans in ways:
            late = self._is_late(looks)
            others = self.state.leaving if late else self.state.leaving_late
            self._compare(mirror, looks, undecided & vlans, others[group])
            self._leaving[group][looks] |= selected & vlans

    def _is_late(self, looks: CopiedSet) -> bool:
        return self.direction.late or not looks.copied

    def _flooded(
        self, mirror: Mirror, path: Path, ways: Sequence[tuple[CopiedSet, int]]
    ) -> Iterator[tuple[CopiedSet, int]]:
        """What becomes of what leaves through other ports, too, and its VLANs."""
        bare = 0 if path.forced else path.source.bare & ~_untagged(self.topology, mirror, path)
        for looks, vlans in ways:
            if looks.copied and bare & vlans:
                yield looks, vlans & ~bare
                yield replace(looks, tpid=path.source.tpid), vlans & bare
            else:
                yield looks, vlans

    def _compare(
        self, mirror: Mirror, this: CopiedSet, vlans: int, others: Mapping[CopiedSet, int]
    ) -> None:
        """Has the mirror undecided if in these VLANs it matters which of them comes first."""
        if not vlans:
            return
        for each, bits in others.items():
            why = this.differs(each) if bits & vlans else None
            if why is not None:
                self.state.undecided.setdefault(
                    mirror.uuid, why.told(port=self.direction.port.name)
                )


def _untagged(topology: Topology, mirror: Mirror, path: Path) -> int:
    """The VLANs of those packets whose copies have no tag of these, whatever they had."""
    found = ALL
    for output in topology.outputs(mirror):
        vlans = topology.vlans(output)
        if vlans.mode == ACCESS:
            continue
        bare = vlans.bare if vlans.mode != TUNNEL else 0
        found &= bare if path.vlan is None else ALL * (bare >> path.vlan & 1)
    return found
