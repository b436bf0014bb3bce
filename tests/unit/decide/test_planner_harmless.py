"""What does not keep a mirror from being offloaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import World, switch
from planner_changes import (
    NETDEV,
    Change,
    beside,
    bond,
    both,
    bridge,
    clsact,
    filtered,
    flags,
    flows,
    leads_to,
    mirror,
    new_port,
    no_device,
    ofport,
    plain,
    port,
    refuse,
    reserve,
    selects,
    to_vlan,
    unexamined,
    world_settings,
)

from ovs_ebpf_tap.model.desired import (
    CLSACT,
    EGRESS,
    NATIVE,
    OFFLOADED,
    TCX,
)
from ovs_ebpf_tap.model.flow import IN_PORT, FlowName, Known
from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortPaths
from ovs_ebpf_tap.model.rows import MODE_KEY, PROTECTED_KEY, SELECT_VLAN_KEY

NUMBERED = PortPaths(numbered=FlowName(0, 1, 0), origins=frozenset({Known()}))


def untagged(name: str) -> PortPaths:
    """Packets without a tag come from one port by number."""
    return replace(NUMBERED, origins=frozenset({Known.of(IN_PORT, ofport(name))}))


FROM_PORT_C = replace(untagged("c"), tagged_origins=untagged("c").origins)


@pytest.mark.parametrize(
    "change",
    [
        mirror(external_ids={MODE_KEY: "offload"}),
        mirror(output_vlan=7),
        mirror(snaplen=65535),
        both(mirror(snaplen=65535), beside(src="a", out="out")),
        both(mirror(snaplen=65535), beside(dst="out", out="b")),
        mirror(snaplen=14),
        both(NETDEV, mirror(snaplen=20)),
        mirror(filter=""),
        mirror(filter="tcp"),
        mirror(filter="dl_vlan=5"),
        mirror(select_vlan=(10,)),
        mirror(select_vlan=(4095,), external_ids={SELECT_VLAN_KEY: ""}),
        mirror(select_vlan=(4095,), external_ids={SELECT_VLAN_KEY: "10"}),
        bridge(datapath_type="netdev"),
        bridge(datapath_type="system"),
        world_settings(hw_offload=True),
        world_settings(vlan_limit=2),
        port("out", trunks=(10, 20)),
        port("out", vlan_mode="trunk"),
        port("out", vlan_mode="native-untagged", tag=5),
        port("out", vlan_mode="dot1q-tunnel", tag=5),
        port("out", tag=5, priority_tags="always"),
        port("out", protected=True),
        port("b", tag=5),
        port("b", trunks=(5, 6)),
        port("b", vlan_mode="trunk"),
        port("b", vlan_mode="native-tagged", tag=5),
        port("b", vlan_mode="native-untagged", tag=5),
        port("b", vlan_mode="dot1q-tunnel", tag=5),
        port("b", priority_tags="never"),
        port("b", priority_tags="always"),
        port("b", protected=True),
        port("c", tag=10),
        no_device("b"),
        both(new_port("b", device=None, opened=False), bridge(datapath_type="netdev")),
        both(new_port("b", device=None, type="internal"), bridge(datapath_type="netdev")),
        # Rows that are older than their device.
        new_port("b", type="internal", state={"ifindex": 0}),
        new_port("b", type="internal", state={"ifindex": 7}),
        new_port("b", state={"ifindex": 0}),
        new_port("b", device=None, state={"ifindex": 7}),
        new_port("b", device=None, state={"ifindex": 0}),
        new_port("b", type="system"),
        new_port("b", type="internal"),
        new_port("b", type="tap"),
        both(NETDEV, new_port("b", policed=True)),
        new_port("b", type="internal", policed=True),
        new_port("out", policed=True),
        both(new_port("b", policed=True), mirror(select_src_port=())),
        both(clsact, new_port("b", type="internal"), reserve("b")),
        filtered("c", takes=True),
        filtered("b", direction=EGRESS, takes=True),
        filtered("b", ends=True),
        both(NETDEV, filtered("b", takes=True)),
        both(clsact, filtered("b", takes=True)),
        new_port("out", type="internal"),
        new_port("out", device={"up": False, "running": False}),
        new_port("b", members=("b1", "b2")),
        new_port("b", members=("b1", "b2"), device={"up": False, "running": False}),
        bond("active-backup", "o1"),
        bond(None, "o2"),
        refuse("out"),
        flags(no_receive="a"),
        flags(no_receive="out"),
        flags(no_receive_stp="out"),
        flags(no_forward="a"),
        selects("a out"),
        to_vlan(7),
        both(
            to_vlan(7),
            mirror(select_dst_port=()),
            port("c", tag=7),
            port("out", vlan_mode="dot1q-tunnel", tag=9),
        ),
        # A destination's tags tell more where OVS looks at two.
        both(port("b", vlan_mode="dot1q-tunnel", tag=5, cvlans=(7,)), world_settings(vlan_limit=2)),
        both(
            port("c", vlan_mode="dot1q-tunnel", tag=5),
            port("out", tag=5),
            world_settings(vlan_limit=2),
        ),
        port("c", vlan_mode="dot1q-tunnel", tag=5),
        # What flows do is of no consequence where nothing depends on it.
        flows(FlowTraits(outputs=True)),
        flows(FlowTraits(modifies=True)),
        both(flows(FlowTraits(modifies=True)), port("b", tag=5)),
        leads_to(b=NUMBERED),
        both(leads_to(b=NUMBERED), port("b", trunks=(5, 6)), selects("b")),
        # Ports of one VLAN, or of several between which flows send nothing.
        both(leads_to(b=NUMBERED), port("a", tag=5), port("b", tag=5)),
        both(leads_to(b=NUMBERED), port("b", tag=5), selects("b")),
        both(leads_to(b=untagged("c")), port("b", tag=5)),
        both(leads_to(b=untagged("c"), a=untagged("x")), port("b", tag=5)),
        # Tags that no port but an access port lets in, or that NORMAL leaves to none.
        both(leads_to(b=FROM_PORT_C), port("b", tag=5), port("c", tag=5), selects("b")),
        both(leads_to(b=FROM_PORT_C, normal=False), port("b", tag=5), selects("b")),
        both(
            leads_to(b=FROM_PORT_C),
            *(port(each, tag=5) for each in "abc"),
            mirror(select_all=True),
        ),
        both(flows(None), mirror(select_vlan=(4095,)), leads_to(b=None)),
        # Those of a parked mirror are what they were, until they are known again.
        both(flows(None), mirror(select_vlan=(4095,))),
        both(leads_to(), flows(None), mirror(select_vlan=(4095,)), unexamined("c")),
        both(flows(None), mirror(select_vlan=(4095,)), unexamined("b")),
        # Other mirrors.
        beside(src="c", out="out"),
        beside(src="a", out="c", snaplen=200),
        both(mirror(snaplen=200), beside(src="a", out="out", snaplen=200)),
        beside(dst="out", out="c"),
        beside(src="c", out="b"),
        both(port("b", tag=5), beside(src="c", out="b")),
        # Tags that one destination takes off, and another does not.
        both(NETDEV, port("a", trunks=(6, 7)), port("b", tag=5)),
        both(NETDEV, port("a", tag=5), port("b", vlan_mode="native-untagged", tag=5)),
        both(NETDEV, port("b", tag=5), port("out", tag=9)),
        both(NETDEV, port("b", tag=5), port("out", vlan_mode="native-untagged", tag=5)),
        both(NETDEV, port("b", tag=5), mirror(select_vlan=(6,))),
        both(NETDEV, port("b", tag=5), mirror(select_all=True)),
        both(NETDEV, port("b", tag=5), beside(src="a b c", out="out")),
    ],
)
def test_what_does_not_matter(change: Change) -> None:
    world = plain()
    change(world)
    assert world.decision().reason is None
    assert world.decision().state == OFFLOADED


@pytest.mark.parametrize(
    "change",
    [
        new_port("b", device={"up": False, "running": False}),
        port("b", vlan_mode="dot1q-tunnel", tag=5, cvlans=(7,)),
        port("b", tag=5, priority_tags="always"),
        both(port("out", protected=True), port("c", protected=True)),
        both(flows(None), port("b", tag=5)),
        leads_to(b=PortPaths(repeats=FlowName(0, 1, 0))),
    ],
)
def test_what_does_not_matter_to_arrivals(change: Change) -> None:
    world = plain()
    change(world)
    assert world.decision().state == NATIVE
    world.set_mirror("m", select_dst_port=())
    assert world.decision().state == OFFLOADED


def test_a_flip_under_way_is_no_protected_output() -> None:
    world = plain()
    world.set_port("out", protected=True)
    world.set_mirror("m", external_ids={PROTECTED_KEY: "false"})
    assert world.decision().state == OFFLOADED


@pytest.mark.parametrize(
    ("attach", "settings", "policed", "state"),
    [
        (TCX, {"hw_offload": True}, False, OFFLOADED),
        (CLSACT, {"hw_offload": True}, False, NATIVE),
        (CLSACT, {"hw_offload": False}, False, OFFLOADED),
        (CLSACT, {}, True, NATIVE),
    ],
)
def test_clsact_stays_clear_of_what_ovs_does_with_qdiscs(
    attach: str, settings: dict[str, Any], policed: bool, state: str
) -> None:
    world = World(settings=settings).add_bridge().add_port("a", policed=policed).add_port("out")
    world.add_mirror(src="a", out="out")
    world.attach = attach
    assert world.decision().state == state


def test_outputs_where_nothing_is_changed_need_no_hook() -> None:
    """Not with an internal one, whose hook is not on the copies' way."""
    world = switch("a").add_port("o1", policed=True).add_port("o2", type="internal", tag=5)
    world.add_mirror("m", src="a", out="o1").add_mirror("n", src="a", out="o2")
    world.attach = CLSACT
    world.refused = {"o1": "hook refused", "o2": "hook refused"}
    assert set(world.states().values()) == {OFFLOADED}


def test_a_refused_hook_of_another_port_is_nobodys() -> None:
    world = plain()
    refuse("c")(world)
    assert world.decision().state == OFFLOADED
