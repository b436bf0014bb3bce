"""Copies followed from a port: which rules there are, in which order, and what is lost."""

from __future__ import annotations

import pytest
from builders import World, switch

from ovs_ebpf_tap.decide.components import split
from ovs_ebpf_tap.decide.topology import BridgeContext, Topology
from ovs_ebpf_tap.decide.traversal import TraversalState
from ovs_ebpf_tap.decide.tunnel_ports import TunnelPorts
from ovs_ebpf_tap.decide.walk import Walk, walk
from ovs_ebpf_tap.model.desired import TCX
from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortFlags
from ovs_ebpf_tap.model.surroundings import NOTHING


def topology_of(world: World) -> Topology:
    """The only component of the only bridge."""
    (component,) = split(world.bridge_ports())
    context = BridgeContext(
        db=world.db.settings,
        bridge=world.bridges["br0"].settings,
        attach=TCX,
        refused={},
        surroundings=NOTHING,
        traits=FlowTraits(),
        flags=PortFlags(),
        multi_bridge_mirrors=frozenset(),
        over_native_limit=False,
        has_untagged_output=False,
        tunnels=(),
        silent=frozenset(),
        access_and_patch_ofports=frozenset(),
        examined=frozenset(),
        leaves_tags=True,
        protected=None,
        tunnel_ports=TunnelPorts(),
    )
    return Topology(component, context)


def walked(
    world: World, port: str, *, arrival: bool, state: TraversalState | None = None
) -> tuple[Walk, list[tuple[str, str]]]:
    """The walk, and the mirror and output of each of its rules."""
    mirrors = {mirror.uuid: name for name, mirror in world.mirrors.items()}
    devices = {device.ifindex: name for name, device in world.devices.items()}
    found = walk(
        topology_of(world),
        mirrors,
        world.ports[port],
        state or TraversalState(),
        arrival=arrival,
    )
    return found, [(mirrors[rule.mirror], devices[rule.output]) for rule in found.rules]


def test_a_chain_is_followed() -> None:
    world = switch("a b c").add_mirror("m", src="a", out="b").add_mirror("n", dst="b", out="c")
    state = TraversalState()
    _, rules = walked(world, "a", arrival=True, state=state)
    assert rules == [("m", "b"), ("n", "c")]
    assert (state.tried, state.found) == (1, 1)
    assert walked(world, "a", arrival=False)[1] == []
    assert walked(world, "b", arrival=False)[1] == [("n", "c")]


def test_a_ring_ends() -> None:
    world = switch("a b c").add_mirror("m", src="a", dst="c", out="b")
    world.add_mirror("n", dst="b", out="c")
    state = TraversalState()
    _, rules = walked(world, "a", arrival=True, state=state)
    assert rules == [("m", "b"), ("n", "c")]
    assert not state.lost


def test_a_packet_is_copied_to_an_output_once() -> None:
    world = switch("a out").add_mirror("m", src="a", out="out").add_mirror("n", src="a", out="out")
    found, rules = walked(world, "a", arrival=True)
    assert rules == [("m", "out")]
    group = found.rules[0].group
    assert found.copies_all(group) & 1 << 5
    assert not found.copies_all(group) & 1 << 4095  # The VLAN of parked mirrors.


def test_only_a_filtered_mirror_does_not_copy_all() -> None:
    world = switch("a out").add_mirror("m", src="a", out="out", filter="tcp")
    found, _ = walked(world, "a", arrival=True)
    assert found.copies_all(found.rules[0].group) == 0


def test_two_ways_to_an_output_are_undecided() -> None:
    world = switch("a b out").add_port("c", tag=5)
    world.add_mirror("m", src="a", out="out").add_mirror("n", src="a", output_vlan=5)
    world.add_mirror("o", dst="c", out="out")
    state = TraversalState()
    walked(world, "a", arrival=True, state=state)
    assert set(state.undecided) == {world.mirrors["o"].uuid}


@pytest.mark.parametrize("length", [64, 65])
def test_copies_are_followed_so_far(length: int) -> None:
    world = switch(" ".join(f"p{n}" for n in range(length + 2)))
    for n in range(length + 1):
        side = {"src": "p0"} if n == 0 else {"dst": f"p{n}"}
        world.add_mirror(f"m{n}", out=f"p{n + 1}", **side)
    state = TraversalState()
    walked(world, "p0", arrival=True, state=state)
    assert bool(state.lost) is (length > 64)
