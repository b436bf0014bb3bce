"""Follows what arrives on a port, or leaves through it, from mirror to mirror."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from uuid import UUID

from ovs_ebpf_tap.decide.copied_set import CopiedByGroup
from ovs_ebpf_tap.decide.copy_order import CopyOrder
from ovs_ebpf_tap.decide.copy_rule import group_of, make_rule
from ovs_ebpf_tap.decide.mirror_filter import parse
from ovs_ebpf_tap.decide.port_direction import PortDirection
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.decide.traversal import TraversalState
from ovs_ebpf_tap.decide.vlan import Path
from ovs_ebpf_tap.model.desired import VLAN_GROUP, Rule
from ovs_ebpf_tap.model.rows import Mirror, Port

_MAX_DEPTH = 64
"""Mirrors one behind the other, that copy copies of copies; OVS follows no more, either."""


@dataclass(frozen=True)
class Walk:
    """What became of a port's packets in one direction."""

    rules: tuple[Rule, ...]
    """Group by group, in the order in which OVS comes to them."""
    copied: CopiedByGroup
    """By group: what is copied there, and in which VLANs."""

    def copies_all(self, group: int) -> int:
        """The VLANs of which all is copied there that could be."""
        found = 0
        for each, bits in self.copied[group].items():
            # Into a VLAN, nothing is ever copied that goes to reserved addresses.
            if each.match is None and (group & VLAN_GROUP or not each.unreserved):
                found |= bits
        return found


def walk(
    topology: Topology,
    offloaded: Collection[UUID],
    port: Port,
    state: TraversalState,
    *,
    arrival: bool,
) -> Walk:
    """The copies of what arrives on the port, or else leaves through it, by offloaded mirrors.

    Adds what it finds to the state, which the ports of a component share.
    """
    direction = PortDirection.of(topology, port, arrival=arrival)
    walker = _Walker(topology, offloaded, direction, state, CopyOrder(topology, direction, state))
    for mirror in walker.first_mirrors():
        walker.visit(mirror, direction.path, 0)
    walker.order.finish()
    rules = tuple(rule for rules in walker.rules.values() for rule in rules)
    return Walk(rules, walker.order.copied)


@dataclass
class _Walker:
    """What visits of mirrors need and find."""

    topology: Topology
    offloaded: Collection[UUID]
    direction: PortDirection
    state: TraversalState
    order: CopyOrder
    rules: dict[int, list[Rule]] = field(default_factory=lambda: defaultdict(list))
    """By group."""
    selections: int = 0
    """How many mirrors have selected packets: `Rule.selection`."""

    def first_mirrors(self) -> Iterator[Mirror]:
        """Those that select the packets themselves, not copies of them."""
        port, arrival = self.direction.port, self.direction.arrival
        reserved = port.uuid in self.topology.reserved
        if arrival and self.topology.drops_arrivals(port):
            return
        for mirror in self._selecting(port, arrival=arrival):
            # OVS drops what arrives on an output port. What leaves through one was copied
            # when it arrived, unless the mirror names the port.
            if not (reserved and (arrival or mirror.select_all)):
                yield mirror

    def visit(self, mirror: Mirror, path: Path, depth: int) -> None:
        """Has the mirror copy what comes by the path, through `depth` mirrors before it."""
        topology = self.topology
        path = path.select(topology.vlan_set(mirror))
        if mirror.filter:
            path = path.filtered(parse(mirror.filter))
        selected = path.selected
        if mirror.output_port is None and mirror.output_vlan is not None:
            path = path.into(mirror.output_vlan)
        group = group_of(topology, mirror)
        path = self.order.not_copied_yet(mirror, group, path, selected)
        if not path.selected:
            return
        self.state.found += bool(depth)
        self.selections += 1
        self._add_rules(mirror, group, path)
        for output in topology.outputs(mirror):
            behind = path.through(topology.vlans(output))
            if behind is not None and behind.selected:
                with self.order.behind(group, path.selected):
                    for other in self._selecting(output, arrival=False):
                        self._follow(other, behind, depth + 1)

    def _add_rules(self, mirror: Mirror, group: int, path: Path) -> None:
        """A rule for each output; the first one counts the packet for the mirror."""
        counted = True
        for output in self.topology.outputs(mirror):
            rule = make_rule(
                self.topology,
                self.direction,
                mirror,
                group=group,
                selection=self.selections,
                path=path,
                output=output,
            )
            if rule is not None:
                self.rules[group].append(replace(rule, counted=counted))
                counted = False

    def _follow(self, mirror: Mirror, path: Path, depth: int) -> None:
        if depth > _MAX_DEPTH or self.state.exhausted:
            self.state.lost.add(mirror.uuid)
            return
        self.state.tried += 1
        self.visit(mirror, path, depth)

    def _selecting(self, port: Port, *, arrival: bool) -> Iterator[Mirror]:
        for mirror in self.topology.selecting(port, arrival=arrival):
            if mirror.uuid in self.offloaded:
                yield mirror
