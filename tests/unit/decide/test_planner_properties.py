"""What holds for the plan of any database, however odd."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, TypeVar

from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_inputs import PARKED, PlanInput, cases

from ovs_ebpf_tap.decide.mirror_filter import InvalidFilterError, UnsupportedFilterError, parse
from ovs_ebpf_tap.decide.planner import Planner
from ovs_ebpf_tap.decide.vlan import PortVlans
from ovs_ebpf_tap.model.desired import (
    CLSACT,
    EGRESS,
    INGRESS,
    INVALID,
    NATIVE,
    NOTHING_SELECTED,
    OFFLOADED,
    Hook,
    Plan,
    Rule,
)
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.flow_traits import OpenFlow
from ovs_ebpf_tap.model.frame_rewrite import ALL, vlan_set
from ovs_ebpf_tap.model.limits import MAX_RULES_PER_HOOK
from ovs_ebpf_tap.model.rows import (
    Bridge,
    Interface,
    Mirror,
    Port,
)
from ovs_ebpf_tap.util.text import LONGEST

T = TypeVar("T")


@settings(max_examples=examples(400), suppress_health_check=list(HealthCheck))
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


@settings(suppress_health_check=list(HealthCheck))
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


@settings(max_examples=examples(150), suppress_health_check=list(HealthCheck))
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
    assert len({rule.rewrite.limit for rule in rules}) == 1
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
    assert rule.rewrite.snaplen == mirror.cut
    assert rule.rewrite.netdev is (home_of(case, mirror).datapath_type == "netdev")
    if rule.to_ingress:
        assert not rule.rewrite.snaplen
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
                snaplens[rule.group].add(rule.rewrite.snaplen)
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
