"""The ports that were looked at before a bridge stopped telling of its flows."""

from __future__ import annotations

from builders import World, switch

from ovs_ebpf_tap.decide.examined_ports import ExaminedPorts
from ovs_ebpf_tap.model.flow_traits import FlowTraits

TOLD = {"br0": FlowTraits()}
PARKED = (4095,)


def look(examined: ExaminedPorts, world: World, traits: dict[str, FlowTraits]) -> set[str]:
    found = examined.look(world.db, traits)
    return {name for name, port in world.ports.items() if port.uuid in found}


def test_ports_added_while_nothing_is_told_are_not() -> None:
    examined = ExaminedPorts()
    world = switch("a b out").add_mirror(dst="a", out="out")
    assert look(examined, world, TOLD) == {"a"}
    world.set_mirror("m", select_dst_port=(world.ports["a"].uuid, world.ports["b"].uuid))
    assert look(examined, world, {}) == {"a"}
    assert look(examined, world, TOLD) == {"a", "b"}
    world.set_mirror("m", select_all=True)
    assert look(examined, world, {}) == {"a", "b"}
    assert look(examined, world, TOLD) == {"a", "b", "out"}


def test_what_was_offloaded_before() -> None:
    """A sidecar that starts takes over what another has looked at."""
    examined = ExaminedPorts()
    world = switch("a b c out").add_mirror(dst="a", out="out", select_vlan=PARKED)
    world.add_mirror("other", dst="b", out="out")
    assert look(examined, world, {}) == {"a"}
    world.add_mirror("more", dst="c", out="out", select_vlan=PARKED)
    assert look(examined, world, {}) == {"a"}
