"""Which mirrors are offloaded, by which hooks, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from builders import World, switch

from ovs_ebpf_tap.model import MODE_KEY, PROTECTED_KEY, SELECT_VLAN_KEY, Database
from ovs_ebpf_tap.plan import (
    CLSACT,
    INVALID,
    MAX_MIRRORS,
    MAX_RULES_PER_HOOK,
    NATIVE,
    OFFLOADED,
    TCX,
    Plan,
    make_plan,
)

ANY_LENGTH = 0xFFFFFFFF
NOWHERE = UUID(int=0xDEAD)

# Why a mirror of ports a and b to out is not offloaded.


def mirror(**columns: Any) -> Callable[[World], None]:
    return lambda world: world.set_mirror("m", **columns)


def port(name: str, **columns: Any) -> Callable[[World], None]:
    return lambda world: world.set_port(name, **columns)


def bridge(**columns: Any) -> Callable[[World], None]:
    return lambda world: world.set_bridge("br0", **columns)


def new_port(name: str, **settings: Any) -> Callable[[World], None]:
    """Another port in the place of the one called so."""

    def change(world: World) -> None:
        world.remove_port(name)
        world.add_port(name, **settings)
        world.remake_mirror("m", src="a b", dst="a b", out="out")

    return change


def world_settings(**settings: Any) -> Callable[[World], None]:
    return lambda world: world.settings.update(settings)


def no_device(name: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        del world.devices[name]

    return change


def selects(destinations: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.remake_mirror("m", dst=destinations, out="out")

    return change


def other_bridge(world: World) -> None:
    world.add_bridge("br1").add_port("far", bridge="br1")
    world.set_mirror("m", output_port=world.ports["far"].uuid)


def plain() -> World:
    return switch("a b c out").add_mirror(src="a b", dst="a b", out="out")


REASONS: list[tuple[str, Callable[[World], None], str, str]] = [
    # INVALID: what OVS refuses.
    (
        "no output",
        mirror(output_port=None),
        INVALID,
        "it has neither output_port nor output_vlan",
    ),
    (
        "output gone",
        mirror(output_port=NOWHERE),
        INVALID,
        "its output_port is not on this bridge",
    ),
    ("output elsewhere", other_bridge, INVALID, "its output_port is not on this bridge"),
    (
        "invalid is said before the mode",
        mirror(output_port=None, external_ids={MODE_KEY: "native"}),
        INVALID,
        "it has neither output_port nor output_vlan",
    ),
    # The mirror.
    (
        "output_vlan",
        mirror(output_port=None, output_vlan=7),
        NATIVE,
        "output_vlan is left to Open vSwitch",
    ),
    ("mode", mirror(external_ids={MODE_KEY: "native"}), NATIVE, "ebpf-tap-mode is native"),
    (
        "mode of no sense",
        mirror(external_ids={MODE_KEY: "of\nload"}),
        NATIVE,
        "ebpf-tap-mode is neither offload nor native: 'of\\nload'",
    ),
    ("vlan", mirror(select_vlan=(10,)), NATIVE, "select_vlan is left to Open vSwitch"),
    (
        "vlan while parked",
        mirror(select_vlan=(4095,), external_ids={SELECT_VLAN_KEY: "10"}),
        NATIVE,
        "select_vlan is left to Open vSwitch",
    ),
    ("snaplen", mirror(snaplen=64), NATIVE, "snaplen is left to Open vSwitch"),
    ("filter", mirror(filter="tcp"), NATIVE, "filter is left to Open vSwitch"),
    # The bridge, and the host.
    (
        "spanning tree",
        bridge(spanning_tree=True),
        NATIVE,
        "the bridge runs STP or RSTP, whose port states only OVS knows",
    ),
    ("datapath", bridge(datapath_type="dummy"), NATIVE, "datapath type dummy is not known"),
    # The output.
    (
        "output bond",
        new_port("out", members=("o1", "o2")),
        NATIVE,
        "output port out is a bond",
    ),
    ("output access", port("out", tag=10), NATIVE, "output port out has VLAN settings"),
    ("output tag 0", port("out", tag=0), NATIVE, "output port out has VLAN settings"),
    (
        "output native VLAN",
        port("out", vlan_mode="native-tagged"),
        NATIVE,
        "output port out has VLAN settings",
    ),
    ("output QinQ", port("out", cvlans=(5,)), NATIVE, "output port out has VLAN settings"),
    (
        "output priority tags",
        port("out", priority_tags="if-nonzero"),
        NATIVE,
        "output port out has VLAN settings",
    ),
    ("output protected", port("out", protected=True), NATIVE, "output port out is protected"),
    (
        "output patch",
        new_port("out", type="patch", device=None),
        NATIVE,
        "output port out is of type patch",
    ),
    (
        "output device",
        no_device("out"),
        NATIVE,
        "output port out has no network device out",
    ),
    (
        "output not Ethernet",
        new_port("out", device={"ethernet": False}),
        NATIVE,
        "output port out: device out is not an Ethernet device",
    ),
    # The selected ports.
    ("access port", port("b", tag=10), NATIVE, "port b has VLAN settings"),
    ("trunks", port("b", trunks=(10,)), NATIVE, "port b has VLAN settings"),
    (
        "native VLAN",
        port("b", vlan_mode="native-untagged"),
        NATIVE,
        "port b has VLAN settings",
    ),
    ("QinQ", port("b", cvlans=(5,)), NATIVE, "port b has VLAN settings"),
    ("priority tags", port("b", priority_tags="always"), NATIVE, "port b has VLAN settings"),
    ("tunnel", new_port("b", type="vxlan", device=None), NATIVE, "port b is of type vxlan"),
    ("DPDK", new_port("b", type="dpdk", device=None), NATIVE, "port b is of type dpdk"),
    (
        "not Ethernet",
        new_port("b", device={"ethernet": False}),
        NATIVE,
        "port b: device b is not an Ethernet device",
    ),
    (
        "down",
        new_port("b", device={"up": False, "running": False}),
        NATIVE,
        "port b: device b is down",
    ),
    (
        "no carrier",
        new_port("b", device={"running": False}),
        NATIVE,
        "port b: device b is down",
    ),
    # The selection itself.
    (
        "own output",
        selects("a out"),
        NATIVE,
        "it selects its own output port as destination",
    ),
]


@pytest.mark.parametrize(
    ("change", "state", "reason"), [r[1:] for r in REASONS], ids=[r[0] for r in REASONS]
)
def test_reasons(change: Callable[[World], None], state: str, reason: str) -> None:
    world = plain()
    assert world.verdict().state == OFFLOADED

    change(world)

    verdict = world.verdict()
    assert verdict.state == state
    assert verdict.reason is not None
    assert verdict.reason.startswith(reason)
    assert not world.plan().hooks


@pytest.mark.parametrize(
    "change",
    [
        mirror(external_ids={MODE_KEY: "offload"}),
        mirror(output_vlan=7),
        mirror(snaplen=65535),
        mirror(snaplen=0),
        mirror(filter=""),
        mirror(select_vlan=(4095,), external_ids={SELECT_VLAN_KEY: ""}),
        mirror(select_src_port=(), select_dst_port=()),
        bridge(datapath_type="netdev"),
        bridge(datapath_type="system"),
        world_settings(hw_offload=True),
        port("out", trunks=(10, 20)),
        port("out", vlan_mode="trunk"),
        port("b", vlan_mode="trunk"),
        port("b", priority_tags="never"),
        port("b", protected=True),
        port("c", tag=10),
        no_device("b"),
        new_port("b", type="system"),
        new_port("b", type="internal"),
        new_port("b", type="tap"),
        new_port("b", policed=True),
        new_port("out", type="internal"),
        new_port("b", members=("b1", "b2")),
        new_port("b", members=("b1", "b2"), device={"up": False, "running": False}),
    ],
)
def test_what_does_not_matter(change: Callable[[World], None]) -> None:
    world = plain()
    change(world)
    assert world.verdict().reason is None
    assert world.verdict().state == OFFLOADED


def test_a_flip_under_way_is_no_protected_output() -> None:
    world = plain()
    world.set_port("out", protected=True)
    world.set_mirror("m", external_ids={PROTECTED_KEY: "false"})
    assert world.verdict().state == OFFLOADED


@pytest.mark.parametrize(
    ("attach", "settings", "policed", "state"),
    [
        (TCX, {"hw_offload": True}, False, OFFLOADED),
        (CLSACT, {"hw_offload": True}, False, NATIVE),
        (CLSACT, {"hw_offload": False}, False, OFFLOADED),
        (TCX, {}, True, OFFLOADED),
        (CLSACT, {}, True, NATIVE),
    ],
)
def test_clsact_stays_clear_of_what_ovs_does_with_qdiscs(
    attach: str, settings: dict[str, Any], policed: bool, state: str
) -> None:
    world = World(settings=settings).add_bridge().add_port("a", policed=policed).add_port("out")
    world.add_mirror(src="a", out="out")
    assert world.verdict(attach=attach).state == state


def test_a_policed_output_needs_no_hook() -> None:
    world = switch("a").add_port("out", policed=True).add_mirror(src="a", out="out")
    assert world.verdict(attach=CLSACT).state == OFFLOADED


def test_a_refused_hook_is_said() -> None:
    world = switch("a b out").add_mirror("m", src="a", out="out")
    refused = {world.devices["a"].ifindex: "hook refused: Operation not supported"}
    verdict = world.plan(refused=refused).verdicts[world.mirrors["m"].uuid]
    assert (verdict.state, verdict.reason) == (
        NATIVE,
        "port a: hook refused: Operation not supported",
    )

    elsewhere = {world.devices["b"].ifindex: "hook refused: Operation not supported"}
    assert world.plan(refused=elsewhere).verdicts[world.mirrors["m"].uuid].state == OFFLOADED


# Modes.


@pytest.mark.parametrize(
    ("mirror_mode", "bridge_mode", "host_mode", "state"),
    [
        (None, None, None, OFFLOADED),
        (None, None, "native", NATIVE),
        (None, "native", None, NATIVE),
        ("native", None, None, NATIVE),
        (None, "offload", "native", OFFLOADED),
        (None, "native", "offload", NATIVE),
        ("offload", "native", "native", OFFLOADED),
        ("native", "offload", "offload", NATIVE),
        ("offload", None, "native", OFFLOADED),
        ("", None, None, NATIVE),
    ],
)
def test_the_nearest_mode_holds(
    mirror_mode: str | None, bridge_mode: str | None, host_mode: str | None, state: str
) -> None:
    def ids(mode: str | None) -> dict[str, str]:
        return {} if mode is None else {MODE_KEY: mode}

    world = plain()
    world.set_mirror("m", external_ids=ids(mirror_mode))
    world.set_bridge("br0", external_ids=ids(bridge_mode))
    world.settings["external_ids"] = ids(host_mode)
    assert world.verdict().state == state


# Hooks.


@pytest.mark.parametrize(
    ("type", "src", "dst", "hooks"),
    [
        ("", "a", "", {"a:ingress": {"out"}}),
        ("", "", "a", {"a:egress": {"out"}}),
        ("", "a", "a", {"a:ingress": {"out"}, "a:egress": {"out"}}),
        ("system", "a", "", {"a:ingress": {"out"}}),
        ("internal", "a", "", {"a:egress": {"out"}}),
        ("internal", "", "a", {"a:ingress": {"out"}}),
        ("tap", "a", "", {"a:egress": {"out"}}),
    ],
)
def test_the_hook_that_packets_pass(
    type: str, src: str, dst: str, hooks: dict[str, set[str]]
) -> None:
    world = World().add_bridge().add_port("a", type=type).add_port("out")
    world.add_mirror(src=src, dst=dst, out="out")
    assert world.copies() == hooks
    for rules in world.rules().values():
        assert not rules["out"].to_ingress


@pytest.mark.parametrize(
    ("type", "mtu", "to_ingress", "max_len"),
    [
        ("", 1500, False, 1514),
        ("system", 9000, False, 9014),
        ("internal", 1500, True, ANY_LENGTH),
        ("tap", 1500, True, ANY_LENGTH),
    ],
)
def test_how_copies_are_delivered(type: str, mtu: int, to_ingress: bool, max_len: int) -> None:
    world = switch("a").add_port("out", type=type, device={"mtu": mtu})
    rule = world.add_mirror(src="a", out="out").rules()["a:ingress"]["out"]
    assert rule.to_ingress is to_ingress
    assert rule.max_len == max_len


def test_every_member_of_a_bond_has_its_hooks() -> None:
    world = switch("out").add_port("bond", members=("x", "y"))
    world.add_mirror(src="bond", dst="bond", out="out")
    assert set(world.copies()) == {"x:ingress", "x:egress", "y:ingress", "y:egress"}


def test_select_all_is_every_port_but_the_output() -> None:
    world = switch("a b out").add_mirror(select_all=True, out="out")
    assert set(world.copies()) == {"a:ingress", "a:egress", "b:ingress", "b:egress"}


def test_select_all_needs_no_port_to_be_up() -> None:
    world = switch("a out").add_port("b", device={"up": False, "running": False})
    world.add_mirror(select_all=True, out="out")
    assert world.verdict().state == OFFLOADED


def test_a_missing_device_has_no_hook_and_comes_back() -> None:
    world = switch("a b out").add_mirror(src="a b", out="out")
    device = world.devices.pop("b")
    assert world.copies() == {"a:ingress": {"out"}}
    world.devices["b"] = device
    assert world.copies() == {"a:ingress": {"out"}, "b:ingress": {"out"}}


def test_ports_that_are_not_on_the_bridge_are_passed_over() -> None:
    world = switch("a out").add_bridge("br1").add_port("far", bridge="br1")
    world.add_mirror(src="a far", dst="far", out="out")
    world.set_mirror(
        "m", select_dst_port=(*world.mirrors["m"].select_dst_port, NOWHERE, UUID(int=0xBEEF))
    )
    assert world.copies() == {"a:ingress": {"out"}}


def test_bridges_are_apart() -> None:
    world = switch("a out").add_bridge("br1").add_ports("x y", bridge="br1")
    world.add_mirror("m", src="a", out="out").add_mirror("n", dst="x", out="y", bridge="br1")
    assert world.copies() == {"a:ingress": {"out"}, "x:egress": {"y"}}


# Mirrors beside each other.


def test_output_ports_have_no_arrival_hooks() -> None:
    """OVS drops what arrives on them."""
    world = switch("a b o1 o2")
    world.add_mirror("m", src="a o2", out="o1").add_mirror("n", src="b o1", out="o2")
    assert world.copies() == {"a:ingress": {"o1"}, "b:ingress": {"o2"}}
    world.set_mirror("m", select_all=True)
    assert not any(hook in ("o1:ingress", "o2:ingress") for hook in world.copies())


def test_one_rule_for_each_output() -> None:
    world = switch("a b out")
    world.add_mirror("m", src="a", out="out").add_mirror("n", src="a b", out="out")
    rules = world.rules()
    assert rules["a:ingress"]["out"].mirror == world.mirrors["m"].uuid
    assert rules["b:ingress"]["out"].mirror == world.mirrors["n"].uuid


def native(**columns: Any) -> dict[str, Any]:
    return {"external_ids": {MODE_KEY: "native"}, **columns}


def test_a_shared_output_is_offloaded_whole_or_not() -> None:
    world = switch("a b c o1 o2")
    world.add_mirror("m", src="a", out="o1").add_mirror("n", src="b", out="o1", **native())
    world.add_mirror("other", src="c", out="o2")
    assert world.states() == {"m": NATIVE, "n": NATIVE, "other": OFFLOADED}
    assert world.verdict("m").reason == ("it shares its output port with mirror n, which is native")
    assert world.copies() == {"c:ingress": {"o2"}}


def test_a_mirror_that_ovs_refuses_ties_nobody() -> None:
    world = switch("a b o1").add_mirror("m", src="a", out="o1")
    world.add_mirror("broken", dst="o1")
    assert world.states() == {"m": OFFLOADED, "broken": INVALID}


def test_copies_that_a_native_mirror_selects_are_left_to_ovs() -> None:
    world = switch("a o1 o2 o3")
    world.add_mirror("m", src="a", out="o1").add_mirror("n", dst="o1", out="o2", **native())
    world.add_mirror("o", dst="o3", out="o3")
    assert world.states() == {"m": NATIVE, "n": NATIVE, "o": NATIVE}
    assert world.verdict("m").reason == ("mirror n, which is native, selects its output port")


def test_native_spreads_along_a_chain() -> None:
    world = switch("a o1 o2 o3")
    world.add_mirror("m1", src="a", out="o1")
    world.add_mirror("m2", dst="o1", out="o2")
    world.add_mirror("m3", dst="o2", out="o3", **native())
    assert set(world.states().values()) == {NATIVE}


def test_a_mirror_that_selects_a_native_ones_output_sees_its_copies() -> None:
    world = switch("a o1 o2")
    world.add_mirror("n", src="a", out="o1", **native()).add_mirror("m", dst="o1", out="o2")
    assert world.states() == {"n": NATIVE, "m": OFFLOADED}
    assert world.copies() == {"o1:egress": {"o2"}}


def test_a_chain_is_copied_at_its_first_hook() -> None:
    world = switch("a o1 o2 o3")
    world.add_mirror("m1", src="a", out="o1")
    world.add_mirror("m2", dst="o1", out="o2")
    world.add_mirror("m3", dst="o2", out="o3")
    assert world.copies() == {
        "a:ingress": {"o1", "o2", "o3"},
        "o1:egress": {"o2", "o3"},
        "o2:egress": {"o3"},
    }
    rules = world.rules()
    assert {out: rule.to_hook for out, rule in rules["a:ingress"].items()} == {
        "o1": True,
        "o2": True,
        "o3": False,
    }
    assert not rules["a:ingress"]["o1"].sees_copies
    assert rules["o1:egress"]["o2"].sees_copies


def test_an_internal_output_cannot_be_a_destination() -> None:
    world = switch("a o2").add_port("o1", type="internal")
    world.add_mirror("m", src="a", out="o1").add_mirror("n", dst="o1", out="o2")
    assert world.states() == {"m": NATIVE, "n": NATIVE}
    assert world.verdict("n").reason == (
        "it selects internal port o1, which is a mirror's output port"
    )


@pytest.mark.parametrize("length", [2, 3, 7])
def test_rings_end(length: int) -> None:
    outputs = [f"o{i}" for i in range(length)]
    world = switch(" ".join(["a", *outputs]))
    for i, output in enumerate(outputs):
        world.add_mirror(f"m{i}", src="a" if i == 0 else "", dst=outputs[i - 1], out=output)
    rules = world.rules()
    assert set(world.states().values()) == {OFFLOADED}
    assert set(rules["a:ingress"]) == set(outputs)
    for hook in (f"{output}:egress" for output in outputs):
        assert set(rules[hook]) <= set(outputs)
        assert all(rule.to_hook and rule.sees_copies for rule in rules[hook].values())


# Exactly once.


@pytest.mark.parametrize(
    ("mirrors", "once"),
    [
        # Hooks that see arrivals only do not see the same packet.
        ([("a", "", "o1")], False),
        ([("a b c", "", "o1")], False),
        ([("a", "", "o1"), ("b", "", "o1")], False),
        # One hook sees a packet once.
        ([("", "a", "o1")], False),
        ([("a", "", "o1"), ("", "b", "o2")], False),
        # A departure may be of a packet that another hook has seen.
        ([("a", "a", "o1")], True),
        ([("a", "b", "o1")], True),
        ([("", "a b", "o1")], True),
        ([("a", "", "o1"), ("", "b", "o1")], True),
    ],
)
def test_hooks_count_where_two_may_see_a_packet(
    mirrors: list[tuple[str, str, str]], once: bool
) -> None:
    world = switch("a b c o1 o2")
    for number, (src, dst, out) in enumerate(mirrors):
        world.add_mirror(f"m{number}", src=src, dst=dst, out=out)
    flags = {rule.once for rules in world.rules().values() for rule in rules.values()}
    assert flags == {once}


def test_hooks_say_which_way_their_packets_go() -> None:
    world = switch("a out").add_mirror(src="a", dst="a", out="out")
    rules = world.rules()
    assert rules["a:ingress"]["out"].arrival
    assert not rules["a:egress"]["out"].arrival


# Limits.


def test_a_hook_has_room_for_so_many_outputs() -> None:
    many = MAX_RULES_PER_HOOK + 1
    outputs = [f"o{i}" for i in range(many)]
    world = switch(" ".join(["a", *outputs]))
    for i, output in enumerate(outputs):
        world.add_mirror(f"m{i}", src="a", out=output)
    states = list(world.states().values())
    assert states.count(OFFLOADED) == MAX_RULES_PER_HOOK
    assert len(world.copies()["a:ingress"]) == MAX_RULES_PER_HOOK
    assert world.verdict(f"m{many - 1}").reason == (
        f"a port of it is copied to more than {MAX_RULES_PER_HOOK} outputs"
    )


def test_a_host_has_room_for_so_many_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovs_ebpf_tap.plan.MAX_MIRRORS", 3)
    world = switch("a b o1 o2 o3").add_bridge("br1").add_ports("x y z", bridge="br1")
    world.add_mirror("m1", src="a", out="o1").add_mirror("m2", src="a", out="o2")
    world.add_mirror("n1", src="x", out="y", bridge="br1")
    world.add_mirror("n2", src="x", out="z", bridge="br1")
    assert world.states() == {"m1": OFFLOADED, "m2": OFFLOADED, "n1": OFFLOADED, "n2": NATIVE}
    assert world.verdict("n2").reason == "more than 3 mirrors are offloaded on this host"


def test_the_maps_have_room_for_the_limits() -> None:
    assert MAX_MIRRORS >= 128 * 32


def test_an_empty_database() -> None:
    assert make_plan(Database(), {}, TCX) == Plan()


def test_mirrors_that_no_bridge_refers_to_are_none_of_ours() -> None:
    world = plain()
    world.set_bridge("br0", mirrors=())
    assert world.plan() == Plan()


def test_dangling_references_do_no_harm() -> None:
    world = plain()
    home = world.bridges["br0"]
    world.set_bridge("br0", ports=(*home.ports, NOWHERE), mirrors=(*home.mirrors, NOWHERE))
    assert set(world.plan().verdicts) == {world.mirrors["m"].uuid}
