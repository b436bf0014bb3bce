"""Which counters tell of a mirror, and what they do not tell."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from builders import World, switch

from ovs_ebpf_tap.compare.mirror_counters import MirrorCounters, find_counters


def counters(world: World, name: str = "m") -> MirrorCounters:
    bridge = next(b for b in world.bridges.values() if world.mirrors[name].uuid in b.mirrors)
    return find_counters(world.db, bridge, world.mirrors[name], world.devices)


def names(meters: tuple[Any, ...] | None) -> list[str]:
    return [f"{meter.device}:{meter.side}" for meter in meters or ()]


def test_sources_alone() -> None:
    found = counters(switch().add_mirror(src="a b", out="out"))
    assert names(found.sources) == names(found.due) == ["a:rx", "b:rx"]
    assert names(found.destinations) == []
    assert names(found.outputs) == ["out:tx"]
    assert names(found.switch) == ["a:rx", "b:rx", "c:rx"]
    assert (found.doubt, found.internal_output) == (None, False)


def test_internal_ports_are_the_other_way_round() -> None:
    world = switch("a").add_port("i", type="internal").add_port("o", type="internal")
    found = counters(world.add_mirror(src="a i", out="o"))
    assert names(found.due) == ["a:rx", "i:tx"]
    assert names(found.outputs) == ["o:rx"]
    assert found.internal_output


def test_all_members_of_a_bond_count() -> None:
    world = switch("a out").add_port("bond", members=("p", "q"))
    assert names(counters(world.add_mirror(src="bond", out="out")).due) == ["p:rx", "q:rx"]


def test_a_destination() -> None:
    found = counters(switch().add_mirror(dst="a", out="out"))
    assert names(found.due) == ["a:tx"]
    assert found.doubt is not None
    assert "drops" in found.doubt


def test_both_directions_of_a_port() -> None:
    found = counters(switch().add_mirror(src="a", dst="a", out="out"))
    assert names(found.due) == ["a:rx", "a:tx"]
    assert found.doubt is not None
    assert "goes back" in found.doubt


def test_all_ports() -> None:
    found = counters(switch().add_mirror(select_all=True, out="out"))
    assert names(found.due) == ["a:rx", "b:rx", "c:rx"]
    assert found.doubt is not None


def test_what_arrives_on_output_ports_is_not_copied() -> None:
    world = switch("a b out other").add_mirror("n", src="b", out="other")
    assert names(counters(world.add_mirror(src="a other", out="out")).due) == ["a:rx"]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"src": "a", "select_vlan": (10,)}, "select_vlan"),
        ({"src": "a", "filter": "icmp"}, "filter"),
        ({"dst": "a b"}, "copied once"),
        ({"src": "a", "dst": "b"}, "copied once"),
        ({"src": "a b", "dst": "a"}, "copied once"),
        ({"src": "a", "out": None, "output_vlan": 7}, "output_vlan"),
        ({"src": "bare"}, "port bare has no network device"),
        ({"select_all": True}, "port bare has no network device"),
    ],
)
def test_not_known(columns: dict[str, Any], why: str) -> None:
    world = switch().add_port("bare", device=None)
    found = counters(world.add_mirror(**{"out": "out", **columns}))
    assert found.due is None
    assert found.doubt is not None
    assert why in found.doubt


def test_a_parked_mirror_is_taken_as_the_user_wrote_it() -> None:
    ids = {"ebpf-tap-select-vlan": ""}
    world = switch().add_mirror(src="a", out="out", select_vlan=(4095,), external_ids=ids)
    assert names(counters(world).due) == ["a:rx"]
    world.set_mirror("m", external_ids={"ebpf-tap-select-vlan": "10"})
    assert counters(world).due is None


def test_mirrors_that_share_an_output() -> None:
    world = switch().add_mirror("n", src="b", out="out").add_mirror(src="a", out="out")
    assert counters(world).doubt == "mirror n copies to the same port"


@pytest.mark.parametrize("vlans", [{"tag": 10}, {"trunks": (1, 2)}])
def test_ports_that_do_not_admit_all(vlans: dict[str, Any]) -> None:
    found = counters(switch("out").add_port("a", **vlans).add_mirror(src="a", out="out"))
    assert names(found.due) == ["a:rx"]
    assert found.doubt == "port a does not admit packets of every VLAN"


def test_other_ports_may_come_and_go() -> None:
    world = switch().add_mirror(src="a", out="out")
    before = counters(world)
    world.add_port("new")
    assert counters(world) != before
    assert counters(world).same_mirror(before)
    world.set_mirror("m", output_port=UUID(int=0))
    assert not counters(world).same_mirror(before)
