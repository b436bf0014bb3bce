"""Decides which mirrors are offloaded, with which hooks and rules, and why the others are not.

Pure functions from the database and the devices to a `Plan`. Bridges are planned by
`bridge_planner`, in components of mirrors that share ports: each mirror is checked by itself
(`offload_checker`), then beside the others (`ties`), and those that are left get their rules
(`copies`), unless there are `obstacles`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from uuid import UUID

from ovs_ebpf_tap.decide.bridge_planner import BridgeInput, BridgePlanner
from ovs_ebpf_tap.decide.tunnel_ports import TunnelPorts
from ovs_ebpf_tap.model.desired import NATIVE, Hook, OffloadDecision, Plan, Rule
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.flow_traits import OpenFlow
from ovs_ebpf_tap.model.limits import MAX_MIRRORS
from ovs_ebpf_tap.model.rows import Database
from ovs_ebpf_tap.model.surroundings import NOTHING, Surroundings
from ovs_ebpf_tap.util import unexpected
from ovs_ebpf_tap.util.text import printable

NO_OPENFLOW = OpenFlow()


def make_plan(
    db: Database,
    devices: Mapping[str, Device],
    attach: str,
    refused: Mapping[int, str] = MappingProxyType({}),
    openflow: OpenFlow = NO_OPENFLOW,
    surroundings: Surroundings = NOTHING,
) -> Plan:
    """The plan for all bridges, with hooks attached as `attach` (`TCX` or `CLSACT`) says.

    `devices` are by name. `refused` says why the kernel takes no hook on a device, by ifindex;
    `openflow` is what is known of the bridges' flow tables and ports, `surroundings` what others
    have on devices.
    """
    return Planner(attach).plan(db, devices, refused, openflow, surroundings)


class Planner:
    """Makes one plan after the other, and anew only what is made of other values than before."""

    def __init__(self, attach: str) -> None:
        self._attach = attach
        self._bridges: dict[UUID, BridgePlanner] = {}
        self._components: list[Plan] = []
        self._tunnel_ports = TunnelPorts()
        self._plan = Plan()

    def plan(
        self,
        db: Database,
        devices: Mapping[str, Device],
        refused: Mapping[int, str] = MappingProxyType({}),
        openflow: OpenFlow = NO_OPENFLOW,
        surroundings: Surroundings = NOTHING,
        unplaced: frozenset[UUID] = frozenset(),
    ) -> Plan:
        """As `make_plan`; the object that it returned before if that is still the plan.

        Mirrors in `unplaced` find no place in the maps; none takes theirs. What fails by a fault of
        ours is left to Open vSwitch: a mirror, or all that share ports, or a bridge's.
        """
        known = self._bridges
        self._bridges = {uuid: known.get(uuid) or BridgePlanner() for uuid in db.bridges}
        on_bridges = Counter(uuid for bridge in db.bridges.values() for uuid in bridge.mirrors)
        multi_bridge = frozenset(uuid for uuid, count in on_bridges.items() if count > 1)
        before = self._tunnel_ports
        self._tunnel_ports = before.following(db)
        room = MAX_MIRRORS
        components: list[Plan] = []
        for bridge in sorted(db.bridges.values(), key=lambda bridge: bridge.name):
            given = BridgeInput(
                db,
                bridge,
                devices,
                self._attach,
                refused,
                openflow,
                surroundings,
                multi_bridge,
                self._tunnel_ports,
            )
            for plan in self._plan_bridge(given, room, unplaced):
                components.append(plan)
                room -= plan.offloaded + len(unplaced & plan.decisions.keys())
        if components != self._components or before != self._tunnel_ports:
            joined = _joined(components)
            hooks = {**joined.hooks, **self._tunnel_ports.narrower(joined.hooks)}
            plan = Plan(joined.decisions, hooks)
            self._plan = self._plan if plan == self._plan else plan
        self._components = components
        return self._plan

    def retry(self) -> None:
        """Has the next `plan` try again what failed by a fault of ours."""
        for bridge in self._bridges.values():
            bridge.retry()

    def _plan_bridge(self, given: BridgeInput, room: int, unplaced: frozenset[UUID]) -> list[Plan]:
        bridge = given.bridge
        try:
            return self._bridges[bridge.uuid].plan(given, room, unplaced)
        except Exception as error:
            self._bridges[bridge.uuid] = BridgePlanner()  # Half of one may be left.
            decision = OffloadDecision(
                NATIVE, printable(unexpected.reason(f"bridge {bridge.name}", error))
            )
            return [Plan(dict.fromkeys(set(bridge.mirrors) & given.db.mirrors.keys(), decision))]


def _joined(components: Iterable[Plan]) -> Plan:
    decisions: dict[UUID, OffloadDecision] = {}
    hooks: dict[Hook, tuple[Rule, ...]] = {}
    for plan in components:
        decisions.update(plan.decisions)
        for hook, rules in plan.hooks.items():
            hooks[hook] = hooks[hook] + rules if hook in hooks else rules
    return Plan(decisions, hooks)
