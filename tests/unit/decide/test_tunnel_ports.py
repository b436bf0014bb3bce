"""Mirrors that select tunnel ports of the kernel's datapath."""

from __future__ import annotations

from typing import Any

import pytest
from builders import World, switch

from ovs_ebpf_tap.decide.planner import Planner
from ovs_ebpf_tap.decide.tunnel_ports import tunnel_of
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, NATIVE, OFFLOADED, TCX, Hook
from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortFlags
from ovs_ebpf_tap.model.tunnel import GeneveOption, TunnelOptions

DEVICE = {"kind": "vxlan", "slave": "openvswitch"}


def add_tunnel(world: World, name: str, bridge: str = "br0", **options: str) -> None:
    tunnel = TunnelOptions.parse("vxlan", {"remote_ip": "10.0.0.1", **options})
    world.add_port(name, bridge=bridge, type="vxlan", state={"tunnel": tunnel}, device=None)


def tunnels(**options: dict[str, str]) -> World:
    """A switch with these tunnel ports, by name."""
    world = switch("a out")
    world.add_device("vxlan_sys_4789", **DEVICE)
    for name, each in options.items():
        add_tunnel(world, name, **each)
    return world


def hook(world: World, name: str, *, arrival: bool) -> Hook:
    tunnel = tunnel_of(world.interfaces[name], arrival=arrival)
    ifindex = world.devices["vxlan_sys_4789"].ifindex
    return Hook(ifindex, INGRESS if arrival else EGRESS, tunnel)


def test_each_port_has_a_hook_of_its_own() -> None:
    world = tunnels(t1={"key": "1"}, t2={"key": "2"})
    world.add_mirror("m1", src="t1", out="out").add_mirror("m2", src="t2", dst="t2", out="out")
    hooks = world.plan().hooks
    expected = {
        hook(world, "t1", arrival=True): "m1",
        hook(world, "t2", arrival=True): "m2",
        hook(world, "t2", arrival=False): "m2",
    }
    mirrors = {each: world.mirrors[name].uuid for each, name in expected.items()}
    assert {each: rule.mirror for each, (rule,) in hooks.items()} == mirrors


def test_both_directions_of_a_port_have_one_number() -> None:
    """An answer is told by it from the packet that it is to."""
    world = tunnels(t1={"in_key": "1", "out_key": "2"}, t2={"key": "2"})
    numbers = {
        name: {hook(world, name, arrival=way).number for way in (True, False)}
        for name in ("t1", "t2")
    }
    assert len(numbers["t1"]) == len(numbers["t2"]) == 1
    assert numbers["t1"] != numbers["t2"]


@pytest.mark.parametrize(
    ("options", "bridge", "is_before"),
    [
        ({"key": "3"}, "br0", True),
        ({"key": "3"}, "br1", True),
        ({"key": "3", "remote_ip": "flow"}, "br0", True),
        ({"key": "3", "remote_ip": "10.0.0.2"}, "br0", False),
        ({"key": "flow", "local_ip": "10.0.0.9"}, "br0", True),
        ({"key": "flow", "remote_ip": "flow"}, "br0", False),
        ({"key": "3", "dst_port": "4790"}, "br0", False),
    ],
)
def test_ports_with_narrower_options_keep_their_frames(
    options: dict[str, str], bridge: str, is_before: bool
) -> None:
    world = tunnels(t1={"key": "flow"})
    world.add_bridge("br1")
    add_tunnel(world, "other", bridge, **options)
    world.add_mirror("m", src="t1", out="out")
    other = hook(world, "other", arrival=True)
    hooks = world.plan().hooks
    assert len(hooks[hook(world, "t1", arrival=True)]) == 1
    assert hooks.get(other) == (() if is_before else None)


def test_a_narrower_port_that_comes_later_gets_its_hook() -> None:
    world = tunnels(t1={"key": "flow"}).add_mirror("m", src="t1", out="out")
    planner = Planner(TCX)
    before = planner.plan(world.db, world.devices)
    assert planner.plan(world.db, world.devices) is before
    world.add_bridge("br1")
    add_tunnel(world, "other", "br1", key="3")
    assert hook(world, "other", arrival=True) in planner.plan(world.db, world.devices).hooks


@pytest.mark.parametrize(
    ("options", "other", "state"),
    [
        ({"key": "1"}, {"key": "2"}, OFFLOADED),
        ({"key": "flow"}, {"key": "2"}, NATIVE),
        ({"key": "1", "remote_ip": "flow"}, {"key": "2"}, NATIVE),
        ({"key": "1"}, {"key": "flow"}, NATIVE),
        ({"key": "1"}, {"key": "flow", "remote_ip": "10.0.0.2"}, OFFLOADED),
        ({"key": "1"}, {"in_key": "2", "out_key": "1"}, NATIVE),
        ({"key": "1"}, {"key": "1", "local_ip": "10.0.0.9"}, OFFLOADED),
        ({"key": "1"}, {"key": "1", "dst_port": "4790"}, OFFLOADED),
    ],
)
def test_leaving_packets_are_told_by_what_they_are_sent_with(
    options: dict[str, str], other: dict[str, str], state: str
) -> None:
    world = tunnels(t1=options, t2=other).add_mirror("m", dst="t1", out="out")
    assert world.decision().state == state
    world.remake_mirror("m", src="t1", out="out")
    assert world.decision().state == OFFLOADED


@pytest.mark.parametrize(
    ("traits", "state"),
    [
        (FlowTraits(), OFFLOADED),
        (FlowTraits(outputs=True), NATIVE),
        (None, NATIVE),
    ],
)
def test_where_all_is_copied_when_it_arrives(traits: Any, state: str) -> None:
    """What leaves need not be told apart."""
    world = tunnels(t1={"key": "flow"}).add_mirror("m", select_all=True, out="out")
    world.traits["br0"] = traits
    assert world.decision().state == state


@pytest.mark.parametrize("change", [{"slave": ""}, {"kind": "veth"}])
def test_another_device_of_that_name(change: dict[str, str]) -> None:
    world = tunnels(t1={"key": "1"}).add_mirror("m", src="t1", out="out")
    world.add_device("vxlan_sys_4789", **{**DEVICE, **change})
    assert not world.plan().hooks


def test_the_device_is_followed() -> None:
    """ovs-vswitchd makes it anew when it starts."""
    world = tunnels(t1={"key": "1"}).add_mirror("m", src="t1", out="out")
    before = hook(world, "t1", arrival=True)
    world.add_device("vxlan_sys_4789", **DEVICE)
    after = hook(world, "t1", arrival=True)
    assert before.ifindex != after.ifindex
    assert set(world.plan().hooks) == {after}


@pytest.mark.parametrize("options", [None, frozenset(), frozenset({GeneveOption(0x102, 0x80, 4)})])
def test_hooks_of_arriving_geneve_frames_know_the_options_of_the_bridge(
    options: frozenset[GeneveOption] | None,
) -> None:
    world = switch("a out")
    world.add_device("genev_sys_6081", kind="geneve", slave="openvswitch")
    tunnel = TunnelOptions.parse("geneve", {"remote_ip": "10.0.0.1", "key": "1"})
    world.add_port("t1", type="geneve", state={"tunnel": tunnel}, device=None)
    if options is not None:  # Else nothing is known of the bridge yet.
        world.port_flags["br0"] = PortFlags(geneve_options=options)
    world.add_mirror("m1", src="t1 a", dst="t1", out="out")
    known = {
        hook: rule.ingress_policy.geneve_options if rule.ingress_policy is not None else None
        for hook, (rule,) in world.plan().hooks.items()
    }
    arriving, leaving = (tunnel_of(world.interfaces["t1"], arrival=way) for way in (True, False))
    assert {hook.tunnel: each for hook, each in known.items()} == {
        arriving: options,
        leaving: None,
        None: None,
    }
