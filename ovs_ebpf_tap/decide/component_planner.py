"""Plans one component: decides on its mirrors beside each other, and makes their rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Self
from uuid import UUID

from ovs_ebpf_tap.decide.component_decisions import ComponentDecisions
from ovs_ebpf_tap.decide.components import MirrorComponent
from ovs_ebpf_tap.decide.copies import make_rules
from ovs_ebpf_tap.decide.native_mirrors import NativeMirrors
from ovs_ebpf_tap.decide.obstacles import find_obstacles
from ovs_ebpf_tap.decide.offload_checker import check_mirror
from ovs_ebpf_tap.decide.ties import Ties
from ovs_ebpf_tap.decide.topology import BridgeContext, Topology
from ovs_ebpf_tap.decide.traversal import TraversalState
from ovs_ebpf_tap.model.desired import NATIVE, Hook, OffloadDecision, Plan, Rule
from ovs_ebpf_tap.model.limits import MAX_MIRRORS, MAX_RULES
from ovs_ebpf_tap.model.reasons import row_reasons

_MAX_ROUNDS = 64
"""How often mirrors are looked at that depend on each other, or each for a fault."""


class ComponentPlanner:
    """Plans a component, and keeps its plan until other mirrors are to be left out."""

    def __init__(
        self, component: MirrorComponent, topology: Topology, alone: ComponentDecisions, ties: Ties
    ) -> None:
        """`alone` are the decisions on each mirror by itself; see `of`."""
        self.component = component
        self.failed = alone.failed
        """Whether a mirror was left to Open vSwitch by a fault of ours."""
        self._topology = topology
        self._ties = ties
        self._alone = alone
        self._left_out: Mapping[UUID, str] | None = None
        self._plan = Plan()

    @classmethod
    def of(cls, component: MirrorComponent, context: BridgeContext) -> Self:
        """A planner of the component, which has decided on each mirror by itself."""
        topology = Topology(component, context)
        alone = ComponentDecisions(context, component.mirrors)
        copying_to: dict[UUID, list[int]] = defaultdict(list)
        too_many = _too_many(topology)
        for index, mirror in enumerate(component.mirrors):
            if too_many is not None:
                alone.leave(mirror, too_many)
                continue
            try:
                decision = check_mirror(topology, mirror)
                for output in topology.outputs(mirror):
                    copying_to[output.uuid].append(index)
            except Exception as error:
                decision = OffloadDecision(NATIVE, alone.fault(mirror, error))
            alone.settle(mirror, decision)
        return cls(component, topology, alone, Ties(topology, copying_to))

    @property
    def offloadable(self) -> list[UUID]:
        """The mirrors that can be offloaded, each by itself."""
        return [mirror.uuid for mirror in self._alone.offloaded]

    def plan(self, left_out: Mapping[UUID, str]) -> Plan:
        """The plan; there is no room for the mirrors in `left_out`, as it says."""
        here = {uuid: why for uuid, why in left_out.items() if uuid in self._alone.made}
        if here != self._left_out:
            self._left_out = here
            decisions = self._alone.copy()
            for mirror in decisions.offloaded:
                if mirror.uuid in here:
                    decisions.leave(mirror, here[mirror.uuid])
            try:
                rules = self._make_rules(decisions)
            except Exception as error:
                rules = self._rules_of_sound(decisions, error)
            self.failed |= decisions.failed
            hooks = {hook: tuple(each) for hook, each in rules.items()}
            self._plan = Plan(decisions.made, hooks)
        return self._plan

    def _make_rules(self, decisions: ComponentDecisions) -> dict[Hook, list[Rule]]:
        """The rules of the mirrors that are offloaded in the end: it leaves the others to OVS."""
        for _ in range(_MAX_ROUNDS):
            self._leave_tied(decisions)
            offloaded = {mirror.uuid for mirror in decisions.offloaded}
            state = TraversalState()
            rules = make_rules(self._topology, offloaded, state)
            reasons = (
                dict.fromkeys(state.lost, row_reasons.ENDLESS_COPIES.told())
                or state.undecided
                or dict(find_obstacles(self._topology, rules))
            )
            if not reasons:
                return rules
            for mirror in decisions.offloaded:
                if mirror.uuid in reasons:
                    decisions.leave(mirror, reasons[mirror.uuid])
        decisions.leave_all(row_reasons.DEPENDENT.told())
        return {}

    def _leave_tied(self, decisions: ComponentDecisions) -> None:
        """Leaves to OVS what depends on the copies of a mirror that OVS keeps."""
        for _ in range(_MAX_ROUNDS):
            if not decisions.offloaded:
                return
            changed = False
            native = NativeMirrors.of(self._topology, decisions.made)
            for mirror in decisions.offloaded:
                try:
                    reason = self._ties.find(mirror, native, decisions)
                except Exception as error:
                    reason = decisions.fault(mirror, error)
                if reason is not None:
                    decisions.leave(mirror, reason)
                    changed = True
            if not changed:
                return
        decisions.leave_all(row_reasons.DEPENDENT.told())

    def _rules_of_sound(
        self, decisions: ComponentDecisions, error: Exception
    ) -> dict[Hook, list[Rule]]:
        """The rules without the mirrors that fail by themselves; if that is no way, without all."""
        offloaded = decisions.offloaded
        for mirror in offloaded if 1 < len(offloaded) <= _MAX_ROUNDS else ():
            try:
                make_rules(self._topology, {mirror.uuid}, TraversalState())
            except Exception as fault:
                decisions.leave(mirror, decisions.fault(mirror, fault))
        try:
            if len(decisions.offloaded) < len(offloaded):
                return self._make_rules(decisions)
        except Exception as again:
            error = again
        for mirror in decisions.offloaded:
            decisions.leave(mirror, decisions.fault(mirror, error))
        return {}


def _too_many(topology: Topology) -> str | None:
    """Why none of the mirrors is looked at: that would take too long."""
    if len(topology.mirrors) > MAX_MIRRORS:
        return row_reasons.MIRRORS_PER_COMPONENT.told(limit=MAX_MIRRORS)
    sides = (topology.source_uuids, topology.destination_uuids)
    if sum(len(side(mirror)) for mirror in topology.mirrors for side in sides) > MAX_RULES:
        return row_reasons.PORTS_PER_COMPONENT.told(limit=MAX_RULES)
    return None
