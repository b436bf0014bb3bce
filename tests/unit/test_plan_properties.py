"""What holds for the plan of any database, however odd."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

from builders import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovs_ebpf_tap.model import (
    MODE_KEY,
    PROTECTED_KEY,
    SELECT_VLAN_KEY,
    Bridge,
    Database,
    Interface,
    Mirror,
    Port,
)
from ovs_ebpf_tap.netlink import EGRESS, INGRESS, Device
from ovs_ebpf_tap.plan import (
    CLSACT,
    INVALID,
    MAX_RULES_PER_HOOK,
    NATIVE,
    OFFLOADED,
    TCX,
    Hook,
    Plan,
    make_plan,
)

T = TypeVar("T")

# Lines are tested elsewhere: a name with a line break in it would make two.
NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=6)
VLANS = st.integers(0, 4095)


def mostly(value: T, other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """The plain value most of the time, so that many mirrors are offloaded."""
    return one_in(40, other, st.just(value))


def one_in(n: int, rare: st.SearchStrategy[T], usual: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    # Not 0, nor n: Hypothesis likes the ends of a range.
    return st.integers(0, n).flatmap(lambda number: rare if number == n // 3 else usual)


@st.composite
def modes(draw: st.DrawFn) -> dict[str, str]:
    mode = draw(mostly(None, st.sampled_from([None, "offload", "native", "odd", ""])))
    return {} if mode is None else {MODE_KEY: mode}


@dataclass(frozen=True)
class Case:
    """What `make_plan` is given."""

    db: Database
    devices: dict[str, Device]
    attach: str
    refused: dict[int, str]

    def plan(self) -> Plan:
        return make_plan(self.db, self.devices, self.attach, self.refused)


PORT_COLUMNS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "tag": mostly(None, VLANS),
        "trunks": mostly((), st.tuples(VLANS)),
        "cvlans": mostly((), st.tuples(VLANS)),
        "vlan_mode": mostly(None, st.sampled_from(["trunk", "access", "native-tagged"])),
        "priority_tags": mostly(None, st.sampled_from(["no", "always", "odd"])),
        "protected": mostly(False, st.booleans()),
        "type": mostly("", st.sampled_from(["system", "internal", "tap", "patch", "vxlan", "?"])),
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
MIRROR_COLUMNS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "select_all": mostly(False, st.booleans()),
        "select_vlan": mostly((), st.tuples(VLANS)),
        "output_vlan": mostly(None, VLANS),
        "snaplen": mostly(None, st.integers(0, 65535)),
        "filter": mostly(None, st.sampled_from(["", "tcp"])),
    }
)


def mostly_from(near: list[UUID], far: list[UUID]) -> st.SearchStrategy[UUID]:
    """A port of the own bridge most of the time."""
    return one_in(40, st.sampled_from(far), st.sampled_from(near or far))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    world = World()
    ports: list[list[UUID]] = []
    for b in range(draw(st.integers(1, 2))):
        bridge = f"br{b}"
        world.add_bridge(
            bridge,
            datapath_type=draw(mostly("", st.sampled_from(["system", "netdev", "odd"]))),
            spanning_tree=draw(mostly(False, st.booleans())),
            external_ids=draw(modes()),
        )
        for p in range(draw(st.integers(0, 7))):
            columns = draw(PORT_COLUMNS)
            members = draw(mostly(1, st.integers(2, 3)))
            names = [f"{bridge}-{p}-{n}" for n in range(members)] if members > 1 else []
            device = draw(DEVICES)
            world.add_port(f"{bridge}-{p}", bridge=bridge, members=names, device=device, **columns)
        ports.append(list(world.bridges[bridge].ports))
    everywhere = [uuid for home in ports for uuid in home]
    nowhere = UUID(int=0xDEAD)
    for m in range(draw(st.integers(0, 7))):
        b = draw(st.integers(0, len(ports) - 1))
        some = mostly_from(ports[b], [*everywhere, nowhere])
        world.add_mirror(f"m{m}", bridge=f"br{b}", **draw(MIRROR_COLUMNS))
        ids = draw(modes())
        if draw(st.booleans()):
            ids[SELECT_VLAN_KEY] = draw(mostly("", st.text(max_size=4)))
            world.set_mirror(f"m{m}", select_vlan=(4095,))
        if draw(mostly(False, st.booleans())):
            ids[PROTECTED_KEY] = draw(st.sampled_from(["true", "false", "odd"]))
        world.set_mirror(
            f"m{m}",
            name=draw(NAMES),
            external_ids=ids,
            output_port=draw(one_in(20, st.none(), some)),
            select_src_port=tuple(draw(st.lists(some, max_size=4, unique=True))),
            select_dst_port=tuple(draw(st.lists(some, max_size=4, unique=True))),
        )
    if draw(mostly(False, st.booleans())):
        world.set_bridge("br0", mirrors=(*world.bridges["br0"].mirrors, nowhere))
    world.settings = {
        "external_ids": draw(modes()),
        "hw_offload": draw(mostly(False, st.booleans())),
    }
    refused = draw(mostly(frozenset(), st.frozensets(st.integers(100, 110), max_size=2)))
    return Case(
        world.db,
        world.devices,
        draw(st.sampled_from([TCX, CLSACT])),
        dict.fromkeys(refused, "hook refused: Invalid argument"),
    )


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_any_plan(case: Case) -> None:
    plan = case.plan()
    check_verdicts(case, plan)
    check_rules(case, plan)
    check_hooks_are_complete(case, plan)
    check_flags(plan)
    check_ties(case, plan)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(case: Case, rng: random.Random) -> None:
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


def homes(case: Case) -> Iterator[tuple[Bridge, Mirror]]:
    """Every mirror that a bridge refers to, with that bridge."""
    for bridge in case.db.bridges.values():
        for uuid in bridge.mirrors:
            if uuid in case.db.mirrors:
                yield bridge, case.db.mirrors[uuid]


def check_verdicts(case: Case, plan: Plan) -> None:
    assert set(plan.verdicts) == {mirror.uuid for _, mirror in homes(case)}
    for verdict in plan.verdicts.values():
        assert verdict.state in (OFFLOADED, NATIVE, INVALID)
        assert (verdict.reason is None) == (verdict.state == OFFLOADED)
        assert verdict.reason is None or len(verdict.reason.splitlines()) == 1
    for bridge, mirror in homes(case):
        here = mirror.output_port in set(bridge.ports) & set(case.db.ports)
        to_vlan = mirror.output_port is None and mirror.output_vlan is not None
        assert (plan.verdicts[mirror.uuid].state == INVALID) == (not here and not to_vlan)


def check_rules(case: Case, plan: Plan) -> None:
    indexes = {device.ifindex for device in case.devices.values()}
    for hook, rules in plan.hooks.items():
        assert hook.ifindex in indexes
        assert hook.ifindex not in case.refused
        assert 0 < len(rules) <= MAX_RULES_PER_HOOK
        assert list(rules) == sorted(rules)
        outputs = [rule.output for rule in rules]
        assert len(set(outputs)) == len(outputs)
        assert len({rule.arrival for rule in rules}) == 1
        for rule in rules:
            assert plan.verdicts[rule.mirror].state == OFFLOADED
            assert rule.output == output_index(case, case.db.mirrors[rule.mirror])


def device_of(case: Case, interface: Interface) -> Device | None:
    return case.devices.get(interface.name)


def interfaces_of(case: Case, port: Port) -> list[Interface]:
    return [case.db.interfaces[uuid] for uuid in port.interfaces]


def output_index(case: Case, mirror: Mirror) -> int:
    assert mirror.output_port is not None
    (interface,) = interfaces_of(case, case.db.ports[mirror.output_port])
    return case.devices[interface.name].ifindex


def check_hooks_are_complete(case: Case, plan: Plan) -> None:
    """Each selected port's hooks copy to the mirror's output."""
    directions = {
        (False, True): INGRESS,
        (False, False): EGRESS,
        (True, True): EGRESS,
        (True, False): INGRESS,
    }
    for bridge, mirror in homes(case):
        if plan.verdicts[mirror.uuid].state != OFFLOADED:
            continue
        here = [uuid for uuid in bridge.ports if uuid in case.db.ports]
        outputs = {m.output_port for b, m in homes(case) if b is bridge}
        for arrival, chosen in ((True, mirror.select_src_port), (False, mirror.select_dst_port)):
            for uuid in here if mirror.select_all else set(chosen) & set(here):
                if uuid in outputs and (arrival or mirror.select_all):
                    continue
                for interface in interfaces_of(case, case.db.ports[uuid]):
                    device = device_of(case, interface)
                    if device is None:
                        continue
                    inward = interface.type in ("internal", "tap")
                    hook = Hook(device.ifindex, directions[inward, arrival])
                    rules = {rule.output: rule for rule in plan.hooks.get(hook, ())}
                    assert output_index(case, mirror) in rules
                    assert all(rule.arrival is arrival for rule in rules.values())


def check_flags(plan: Plan) -> None:
    """Packets are told apart where they have to be, and nothing loops."""
    users: dict[int, list[bool]] = defaultdict(list)
    for rules in plan.hooks.values():
        for rule in rules:
            users[rule.output].append(rule.arrival)
    departing = {hook.ifindex for hook, rules in plan.hooks.items() if not rules[0].arrival}
    for hook, rules in plan.hooks.items():
        for rule in rules:
            several = len(users[rule.output]) > 1
            assert rule.once is (several and not all(users[rule.output]))
            assert rule.to_hook is (rule.output in departing)
            assert rule.sees_copies is (hook.ifindex in users and not rule.arrival)
            # A copy to the hook's own device is passed over there.
            if rule.output == hook.ifindex:
                assert rule.to_hook
                assert rule.sees_copies


def check_ties(case: Case, plan: Plan) -> None:
    """Open vSwitch's copies and ours do not meet at one output, nor depend on each other."""
    for bridge, mirror in homes(case):
        if plan.verdicts[mirror.uuid].state != OFFLOADED:
            continue
        for home, other in homes(case):
            if home is not bridge or plan.verdicts[other.uuid].state != NATIVE:
                continue
            assert other.output_port != mirror.output_port
            assert not other.select_all
            assert mirror.output_port not in other.select_dst_port
