"""What holds for the plan of any database, however odd."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeVar
from uuid import UUID

from builders import World
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovs_ebpf_tap.decide.mirror_filter import InvalidFilterError, UnsupportedFilterError, parse
from ovs_ebpf_tap.decide.planner import Planner, make_plan
from ovs_ebpf_tap.decide.vlan import PortVlans
from ovs_ebpf_tap.model.desired import (
    CLSACT,
    EGRESS,
    INGRESS,
    INVALID,
    NATIVE,
    NOTHING_SELECTED,
    OFFLOADED,
    TCX,
    Hook,
    Plan,
    Rule,
)
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.flow_traits import FlowTraits, OpenFlow, PortFlags
from ovs_ebpf_tap.model.frame_rewrite import ALL, vlan_set
from ovs_ebpf_tap.model.limits import MAX_RULES_PER_HOOK
from ovs_ebpf_tap.model.rows import (
    MODE_KEY,
    PROTECTED_KEY,
    SELECT_VLAN_KEY,
    Bridge,
    Database,
    Interface,
    Mirror,
    Port,
)
from ovs_ebpf_tap.util.text import LONGEST

T = TypeVar("T")

# Of any characters, and now and then as long as nobody would have it.
NAMES = st.text(max_size=6) | st.text(st.characters(), min_size=1).map(lambda text: text * 3000)
# Few, so that ports share them.
VLANS = st.sampled_from([0, 1, 5, 7, 4094, 4095])
PARKED = 1 << 4095


def mostly(value: T, other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """The plain value most of the time, so that many mirrors are offloaded."""
    return one_in(40, other, st.just(value))


def one_in(n: int, rare: st.SearchStrategy[T], usual: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    # Not 0, nor n: Hypothesis likes the ends of a range.
    return st.integers(0, n).flatmap(lambda number: rare if number == n // 3 else usual)


@st.composite
def modes(draw: st.DrawFn) -> dict[str, str]:
    mode = draw(mostly(None, st.sampled_from([None, "offload", "native", ""]) | NAMES))
    return {} if mode is None else {MODE_KEY: mode}


@dataclass(frozen=True)
class PlanInput:
    """What `make_plan` is given."""

    db: Database
    devices: dict[str, Device]
    attach: str
    refused: dict[int, str]
    openflow: OpenFlow

    def plan(self) -> Plan:
        return make_plan(self.db, self.devices, self.attach, self.refused, self.openflow)


VLAN_MODES = ["trunk", "access", "native-tagged", "native-untagged", "dot1q-tunnel"]
VLAN_COLUMNS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "tag": st.none() | VLANS,
        "trunks": st.lists(VLANS, max_size=3, unique=True).map(tuple),
        "cvlans": one_in(4, st.lists(VLANS, max_size=2, unique=True).map(tuple), st.just(())),
        "vlan_mode": st.sampled_from([None, *VLAN_MODES]),
        "priority_tags": one_in(6, st.sampled_from(["no", "true", "always", "odd"]), st.none()),
        "qinq_ethtype": st.sampled_from([None, "802.1q", "802.1ad"]),
    }
)
PORT_COLUMNS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "protected": one_in(5, st.just(True), st.just(False)),
        "type": one_in(
            4,
            st.sampled_from(["system", "internal", "tap"]),
            mostly("", st.sampled_from(["patch", "vxlan"]) | NAMES),
        ),
        "policed": mostly(False, st.booleans()),
    }
)
DEVICES = mostly(
    {},
    st.one_of(
        st.none(),
        st.fixed_dictionaries(
            {
                "mtu": st.integers(0, 65535),
                "up": st.booleans(),
                "running": st.booleans(),
                "ethernet": mostly(True, st.booleans()),
            }
        ),
    ),
)
STATES: st.SearchStrategy[dict[str, Any]] = one_in(
    20,
    st.fixed_dictionaries(
        {
            "away": st.booleans(),
            "refused": st.booleans(),
            "ifindex": st.sampled_from([None, 0, 100, 101]),
        }
    ),
    st.just({}),
)
MIRROR_COLUMNS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "select_all": mostly(False, st.booleans()),
        "select_vlan": one_in(4, st.lists(VLANS, min_size=1).map(tuple), st.just(())),
        "output_vlan": mostly(None, VLANS),
        "snaplen": one_in(6, mostly(200, st.sampled_from([14, 160, 65535])), st.none()),
        "filter": one_in(
            4,
            mostly("tcp", st.sampled_from(["", "ct_state=+trk"]) | NAMES)
            | st.sampled_from(["udp", "dl_vlan=5", "tcp,dl_vlan=5"]),
            st.none(),
        ),
    }
)
TRAITS = mostly(FlowTraits(), st.none() | st.builds(FlowTraits, *[st.booleans()] * 4))
VERSIONS = st.sampled_from([None, "2.17.0", "3.1.0", "3.1.3", "3.4.0", "3.5.0", "odd"])


def mostly_from(near: list[UUID], far: list[UUID]) -> st.SearchStrategy[UUID]:
    """A port of the own bridge most of the time."""
    return one_in(40, st.sampled_from(far), st.sampled_from(near or far))


@st.composite
def cases(draw: st.DrawFn) -> PlanInput:
    world = World()
    ports: list[list[UUID]] = []
    for b in range(draw(st.integers(1, 2))):
        bridge = f"br{b}"
        world.add_bridge(
            bridge,
            datapath_type=draw(mostly("", st.sampled_from(["system", "netdev"]) | NAMES)),
            spanning_tree=draw(mostly(False, st.booleans())),
            external_ids=draw(modes()),
        )
        for p in range(draw(st.integers(0, 7))):
            columns = draw(PORT_COLUMNS) | draw(one_in(2, VLAN_COLUMNS, st.just({})))
            members = draw(one_in(10, st.integers(2, 3), st.just(1)))
            names = [f"{bridge}-{p}-{n}" for n in range(members)] if members > 1 else []
            device, state = draw(DEVICES), draw(STATES)
            world.add_port(
                f"{bridge}-{p}",
                bridge=bridge,
                members=names,
                device=device,
                state=state,
                **columns,
            )
            addresses = [world.devices[name].address for name in names if name in world.devices]
            world.set_port(
                f"{bridge}-{p}",
                bond_mode=draw(mostly(None, st.sampled_from(["active-backup", "balance-slb"]))),
                bond_active_member=draw(st.sampled_from([*addresses, None])),
                name=draw(NAMES),
            )
        world.traits[bridge] = draw(TRAITS)
        anywhere = st.frozensets(st.sampled_from([*world.interfaces, "nowhere"]), max_size=2)
        world.port_flags[bridge] = draw(
            mostly(PortFlags(), st.builds(PortFlags, anywhere, anywhere, anywhere))
        )
        ports.append(list(world.bridges[bridge].ports))
    everywhere = [uuid for home in ports for uuid in home]
    nowhere = UUID(int=0xDEAD)
    for m in range(draw(st.integers(0, 7))):
        b = draw(st.integers(0, len(ports) - 1))
        some = mostly_from(ports[b], [*everywhere, nowhere])
        world.add_mirror(f"m{m}", bridge=f"br{b}", **draw(MIRROR_COLUMNS))
        ids = draw(modes())
        if draw(st.booleans()):
            parked = st.lists(VLANS, max_size=2).map(lambda vlans: ",".join(map(str, vlans)))
            ids[SELECT_VLAN_KEY] = draw(one_in(3, parked | st.text(max_size=4), st.just("")))
            world.set_mirror(f"m{m}", select_vlan=(4095,))
        if draw(mostly(False, st.booleans())):
            ids[PROTECTED_KEY] = draw(st.sampled_from(["true", "false", "odd"]))
        world.set_mirror(
            f"m{m}",
            name=draw(NAMES),
            contended=draw(mostly(False, st.booleans())),
            kept_vlans=draw(st.sampled_from(["", "5"])),
            external_ids=ids,
            output_port=draw(some),
            select_src_port=tuple(draw(st.lists(some, max_size=4, unique=True))),
            select_dst_port=tuple(draw(st.lists(some, max_size=4, unique=True))),
        )
        if draw(one_in(4, st.just(True), st.just(False))):
            world.set_mirror(f"m{m}", output_port=None, output_vlan=draw(mostly(5, VLANS)))
    if draw(mostly(False, st.booleans())):
        world.set_bridge("br0", mirrors=(*world.bridges["br0"].mirrors, nowhere))
    world.settings = {
        "external_ids": draw(modes()),
        "hw_offload": draw(mostly(False, st.booleans())),
        "userspace_tso": draw(mostly(False, st.booleans())),
        "vlan_limit": draw(one_in(4, st.just(2), st.just(1))),
        "ovs_version": draw(VERSIONS),
    }
    refused = draw(mostly(frozenset(), st.frozensets(st.integers(100, 110), max_size=2)))
    return PlanInput(
        world.db,
        world.devices,
        draw(st.sampled_from([TCX, CLSACT])),
        dict.fromkeys(refused, draw(NAMES)),
        world.openflow,
    )


@settings(max_examples=examples(400), deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_any_plan(case: PlanInput) -> None:
    plan = case.plan()
    check_verdicts(case, plan)
    for hook, rules in plan.hooks.items():
        check_hook(case, hook, rules)
        for rule in rules:
            check_rule(case, plan, rule)
    check_hooks_are_complete(case, plan)
    check_flags(plan)
    check_ties(case, plan)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(case: PlanInput, rng: random.Random) -> None:
    """That of references in a row does not vary: OVSDB's sets are sorted."""

    def shuffled(rows: Mapping[Any, T]) -> dict[Any, T]:
        items = list(rows.items())
        rng.shuffle(items)
        return dict(items)

    db = case.db
    other = replace(
        case,
        db=replace(
            db,
            bridges=shuffled(db.bridges),
            ports=shuffled(db.ports),
            interfaces=shuffled(db.interfaces),
            mirrors=shuffled(db.mirrors),
        ),
        devices=shuffled(case.devices),
    )
    assert other.plan() == case.plan()


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(cases(), min_size=1, max_size=2), st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_earlier_ones(some: list[PlanInput], rng: random.Random) -> None:
    case = some[0]
    planner = Planner(case.attach)
    for _ in range(6):
        plan = planner.plan(case.db, case.devices, case.refused, case.openflow)
        assert plan == case.plan()
        again = replace(case.db, next_cfg=case.db.next_cfg + 1)
        assert planner.plan(again, dict(case.devices), case.refused, case.openflow) is plan
        case = a_bit_different(case, some[-1], rng)


def a_bit_different(case: PlanInput, other: PlanInput, rng: random.Random) -> PlanInput:
    """Some things of the case as they are in the other one, or gone."""

    def mixed(here: Mapping[Any, T], there: Mapping[Any, T]) -> dict[Any, T]:
        found = dict(here)
        for key in rng.sample(sorted(here), min(len(here), rng.randrange(3))):
            if key in there and rng.random() < 0.7:
                found[key] = there[key]
            elif rng.random() < 0.3:
                del found[key]
        return found

    db = replace(
        case.db,
        bridges=mixed(case.db.bridges, other.db.bridges) if rng.random() < 0.1 else case.db.bridges,
        ports=mixed(case.db.ports, other.db.ports),
        interfaces=mixed(case.db.interfaces, other.db.interfaces),
        mirrors=mixed(case.db.mirrors, other.db.mirrors),
        vlan_limit=rng.choice([case.db.vlan_limit] * 9 + [other.db.vlan_limit]),
    )
    openflow = OpenFlow(
        mixed(case.openflow.traits, other.openflow.traits),
        mixed(case.openflow.port_flags, other.openflow.port_flags),
    )
    devices = mixed(case.devices, other.devices)
    return replace(case, db=db, devices=devices, openflow=openflow)


def homes(case: PlanInput) -> Iterator[tuple[Bridge, Mirror]]:
    """Every mirror that a bridge refers to, with that bridge."""
    for bridge in case.db.bridges.values():
        for uuid in bridge.mirrors:
            if uuid in case.db.mirrors:
                yield bridge, case.db.mirrors[uuid]


def home_of(case: PlanInput, mirror: Mirror) -> Bridge:
    return next(bridge for bridge, each in homes(case) if each == mirror)


def refuses(mirror: Mirror) -> bool:
    """Whether OVS does not take the mirror's filter."""
    try:
        parse(mirror.filter or "")
    except InvalidFilterError:
        return True
    except UnsupportedFilterError:
        return False
    return False


def ports_of(case: PlanInput, bridge: Bridge) -> list[Port]:
    return [case.db.ports[uuid] for uuid in bridge.ports if uuid in case.db.ports]


def interfaces_of(case: PlanInput, port: Port) -> list[Interface]:
    return [case.db.interfaces[uuid] for uuid in port.interfaces]


def outputs_of(case: PlanInput, mirror: Mirror) -> list[Port]:
    """Where a valid mirror's copies leave."""
    if mirror.output_port is not None:
        return [case.db.ports[mirror.output_port]]
    bridge = home_of(case, mirror)
    outputs = {each.output_port for home, each in homes(case) if home is bridge}
    assert mirror.output_vlan is not None
    return [
        port
        for port in ports_of(case, bridge)
        if port.uuid not in outputs and PortVlans.of(port).carries(mirror.output_vlan)
    ]


def output_devices(case: PlanInput, port: Port) -> list[tuple[Interface, Device]]:
    """What may be used of an output port."""
    found = [
        (interface, case.devices[interface.name])
        for interface in interfaces_of(case, port)
        if interface.name in case.devices
    ]
    if not port.is_bond:
        return found
    return [(i, device) for i, device in found if device.address == port.bond_active_member]


def check_verdicts(case: PlanInput, plan: Plan) -> None:
    assert set(plan.decisions) == {mirror.uuid for _, mirror in homes(case)}
    for decision in plan.decisions.values():
        assert decision.state in (OFFLOADED, NATIVE, INVALID)
        told = decision.reason is None or decision == NOTHING_SELECTED
        assert told == (decision.state == OFFLOADED)
        assert decision.reason is None or is_a_line(decision.reason)
    for bridge, mirror in homes(case):
        here = mirror.output_port in set(bridge.ports) & set(case.db.ports)
        to_vlan = mirror.output_port is None and mirror.output_vlan is not None
        invalid = not (here or to_vlan) or refuses(mirror)
        assert (plan.decisions[mirror.uuid].state == INVALID) == invalid


def is_a_line(text: str) -> bool:
    """Whether it is fit to be read; the longest way to spell a character takes ten."""
    return text.isprintable() and 0 < len(text) <= 10 * LONGEST + len("...")


def check_hook(case: PlanInput, hook: Hook, rules: tuple[Rule, ...]) -> None:
    (interface,) = (
        interface
        for interface in case.db.interfaces.values()
        if interface.name in case.devices and case.devices[interface.name].ifindex == hook.ifindex
    )
    (port,) = (port for port in case.db.ports.values() if interface.uuid in port.interfaces)
    assert hook.ifindex not in case.refused
    assert (interface.away, interface.refused) == (False, False)
    assert not (case.attach == CLSACT and interface.policed)
    assert 0 < len(rules) <= MAX_RULES_PER_HOOK
    groups = [group for group, _ in groupby(rule.group for rule in rules)]
    assert len(set(groups)) == len(groups)
    assert len({rule.arrival for rule in rules}) == 1
    assert len({rule.ingress_policy for rule in rules}) == 1
    assert len({rule.edit.limit for rule in rules}) == 1
    inward = interface.type in ("internal", "tap")
    assert (hook.direction == INGRESS) == (inward != rules[0].arrival)
    check_ingress_policy(case, port, rules[0])
    for _, same in groupby(rules, key=lambda rule: rule.group):
        check_group(list(same))
    for rule in rules:
        protected = case.db.as_intended(port).protected
        assert not (protected and case.db.as_intended(output_port(case, rule)).protected)


def check_ingress_policy(case: PlanInput, port: Port, rule: Rule) -> None:
    """Only a trunk of all VLANs lets every frame through as it is, if the datapath does."""
    vlans = PortVlans.of(port)
    netdev = home_of(case, case.db.mirrors[rule.mirror]).datapath_type == "netdev"
    taps = any(each.type in ("internal", "tap") for each in interfaces_of(case, port))
    limited = rule.arrival and netdev and not taps and not case.db.userspace_tso
    assert (rule.ingress_policy is None) == (vlans.plain and not limited)
    if rule.ingress_policy is not None:
        assert bool(rule.ingress_policy.max_len) == limited
        assert rule.ingress_policy.tag == vlans.tag
        assert (rule.ingress_policy.admitted == ALL) == (
            vlans.leaving.admitted == ALL if not rule.arrival else vlans.admitted == ALL
        )


def check_group(rules: list[Rule]) -> None:
    """Rules of one selection are one mirror's, for the same packets, with an output each.

    What a selection takes for sure, a later one need not.
    """
    taken = 0
    selections = set()
    for selection, same in groupby(rules, key=lambda rule: rule.selection):
        assert selection not in selections
        selections.add(selection)
        first, *others = same
        selecting = (first.mirror, first.vlans, first.match, first.unreserved)
        for rule in others:
            assert (rule.mirror, rule.vlans, rule.match, rule.unreserved) == selecting
        outputs = [rule.output for rule in (first, *others)]
        assert len(set(outputs)) == len(outputs)
        selected = ALL if first.vlans is None else first.vlans
        assert first.vlans is None or not first.vlans & taken
        assert selected & ~taken
        if first.match is None and not first.unreserved:
            taken |= selected


def output_port(case: PlanInput, rule: Rule) -> Port:
    (port,) = (
        port
        for port in case.db.ports.values()
        for interface in interfaces_of(case, port)
        if interface.name in case.devices and case.devices[interface.name].ifindex == rule.output
    )
    return port


def check_rule(case: PlanInput, plan: Plan, rule: Rule) -> None:
    mirror = case.db.mirrors[rule.mirror]
    assert plan.decisions[rule.mirror].state == OFFLOADED
    output = output_port(case, rule)
    assert output in outputs_of(case, mirror)
    ((interface, device),) = output_devices(case, output)
    assert rule.output == device.ifindex
    assert (interface.away, interface.refused) == (False, False)
    assert rule.to_ingress is (interface.type in ("internal", "tap"))
    assert rule.vlans is None or (rule.vlans and not rule.vlans & PARKED)
    if mirror.output_port is not None:
        assert rule.group == device.ifindex
    else:
        assert rule.to_vlan
        assert rule.unreserved
        assert device.up
    if mirror.filter:
        assert rule.match is not None
    assert rule.edit.snaplen == mirror.cut
    assert rule.edit.netdev is (home_of(case, mirror).datapath_type == "netdev")
    if rule.to_ingress:
        assert not rule.edit.snaplen
    if rule.finishing_hook is not None:
        assert device.ifindex not in case.refused
        assert not (case.attach == CLSACT and interface.policed)


def check_hooks_are_complete(case: PlanInput, plan: Plan) -> None:
    """Each selected port's hooks copy what the mirror selects of it to each of its outputs."""
    for bridge, mirror in homes(case):
        if plan.decisions[mirror.uuid].state != OFFLOADED:
            continue
        here = ports_of(case, bridge)
        reserved = {each.output_port for home, each in homes(case) if home is bridge}
        for arrival, chosen in ((True, mirror.select_src_port), (False, mirror.select_dst_port)):
            for port in here:
                if not mirror.select_all and port.uuid not in chosen:
                    continue
                if port.uuid in reserved and (arrival or mirror.select_all):
                    continue
                check_port_is_complete(case, plan, mirror, port, arrival)


def check_port_is_complete(
    case: PlanInput, plan: Plan, mirror: Mirror, port: Port, arrival: bool
) -> None:
    flags = case.openflow.port_flags[home_of(case, mirror).name]
    names = {interface.name for interface in interfaces_of(case, port)}
    if arrival and names & flags.no_receive:
        return
    vlans = PortVlans.of(port).inside & vlan_set(mirror.desired_vlans) & ~PARKED
    if mirror.output_port is None:
        vlans &= ~(1 << (mirror.output_vlan or 0))
    match = parse(mirror.filter) if mirror.filter else None
    for interface in interfaces_of(case, port):
        if interface.name not in case.devices:
            continue
        inward = (interface.type in ("internal", "tap")) != arrival
        hook = Hook(case.devices[interface.name].ifindex, INGRESS if inward else EGRESS)
        for output in outputs_of(case, mirror):
            if case.db.as_intended(port).protected and case.db.as_intended(output).protected:
                continue
            for _, device in output_devices(case, output):
                if mirror.output_port is None and not device.up:
                    continue
                copied = 0
                for rule in plan.hooks.get(hook, ()):
                    to_vlan = mirror.output_port is None and rule.to_vlan
                    there = rule.output == device.ifindex and (to_vlan or rule.group == rule.output)
                    if there and rule.match in (None, match):
                        copied |= ALL if rule.vlans is None else rule.vlans
                assert not vlans & ~copied


def check_flags(plan: Plan) -> None:
    """Packets are told apart where they have to be, and nothing loops."""
    users: dict[int, dict[Hook, bool]] = defaultdict(dict)
    for hook, rules in plan.hooks.items():
        for rule in rules:
            users[rule.group][hook] = rule.arrival
    departing = {hook.ifindex for hook, rules in plan.hooks.items() if not rules[0].arrival}
    snaplens: dict[int, set[int]] = defaultdict(set)
    for rules in plan.hooks.values():
        for rule in rules:
            arrivals = users[rule.group].values()
            assert rule.dedup is (len(arrivals) > 1 and not all(arrivals))
            assert rule.to_hook is (rule.output in departing)
            if rule.dedup:
                snaplens[rule.group].add(rule.edit.snaplen)
    assert all(len(each) == 1 for each in snaplens.values())


def check_ties(case: PlanInput, plan: Plan) -> None:
    """Open vSwitch's copies and ours do not meet at one output, nor depend on each other."""
    for bridge, mirror in homes(case):
        if plan.decisions[mirror.uuid].state != OFFLOADED:
            continue
        outputs = {port.uuid for port in outputs_of(case, mirror)}
        for home, other in homes(case):
            if home is not bridge or plan.decisions[other.uuid].state != NATIVE:
                continue
            if mirror.output_port is not None:
                assert other.output_port != mirror.output_port
            elif other.output_port is None:
                assert other.output_vlan != mirror.output_vlan
            assert not outputs & set(other.select_dst_port)
            assert not (outputs and other.select_all)
