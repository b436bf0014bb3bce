"""Modes, and which hooks copy what to where."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from builders import World, switch
from planner_changes import (
    NOWHERE,
    plain,
)

from ovs_ebpf_tap.model.desired import (
    NATIVE,
    NOTHING_SELECTED,
    OFFLOAD,
    OFFLOADED,
)
from ovs_ebpf_tap.model.rows import MODE_KEY, SELECT_VLAN_KEY

ANY_LENGTH = 0xFFFFFFFF

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
    assert world.decision().state == state


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
    ("mirror", "datapath", "device", "tso", "state"),
    [
        ({"src": "i", "dst": "b"}, "netdev", {}, False, NATIVE),
        ({"select_all": True}, "netdev", {}, False, NATIVE),
        ({"src": "i", "snaplen": 100}, "netdev", {}, False, NATIVE),
        ({"src": "i"}, "netdev", {}, False, OFFLOADED),
        ({"dst": "i", "snaplen": 100}, "netdev", {}, False, OFFLOADED),
        ({"src": "a", "dst": "i"}, "netdev", {}, False, OFFLOADED),
        ({"src": "i", "dst": "b"}, "netdev", {"up": False}, False, OFFLOADED),
        ({"src": "i", "dst": "b"}, "netdev", {}, True, OFFLOADED),
        ({"src": "i", "dst": "b"}, "system", {}, False, OFFLOADED),
    ],
)
def test_super_packets_of_the_host(
    mirror: dict[str, Any], datapath: str, device: dict[str, Any], tso: bool, state: str
) -> None:
    world = World(settings={"userspace_tso": tso}).add_bridge(datapath_type=datapath)
    world.add_ports("a b out").add_port("i", type="internal", device=device)
    decision = world.add_mirror(out="out", **mirror).decision()
    assert decision.state == state
    if state == NATIVE:
        assert "port i is internal and up" in (decision.reason or "")


@pytest.mark.parametrize(
    ("datapath", "type", "mtu", "to_ingress", "max_len"),
    [
        ("system", "", 1500, False, 1514),
        ("netdev", "system", 9000, False, 9014),
        ("system", "internal", 1500, True, 1514),
        ("netdev", "internal", 1500, True, ANY_LENGTH),
        ("netdev", "tap", 1500, True, ANY_LENGTH),
    ],
)
def test_how_copies_are_delivered(
    datapath: str, type: str, mtu: int, to_ingress: bool, max_len: int
) -> None:
    world = World().add_bridge(datapath_type=datapath).add_port("a")
    world.add_port("out", type=type, device={"mtu": mtu})
    rule = world.add_mirror(src="a", out="out").rules()["a:ingress"]["out"]
    assert rule.to_ingress is to_ingress
    assert rule.rewrite.max_len == max_len


@pytest.mark.parametrize(
    ("type", "opened", "state", "kind", "hooked"),
    [
        ("", False, {}, "veth", True),  # Open vSwitch is about to.
        ("", False, {"refused": True}, "veth", False),
        ("", True, {"ifindex": 7}, "veth", True),
        ("internal", False, {}, "openvswitch", True),
        ("internal", False, {}, "tun", False),
        ("internal", False, {}, "veth", False),
        ("tap", False, {}, "openvswitch", False),
    ],
)
def test_hooks_on_what_may_be_the_ports_device(
    type: str, opened: bool, state: dict[str, Any], kind: str, hooked: bool
) -> None:
    """What Open vSwitch does not have open it does not copy: nothing is to be said."""
    world = switch("b out").add_port(
        "a", type=type, opened=opened, state=state, device={"kind": kind}
    )
    world.add_mirror(src="a b", out="out")
    assert world.decision() == OFFLOAD
    assert any(hook.startswith("a:") for hook in world.copies()) is hooked


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"select_vlan": (10,)},
        {"select_vlan": (4095,), "external_ids": {SELECT_VLAN_KEY: "10"}},
        {"select_src_port": (UUID(int=0xDEAD),)},
    ],
)
def test_a_mirror_that_selects_no_port(columns: dict[str, Any]) -> None:
    """Open vSwitch does not copy all of a VLAN, either: `mirror_configure`."""
    world = plain()
    world.set_mirror("m", **{"select_src_port": (), "select_dst_port": (), **columns})
    assert world.decision() == NOTHING_SELECTED
    assert not world.plan().hooks


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
    assert world.decision().state == OFFLOADED


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
