"""Mirrors that select patch ports, which have no device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import World, switch

from ovs_ebpf_tap.decide.followed_ports import followed_ports
from ovs_ebpf_tap.model.desired import OFFLOADED
from ovs_ebpf_tap.model.flow import FlowName, Known
from ovs_ebpf_tap.model.flow_traits import FlowTraits, FollowedPort, PortPaths

NUMBERED = PortPaths(numbered=FlowName(0, 1, 0), origins=frozenset({Known()}))
PEER = 7
PLAIN = FollowedPort(reserved=False, vlans=False, patches=(PEER,))
QUIET = FlowTraits(outputs=True, normal=False, ports={PEER: PortPaths()})


def patched(*, peer: str = "patch0", traits: FlowTraits | None = None, **mirror: Any) -> World:
    """A bridge with a patch port, and another bridge behind it."""
    world = switch("a b out").add_port(
        "patch0", type="patch", device=None, state={"peer": "patch1"}
    )
    world.add_bridge("br1").add_port(
        "patch1", bridge="br1", type="patch", device=None, state={"peer": peer, "ofport": PEER}
    )
    if traits is not None:
        world.traits["br1"] = traits
    return world.add_mirror(**{"out": "out", **mirror})


def reason(world: World) -> str | None:
    decision = world.decision()
    assert (decision.state == OFFLOADED) == (decision.reason is None)
    return decision.reason


SENDING = {
    "by number": replace(QUIET, ports={PEER: NUMBERED}),
    "by NORMAL": replace(QUIET, normal=True),
    "who knows": replace(QUIET, ports={PEER: PortPaths(undecided=True)}),
    "not known": replace(QUIET, ports={}),
}


@pytest.mark.parametrize("how", SENDING)
def test_what_arrives_by_a_patch(how: str) -> None:
    """Packets that do not leave through a device would not be copied."""
    assert reason(patched(traits=SENDING[how], select_all=True)) == "port patch0 is of type patch"
    assert reason(patched(traits=SENDING[how], src="a patch0")) == "port patch0 is of type patch"


def test_a_patch_that_nothing_arrives_by() -> None:
    """What leaves by it has arrived on a port whose hook has copied it."""
    assert reason(patched(traits=QUIET, select_all=True)) is None
    assert reason(patched(traits=QUIET, src="a patch0")) is None
    assert reason(patched(traits=QUIET, dst="patch0")) == "port patch0 is of type patch"
    assert reason(patched(traits=QUIET, src="a", dst="patch0")) == "port patch0 is of type patch"
    assert reason(patched(traits=QUIET, src="a b", dst="patch0")) is None


def test_a_patch_without_a_peer() -> None:
    """Open vSwitch takes two for peers that name each other."""
    assert reason(patched(peer="other", select_all=True)) is None


def test_copies_that_arrive_by_a_patch() -> None:
    """Of a mirror of the other bridge."""
    for output in ({"out": "patch1"}, {"output_vlan": 5}):
        world = patched(traits=QUIET, select_all=True)
        world.add_mirror("other", bridge="br1", select_all=True, **output)
        assert world.decision("m").reason == "port patch0 is of type patch"


def test_vlans_that_a_patch_does_not_carry() -> None:
    """It is selected in vain."""
    world = patched(traits=SENDING["by number"], select_all=True, select_vlan=(10,))
    assert reason(world) == "port patch0 is of type patch"
    world.set_port("patch0", trunks=(20,))
    assert reason(world) is None


def test_peers_are_followed() -> None:
    """As far as what arrives by a patch is selected."""
    assert followed_ports(patched(select_all=True).db)["br1"] == {PEER: PLAIN}
    assert followed_ports(patched(src="patch0").db)["br1"] == {PEER: PLAIN}
    assert "br1" not in followed_ports(patched(dst="patch0").db)
