"""The ports that flows are followed back from."""

from __future__ import annotations

from builders import World, switch
from planner_changes import leads_to, ofport

from ovs_ebpf_tap.decide.followed_ports import followed_ports
from ovs_ebpf_tap.model.flow_traits import FollowedPort
from ovs_ebpf_tap.model.rows import MODE_KEY


def ports_of(world: World) -> dict[int, bool]:
    """Whether they are reserved."""
    leads_to()(world)
    found = followed_ports(world.db).get("br0", {})
    return {number: followed.reserved for number, followed in found.items()}


def test_destinations_are_followed() -> None:
    """Reserved or not; ports that packets only arrive on are not."""
    world = switch().add_mirror(src="a b", dst="b out", out="out")
    assert ports_of(world) == {ofport("b"): False, ofport("out"): True}


def test_all_ports_are_followed() -> None:
    world = switch("a out").add_mirror(select_all=True, out="out")
    assert ports_of(world) == {ofport("a"): False, ofport("out"): True}


def test_bridges_without_work_are_not() -> None:
    """Where no mirror is to be offloaded; but for one, all mirrors of a bridge count."""
    native = {MODE_KEY: "native"}
    world = switch().add_mirror(dst="a", out="out", external_ids=native)
    assert followed_ports(world.db) == {}
    world.add_mirror("other", dst="b", out="out")
    assert ports_of(world) == {ofport("a"): False, ofport("b"): False}


def test_vlans_matter_where_there_are_some() -> None:
    """On the bridge, whichever port has them."""
    world = switch().add_mirror(dst="a", out="out")
    leads_to()(world)
    assert followed_ports(world.db)["br0"] == {ofport("a"): FollowedPort(False, vlans=False)}
    world.set_port("c", trunks=(5,))
    assert followed_ports(world.db)["br0"] == {ofport("a"): FollowedPort(False, vlans=True)}


def test_ports_that_are_not_open_are_not() -> None:
    """Nothing is sent to them."""
    world = switch().add_mirror(dst="a", out="out")
    assert followed_ports(world.db) == {"br0": {}}
