"""Mirrors beside each other: shared outputs, copies of copies, and limits."""

from __future__ import annotations

from typing import Any

import pytest
from builders import switch
from planner_changes import (
    NOWHERE,
    plain,
)

from ovs_ebpf_tap.decide.planner import make_plan
from ovs_ebpf_tap.model.desired import (
    INVALID,
    NATIVE,
    OFFLOADED,
    TCX,
    Plan,
)
from ovs_ebpf_tap.model.limits import MAX_MIRRORS, MAX_RULES_PER_HOOK
from ovs_ebpf_tap.model.rows import MODE_KEY, Database


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
    assert world.decision("m").reason == ("it shares its output with mirror n, which is native")
    assert world.copies() == {"c:ingress": {"o2"}}


def test_a_mirror_that_ovs_refuses_ties_nobody() -> None:
    world = switch("a b o1").add_mirror("m", src="a", out="o1")
    world.add_mirror("broken", dst="o1")
    assert world.states() == {"m": OFFLOADED, "broken": INVALID}


def test_copies_that_a_native_mirror_selects_are_left_to_ovs() -> None:
    world = switch("a o1 o2 o3")
    world.add_mirror("m", src="a", out="o1").add_mirror("n", dst="o1", out="o2", **native())
    world.add_mirror("o", dst="o3", out="o3")
    assert world.states() == {"m": NATIVE, "n": NATIVE, "o": OFFLOADED}
    assert world.decision("m").reason == "mirror n, which is native, selects its output port"


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
    assert {rule.group for rule in rules["a:ingress"].values()} == {
        world.devices[out].ifindex for out in ("o1", "o2", "o3")
    }


def test_an_internal_output_has_its_copies_followed() -> None:
    world = switch("a o2").add_port("o1", type="internal")
    world.add_mirror("m", src="a", out="o1").add_mirror("n", dst="o1", out="o2")
    assert world.states() == {"m": OFFLOADED, "n": OFFLOADED}
    assert world.copies() == {"a:ingress": {"o1", "o2"}, "o1:ingress": {"o2"}}
    rules = world.rules()["a:ingress"]
    assert rules["o1"].to_hook
    assert rules["o1"].to_ingress


def test_an_output_may_be_its_own_destination() -> None:
    """Its copies are no packets of its own; what else leaves through it is."""
    world = switch("a out").add_mirror(src="a", dst="out", out="out")
    assert world.states() == {"m": OFFLOADED}
    assert world.copies() == {"a:ingress": {"out"}, "out:egress": {"out"}}
    assert all(rules["out"].to_hook for rules in world.rules().values())


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
        assert all(rule.to_hook for rule in rules[hook].values())


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
    flags = {rule.dedup for rules in world.rules().values() for rule in rules.values()}
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
        world.add_mirror(f"m{i}", src="a", out=output, statistics={"tx_packets": 0})
    states = list(world.states().values())
    assert states.count(OFFLOADED) == MAX_RULES_PER_HOOK
    assert len(world.copies()["a:ingress"]) == MAX_RULES_PER_HOOK
    assert world.decision(f"m{many - 1}").reason == (
        f"a port of it has more than {MAX_RULES_PER_HOOK} copies made"
    )


def test_a_host_has_room_for_so_many_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("planner", "bridge_planner"):
        monkeypatch.setattr(f"ovs_ebpf_tap.decide.{module}.MAX_MIRRORS", 3)
    world = switch("a b o1 o2 o3").add_bridge("br1").add_ports("x y z", bridge="br1")
    world.add_mirror("m1", src="a", out="o1").add_mirror("m2", src="a", out="o2")
    world.add_mirror("n1", src="x", out="y", bridge="br1")
    world.add_mirror("n2", src="x", out="z", bridge="br1")
    assert world.states() == {"m1": OFFLOADED, "m2": OFFLOADED, "n1": OFFLOADED, "n2": NATIVE}
    assert world.decision("n2").reason == "more than 3 mirrors are offloaded on this host"


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
    assert set(world.plan().decisions) == {world.mirrors["m"].uuid}


def test_a_packet_copied_into_a_vlan_is_counted_once() -> None:
    world = switch("a b c").add_mirror(src="a", output_vlan=7)
    counted = {name: rule.counted for name, rule in world.rules()["a:ingress"].items()}
    assert sorted(counted) == ["a", "b", "c"]
    assert sorted(counted.values()) == [False, False, True]
