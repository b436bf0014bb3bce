"""More than anybody would have: a plan takes a moment all the same, and says what is left out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from builders import World, switch

from ovs_ebpf_tap.lab.waiting import patience
from ovs_ebpf_tap.model.desired import OFFLOADED
from ovs_ebpf_tap.model.reasons.row_reasons import CONTENDED
from ovs_ebpf_tap.model.rows import Mirror


def many(world: World, count: int, **columns: Any) -> World:
    """So many mirrors that are alike."""
    mirror = Mirror(UUID(int=0), "", **columns)
    made = [replace(mirror, uuid=UUID(int=1_000_000 + n), name=f"m{n}") for n in range(count)]
    world.mirrors.update((each.name, each) for each in made)
    world.set_bridge("br0", mirrors=tuple(each.uuid for each in made))
    return world


def reasons(world: World) -> set[str | None]:
    started = time.monotonic()
    plan = world.plan()
    assert time.monotonic() - started < patience(30)  # Some take one on an idle machine.
    assert len(plan.decisions) == len(world.mirrors)
    return {decision.reason for decision in plan.decisions.values()}


TOO_MANY = "more than 4096 mirrors share ports with each other"


@pytest.mark.parametrize("parked", [(), (4095,)])
@pytest.mark.parametrize("chosen", [{"select_all": True}, {"src": "a"}, {"dst": "a", "vlan": True}])
def test_ten_thousand_mirrors(chosen: dict[str, Any], parked: tuple[int, ...]) -> None:
    world = switch("a b out " + " ".join(f"p{n}" for n in range(100)))
    columns: dict[str, Any] = {"select_all": "select_all" in chosen, "select_vlan": parked}
    for side in ("src", "dst"):
        ports = tuple(world.ports[port].uuid for port in chosen.get(side, "").split())
        columns[f"select_{side}_port"] = ports
    out = {"output_vlan": 7} if "vlan" in chosen else {"output_port": world.ports["out"].uuid}
    many(world, 10_000, **columns, **out)
    expected = TOO_MANY if parked else "Open vSwitch takes 32 mirrors on a bridge, and not this"
    assert reasons(world) == {expected}
    # Those of other bridges know nothing of it.
    world.add_bridge("br1").add_ports("x y", bridge="br1")
    world.add_mirror("other", src="x", out="y", bridge="br1")
    assert world.decision("other").state == OFFLOADED


def test_mirrors_that_select_too_many_ports() -> None:
    world = switch(" ".join(f"p{n}" for n in range(400)))
    many(world, 200, select_all=True, output_port=world.ports["p0"].uuid, select_vlan=(4095,))
    assert reasons(world) == {"mirrors that share ports select more than 131072 in all"}


@pytest.mark.parametrize("backwards", [False, True])
def test_a_long_chain_of_mirrors(backwards: bool) -> None:
    """Each selects the copies of the one before."""
    count = 1000
    world = switch(" ".join(f"p{n}" for n in range(count + 1)))
    for n in range(count) if not backwards else reversed(range(count)):
        world.add_mirror(f"m{n}", dst=f"p{n}", out=f"p{n + 1}", select_vlan=(4095,))
    assert any("too many other mirrors" in str(reason) for reason in reasons(world))


def test_mirrors_that_all_select_the_copies_of_the_others() -> None:
    """Without a limit, there is a set of copies for each subset of VLANs."""
    count = 14
    world = switch(" ".join(f"p{n}" for n in range(count)))
    for n in range(count):
        others = " ".join(f"p{m}" for m in range(count) if m != n)
        vlans = tuple(vlan for vlan in range(4095) if vlan >> n % 12 & 1)
        world.add_mirror(f"m{n}", dst=others, out=f"p{n}", select_vlan=vlans)
    assert any("too many other mirrors" in str(reason) for reason in reasons(world))


def test_a_mirror_of_all_vlans_one_by_one() -> None:
    world = switch("a out").add_mirror("m", src="a", out="out", select_vlan=tuple(range(4096)))
    assert world.decision().state == OFFLOADED


def test_a_mirror_that_others_fight_for_is_left_to_ovs() -> None:
    world = switch("a out").add_mirror("m", src="a", out="out", contended=True)
    assert world.decision() == CONTENDED.decision()
