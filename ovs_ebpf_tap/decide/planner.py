"""Decides which mirrors are offloaded, with which hooks and rules, and why the others are not.

Pure functions from the database and the devices to a `Plan`: a mirror is judged by itself
(`checker`), then beside the others, and those that are left have their `rules`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from uuid import UUID

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.decide.bridge_ports import BridgePorts
from ovs_ebpf_tap.decide.components import MirrorComponent, split
from ovs_ebpf_tap.decide.copies import make_rules
from ovs_ebpf_tap.decide.mirror_filter import parse
from ovs_ebpf_tap.decide.offload_checker import (
    MAX_NATIVE_MIRRORS,
    MODES,
    OffloadChecker,
    is_over_native_limit,
    mode_of,
)
from ovs_ebpf_tap.decide.seen_port import SeenPort
from ovs_ebpf_tap.decide.topology import BridgeContext, Topology
from ovs_ebpf_tap.decide.traversal import TraversalState
from ovs_ebpf_tap.model.desired import (
    NATIVE,
    OFFLOADED,
    Hook,
    NotOffloadedError,
    OffloadDecision,
    Plan,
    Rule,
)
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.flow_traits import OpenFlow, PortFlags
from ovs_ebpf_tap.model.frame_rewrite import ACCESS, KEEP, PRIORITY_NEVER, TUNNEL
from ovs_ebpf_tap.model.frame_rewrite import NATIVE as NATIVE_VLAN
from ovs_ebpf_tap.model.reasons import packet_reasons, row_reasons
from ovs_ebpf_tap.model.reasons.reason import Reason
from ovs_ebpf_tap.model.rows import Bridge, Database, Mirror, Port
from ovs_ebpf_tap.model.surroundings import NOTHING, Surroundings
from ovs_ebpf_tap.util import unexpected
from ovs_ebpf_tap.util.text import printable

MAX_RULES_PER_HOOK = abi.constant("MAX_RULES_PER_HOOK")
MAX_MIRRORS = abi.constant("MAX_MIRRORS")
MAX_RULES = abi.constant("MAX_RULES")

_MOST_ROUNDS = 64
"""How often mirrors are looked at that depend on each other, or each for a fault."""

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

    `refused` says why the kernel takes no hook on a device, by ifindex; `openflow` is what is
    known of the bridges' flow tables and ports, `surroundings` what others have on devices.
    """
    return Planner(attach).plan(db, devices, refused, openflow, surroundings)


class Planner:
    """Makes one plan after the other.

    A part of a bridge is planned anew only if what its plan was made of is another now.
    """

    def __init__(self, attach: str) -> None:
        self._attach = attach
        self._bridges: dict[UUID, _BridgePlanner] = {}
        self._parts: list[Plan] = []
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
        self._bridges = {uuid: known.get(uuid) or _BridgePlanner() for uuid in db.bridges}
        on_bridges = Counter(uuid for bridge in db.bridges.values() for uuid in bridge.mirrors)
        twice = frozenset(uuid for uuid, count in on_bridges.items() if count > 1)
        room = MAX_MIRRORS
        parts: list[Plan] = []
        for bridge in sorted(db.bridges.values(), key=lambda bridge: bridge.name):
            given = _Given(
                db, bridge, devices, self._attach, refused, openflow, surroundings, twice
            )
            for part in self._plan_bridge(given, room, unplaced):
                parts.append(part)
                room -= part.offloaded + len(unplaced & part.decisions.keys())
        if list(map(id, parts)) != list(map(id, self._parts)):
            self._parts, self._plan = parts, _joined(parts)
        return self._plan

    def retry(self) -> None:
        """Has the next `plan` try again what failed by a fault of ours."""
        for bridge in self._bridges.values():
            bridge.retry()

    def _plan_bridge(self, given: _Given, room: int, unplaced: frozenset[UUID]) -> list[Plan]:
        bridge = given.bridge
        try:
            return self._bridges[bridge.uuid].plan(given, room, unplaced)
        except Exception as error:
            self._bridges[bridge.uuid] = _BridgePlanner()  # Half of one may be left.
            decision = OffloadDecision(
                NATIVE, printable(unexpected.reason(f"bridge {bridge.name}", error))
            )
            return [Plan(dict.fromkeys(set(bridge.mirrors) & given.db.mirrors.keys(), decision))]


def _joined(parts: Iterable[Plan]) -> Plan:
    decisions: dict[UUID, OffloadDecision] = {}
    hooks: dict[Hook, tuple[Rule, ...]] = {}
    for part in parts:
        decisions.update(part.decisions)
        for hook, rules in part.hooks.items():
            hooks[hook] = hooks[hook] + rules if hook in hooks else rules
    return Plan(decisions, hooks)


def bridges_with_work(db: Database) -> set[str]:
    """The bridges with a mirror that is to be offloaded if it can be."""
    return {
        bridge.name
        for bridge in db.bridges.values()
        for uuid in bridge.mirrors
        if uuid in db.mirrors and mode_of(db, bridge, db.mirrors[uuid]) == MODES[0]
    }


@dataclass(frozen=True)
class _Given:
    """What a bridge is planned by."""

    db: Database
    bridge: Bridge
    devices: Mapping[str, Device]
    attach: str
    refused: Mapping[int, str]
    openflow: OpenFlow
    surroundings: Surroundings
    multi_bridge_mirrors: frozenset[UUID]


class _BridgePlanner:
    """Plans one bridge, part by part."""

    def __init__(self) -> None:
        self._looked: tuple[object, ...] = ()
        self._seen: dict[UUID, SeenPort] = {}
        self._access = False
        """Whether some port is an access port."""
        self._tunnels: list[Port] = []
        self._protected: list[Port] = []
        self._context: BridgeContext | None = None
        self._parts: dict[UUID, _ComponentPlanner] = {}

    def plan(self, given: _Given, room: int, unplaced: frozenset[UUID]) -> list[Plan]:
        """The plans of its parts, with `room` mirrors offloaded at most."""
        self._look(given)
        known_rows = given.db.mirrors
        mirrors = [known_rows[u].uncounted for u in sorted(given.bridge.mirrors) if u in known_rows]
        layout = BridgePorts(self._seen, mirrors)
        common = self._make_common(given, layout)
        if common != self._context:
            self._context, self._parts = common, {}
        known = self._parts
        self._parts = {}
        for part in split(layout):
            first = part.mirrors[0].uuid
            planner = known.get(first)
            if planner is None or planner.part != part:
                planner = _ComponentPlanner(part, self._context)
            self._parts[first] = planner
        candidates = [uuid for planner in self._parts.values() for uuid in planner.offloadable]
        left_out = dict.fromkeys(unplaced, row_reasons.NO_SLOT.told(limit=MAX_MIRRORS))
        if len(candidates) > room:
            reason = row_reasons.MIRRORS_PER_HOST.told(limit=MAX_MIRRORS)
            left_out |= dict.fromkeys(sorted(candidates)[max(room, 0) :], reason)
        return [planner.plan(left_out) for planner in self._parts.values()]

    def retry(self) -> None:
        """Forgets the parts that failed."""
        self._parts = {uuid: part for uuid, part in self._parts.items() if not part.failed}

    def _look(self, given: _Given) -> None:
        """Takes in the ports; those that are as they were stay the same objects."""
        db, devices = given.db, given.devices
        bridge = given.bridge
        toggles = db.revalidation_toggles
        looked = (bridge.ports, bridge.datapath_type, db.ports, db.interfaces, toggles, devices)
        if looked == self._looked:
            return
        self._looked = looked
        seen = {}
        for uuid in bridge.ports:
            if uuid in db.ports:
                found = SeenPort.of(db.as_intended(db.ports[uuid]), bridge, db, devices)
                before = self._seen.get(uuid)
                seen[uuid] = before if before == found else found
        self._seen = seen
        self._access = any(each.vlans.mode == ACCESS for each in seen.values())
        self._tunnels = [each.port for each in seen.values() if each.vlans.mode == TUNNEL]
        self._protected = [each.port for each in seen.values() if each.port.protected]

    def _make_common(self, given: _Given, layout: BridgePorts) -> BridgeContext:
        outputs = (output for mirror in layout.mirrors for output in layout.outputs(mirror))
        inner = [port for port in self._protected if port.uuid not in layout.reserved]
        return BridgeContext(
            db=given.db.settings,
            bridge=given.bridge.settings,
            attach=given.attach,
            refused=given.refused,
            surroundings=given.surroundings,
            traits=given.openflow.traits.get(given.bridge.name),
            flags=given.openflow.port_flags.get(given.bridge.name, PortFlags()),
            multi_bridge_mirrors=given.multi_bridge_mirrors,
            over_native_limit=is_over_native_limit(layout),
            has_untagged_output=self._access
            and any(layout.vlans(each).mode == ACCESS for each in outputs),
            tunnels=tuple(port for port in self._tunnels if port.uuid not in layout.reserved),
            protected=inner[0].name if inner else None,
        )


class _ComponentPlanner:
    """Plans a part of a bridge: judges its mirrors beside each other."""

    def __init__(self, part: MirrorComponent, common: BridgeContext) -> None:
        self.part = part
        self.failed = False
        """Whether a mirror was left to Open vSwitch by a fault of ours."""
        self._topology = Topology(part, common)
        self._checker = OffloadChecker(self._topology)
        self._mirrors = part.mirrors
        self._snaplens = {mirror.cut for mirror in part.mirrors}
        self._copying_to: dict[UUID, list[int]] = defaultdict(list)
        """The places, in `_mirrors`, of those that copy to an output."""
        self.decisions: dict[UUID, OffloadDecision] = {}
        too_many = self._too_many()
        for place, mirror in enumerate(self._mirrors):
            if too_many is not None:
                self._leave(mirror, too_many)
                continue
            try:
                decision = self._checker.decision(mirror)
                for output in self._topology.outputs(mirror):
                    self._copying_to[output.uuid].append(place)
            except Exception as error:
                decision = OffloadDecision(NATIVE, self._fault(mirror, error))
            self._settle(mirror, decision)
        self._judged = dict(self.decisions)
        self._left_out: Mapping[UUID, str] | None = None
        self._plan = Plan()

    def _too_many(self) -> str | None:
        """Why none of the mirrors is looked at: that would take too long."""
        if len(self._mirrors) > MAX_MIRRORS:
            return row_reasons.MIRRORS_PER_COMPONENT.told(limit=MAX_MIRRORS)
        sides = (self._topology.source_uuids, self._topology.destination_uuids)
        if sum(len(side(mirror)) for mirror in self._mirrors for side in sides) > MAX_RULES:
            return row_reasons.PORTS_PER_COMPONENT.told(limit=MAX_RULES)
        return None

    @property
    def offloadable(self) -> list[UUID]:
        """The mirrors that can be offloaded, each by itself."""
        return [uuid for uuid, decision in self._judged.items() if decision.state == OFFLOADED]

    def plan(self, left_out: Mapping[UUID, str]) -> Plan:
        """The plan; there is no room for the mirrors in `left_out`, as it says."""
        here = {uuid: why for uuid, why in left_out.items() if uuid in self._judged}
        if here != self._left_out:
            self._left_out = here
            self.decisions = dict(self._judged)
            for mirror in self._mirrors:
                if mirror.uuid in here and self.decisions[mirror.uuid].state == OFFLOADED:
                    self._leave(mirror, here[mirror.uuid])
            try:
                rules = self._rules()
            except Exception as error:
                rules = self._rules_of_sound(error)
            hooks = {hook: tuple(each) for hook, each in rules.items()}
            self._plan = Plan(self.decisions, hooks)
        return self._plan

    @property
    def _offloaded(self) -> list[Mirror]:
        return [m for m in self._mirrors if self.decisions[m.uuid].state == OFFLOADED]

    def _rules(self) -> dict[Hook, list[Rule]]:
        """The rules; settles the decisions."""
        for _ in range(_MOST_ROUNDS):
            self._spread()
            following = TraversalState()
            rules = make_rules(self._topology, {m.uuid for m in self._offloaded}, following)
            reasons = (
                dict.fromkeys(following.lost, row_reasons.ENDLESS_COPIES.told())
                or {uuid: why.told() for uuid, why in following.undecided.items()}
                or dict(self._obstacles(rules))
            )
            if not reasons:
                return rules
            for mirror in self._offloaded:
                if mirror.uuid in reasons:
                    self._leave(mirror, reasons[mirror.uuid])
        self._leave_all()
        return {}

    def _rules_of_sound(self, error: Exception) -> dict[Hook, list[Rule]]:
        """The rules without the mirrors that fail by themselves; if that is no way, without all."""
        offloaded = self._offloaded
        for mirror in offloaded if 1 < len(offloaded) <= _MOST_ROUNDS else ():
            try:
                make_rules(self._topology, {mirror.uuid}, TraversalState())
            except Exception as fault:
                self._leave(mirror, self._fault(mirror, fault))
        try:
            if len(self._offloaded) < len(offloaded):
                return self._rules()
        except Exception as again:
            error = again
        for mirror in self._offloaded:
            self._leave(mirror, self._fault(mirror, error))
        return {}

    def _fault(self, mirror: Mirror, error: Exception) -> str:
        self.failed = True
        return printable(unexpected.reason(f"mirror {mirror.name}", error))

    def _leave_all(self) -> None:
        for mirror in self._offloaded:
            self._leave(mirror, row_reasons.DEPENDENT.told())

    def _settle(self, mirror: Mirror, decision: OffloadDecision) -> None:
        if decision.state == NATIVE and self._checker.lacks_room(mirror):
            decision = row_reasons.NO_ROOM.decision(limit=MAX_NATIVE_MIRRORS)
        self.decisions[mirror.uuid] = decision

    def _leave(self, mirror: Mirror, reason: str) -> None:
        self._settle(mirror, OffloadDecision(NATIVE, printable(reason)))

    # Mirrors beside each other.

    def _spread(self) -> None:
        """Leaves to OVS what depends on the copies of a mirror that OVS keeps."""
        for _ in range(_MOST_ROUNDS):
            if not self._offloaded:
                return
            changed = False
            native = _Natives(self._topology, self._mirrors, self.decisions)
            for mirror in self._offloaded:
                try:
                    reason = self._tie(mirror, native)
                except Exception as error:
                    reason = self._fault(mirror, error)
                if reason is not None:
                    self._leave(mirror, reason)
                    changed = True
            if not changed:
                return
        self._leave_all()

    def _tie(self, mirror: Mirror, native: _Natives) -> str | None:
        reason = native.tie(mirror)
        if reason is not None:
            return reason
        for other in self._offloaded if len(self._snaplens) > 1 else ():
            if (
                mirror.cut != other.cut
                and _output_of(mirror) == _output_of(other)
                and self._meet(mirror, other)
            ):
                return packet_reasons.ANOTHER_SNAPLEN.told(mirror=other.name)
        return self._lost_behind(mirror, native)

    def _meet(self, mirror: Mirror, other: Mirror) -> bool:
        """Whether a port is a source, or a destination, of both."""
        sides = (self._topology.source_uuids, self._topology.destination_uuids)
        return any(not set(side(mirror)).isdisjoint(side(other)) for side in sides)

    def _lost_behind(self, mirror: Mirror, native: _Natives) -> str | None:
        """Why copies that the mirror selects can't be followed to it."""
        selected = self._topology.destination_uuids(mirror)
        for place, uuid, tie in self._behind(mirror, selected, native):
            other = self._mirrors[place]
            if tie is not None:
                return tie.told(mirror=other.name)
            if mirror.filter and parse(mirror.filter).on_tags:
                return packet_reasons.COPIES_FILTERED_BY_TAGS.told(mirror=other.name)
            output = self._topology.seen[uuid]
            followed = output.vlans.mode in (KEEP, ACCESS)
            if not followed or output.vlans.priority != PRIORITY_NEVER:
                return packet_reasons.COPIES_CHANGED.told(mirror=other.name, port=output.port.name)
            if self._minds_lost_tags(mirror):
                return packet_reasons.COPIES_LOST_TAGS.told(mirror=other.name)
        return None

    def _behind(
        self, mirror: Mirror, selected: Iterable[UUID], native: _Natives
    ) -> list[tuple[int, UUID, Reason | None]]:
        """Others whose copies are selected: of each output, the first of those that are alike.

        The place and output of each, and of native ones, the reason that they are.
        """
        traits = self._topology.context.traits
        beside = traits is not None and traits.outputs
        found: list[tuple[int, UUID, Reason | None]] = []
        for uuid in selected:
            for place in self._copying_to.get(uuid, ()):
                other = self._mirrors[place]
                if other is not mirror and self.decisions[other.uuid].state == OFFLOADED:
                    found.append((place, uuid, None))
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
        for output in self._topology.outputs(mirror):
            vlans = self._topology.vlans(output)
            inner = self._topology.context.db.vlan_limit > 1 and vlans.out_mode in (
                NATIVE_VLAN,
                TUNNEL,
            )
            if inner or vlans.priority != PRIORITY_NEVER:
                return True
        return False

    def _obstacles(self, rules: Mapping[Hook, list[Rule]]) -> Iterator[tuple[UUID, str]]:
        """Why the rules can't be had, by mirror."""
        for each in rules.values():
            for rule in each[MAX_RULES_PER_HOOK:]:
                yield rule.mirror, row_reasons.RULES_PER_HOOK.told(limit=MAX_RULES_PER_HOOK)
            for rule in each:
                if rule.to_vlan and rule.edit.second_tag and rule.edit.out_mode in (ACCESS, TUNNEL):
                    yield rule.mirror, packet_reasons.SECOND_TAG.told()
        yield from self._unfinished(rules)
        yield from _undecided(rules)

    def _unfinished(self, rules: Mapping[Hook, list[Rule]]) -> Iterator[tuple[UUID, str]]:
        """Mirrors whose copies are to be changed by an output's hook that can't be had."""
        finished: dict[int, set[UUID]] = defaultdict(set)
        for rule in (rule for each in rules.values() for rule in each):
            if rule.finishing_hook is not None:
                finished[rule.output].add(rule.mirror)
        for port in self._topology.ports if finished else ():
            for interface in self._topology.interfaces(port):
                device = self._topology.device(interface)
                if device is None or device.ifindex not in finished:
                    continue
                try:
                    self._checker.check_hook(device.ifindex, interface, f"output port {port.name}")
                except NotOffloadedError as why:
                    yield from ((mirror, str(why)) for mirror in finished[device.ifindex])


def _output_of(mirror: Mirror) -> tuple[UUID | None, int | None]:
    """What mirrors with the same output share: `mirror_update_dups` in
    `ofproto/ofproto-dpif-mirror.c`.
    """
    return mirror.output_port, mirror.output_vlan if mirror.output_port is None else None


def _changed_outputs(topology: Topology, mirror: Mirror) -> Iterator[UUID]:
    """Outputs where OVS's copies leave otherwise than the packets did."""
    cut = bool(mirror.cut)
    for output in topology.outputs(mirror):
        if cut or mirror.output_port is None or not topology.vlans(output).plain:
            yield output.uuid


class _Natives:
    """The mirrors that OVS keeps, by what ties others to them: the first of each kind."""

    def __init__(
        self,
        topology: Topology,
        mirrors: Sequence[Mirror],
        decisions: Mapping[UUID, OffloadDecision],
    ) -> None:
        self._topology = topology
        self._mirrors = mirrors
        self._by_output: dict[tuple[UUID | None, int | None], int] = {}
        self._selecting: dict[UUID, int] = {}
        self.copying: dict[UUID, int] = {}
        """By output: the place of one that copies to it."""
        self.changing: dict[UUID, int] = {}
        """By output: the place of one whose copies leave there otherwise than packets did."""
        here = [n for n, each in enumerate(mirrors) if decisions[each.uuid].state == NATIVE]
        for place in here:
            self._by_output.setdefault(_output_of(mirrors[place]), place)
            for uuid in topology.destination_uuids(mirrors[place]):
                self._selecting.setdefault(uuid, place)
            for output in topology.outputs(mirrors[place]):
                self.copying.setdefault(output.uuid, place)
            for uuid in _changed_outputs(topology, mirrors[place]):
                self.changing.setdefault(uuid, place)
        self._follow_changes(here)

    def _follow_changes(self, here: Sequence[int]) -> None:
        """Copies of changed copies are changed, too."""
        known = 0
        while known < len(self.changing):
            known = len(self.changing)
            for place in here:
                selected = self._topology.destination_uuids(self._mirrors[place])
                if not self.changing.keys().isdisjoint(selected):
                    for output in self._topology.outputs(self._mirrors[place]):
                        self.changing.setdefault(output.uuid, place)

    def tie(self, mirror: Mirror) -> str | None:
        """Why the mirror has to be OVS's, too."""
        last = len(self._mirrors)
        shares = self._by_output.get(_output_of(mirror), last)
        outputs = self._topology.outputs(mirror) if self._selecting else ()
        selects = min((self._selecting.get(output.uuid, last) for output in outputs), default=last)
        if shares < last and shares <= selects:
            return packet_reasons.NATIVE_SHARES_OUTPUT.told(mirror=self._mirrors[shares].name)
        if selects < last:
            return packet_reasons.NATIVE_SELECTS_OUTPUT.told(mirror=self._mirrors[selects].name)
        return None


def _undecided(rules: Mapping[Hook, list[Rule]]) -> Iterator[tuple[UUID, str]]:
    """Mirrors with one output, where it depends on which comes first how long a copy is."""
    here: dict[int, set[int]] = defaultdict(set)
    mirrors: dict[int, set[UUID]] = defaultdict(set)
    undecided = set()
    for each in rules.values():
        at_hook: dict[int, int] = {}
        for rule in each:
            here[rule.group].add(rule.edit.snaplen)
            mirrors[rule.group].add(rule.mirror)
            if at_hook.setdefault(rule.group, rule.edit.snaplen) != rule.edit.snaplen or rule.dedup:
                undecided.add(rule.group)
    for group in undecided:
        if len(here[group]) > 1:
            reason = packet_reasons.UNDECIDED_SNAPLEN.told()
            yield from ((mirror, reason) for mirror in mirrors[group])
