"""Which mirrors are offloaded, by which hooks, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from builders import World, switch

from ovs_ebpf_tap.decide.planner import make_plan
from ovs_ebpf_tap.model import surroundings
from ovs_ebpf_tap.model.desired import (
    CLSACT,
    EGRESS,
    INGRESS,
    INVALID,
    NATIVE,
    NOTHING_SELECTED,
    OFFLOAD,
    OFFLOADED,
    TCX,
    Plan,
)
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortFlags
from ovs_ebpf_tap.model.limits import MAX_MIRRORS, MAX_NATIVE_MIRRORS, MAX_RULES_PER_HOOK
from ovs_ebpf_tap.model.rows import MODE_KEY, PROTECTED_KEY, SELECT_VLAN_KEY, Database

ANY_LENGTH = 0xFFFFFFFF
NOWHERE = UUID(int=0xDEAD)

# Why a mirror of ports a and b to out is not offloaded.


def mirror(**columns: Any) -> Callable[[World], None]:
    return lambda world: world.set_mirror("m", **columns)


def port(name: str, **columns: Any) -> Callable[[World], None]:
    return lambda world: world.set_port(name, **columns)


def bridge(**columns: Any) -> Callable[[World], None]:
    return lambda world: world.set_bridge("br0", **columns)


def new_port(name: str, **settings: Any) -> Callable[[World], None]:
    """Another port in the place of the one called so."""

    def change(world: World) -> None:
        world.remove_port(name)
        world.add_port(name, **settings)
        world.remake_mirror("m", src="a b", dst="a b", out="out")

    return change


def world_settings(**settings: Any) -> Callable[[World], None]:
    return lambda world: world.settings.update(settings)


def no_device(name: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        del world.devices[name]

    return change


def select_output(world: World) -> None:
    world.remake_mirror("m", dst="out", out="out")


def both(*changes: Callable[[World], None]) -> Callable[[World], None]:
    def change(world: World) -> None:
        for each in changes:
            each(world)

    return change


NETDEV = bridge(datapath_type="netdev")


def clsact(world: World) -> None:
    world.attach = CLSACT


def refuse(device: str) -> Callable[[World], None]:
    return lambda world: world.refused.update({device: "hook refused: Operation not supported"})


def filtered(device: str, direction: str = INGRESS, **settings: Any) -> Callable[[World], None]:
    """Another program's filter on the device."""
    each = surroundings.Filter(direction, 50, "u32", **settings)
    return lambda world: world.filters.update({device: (each,)})


def ingress_qdisc(device: str) -> Callable[[World], None]:
    return lambda world: world.ingress_qdiscs.add(device)


def reserve(device: str) -> Callable[[World], None]:
    return lambda world: world.reserved.update({device: "its device is new"})


def flags(**names: str) -> Callable[[World], None]:
    sets = {flag: frozenset(ports.split()) for flag, ports in names.items()}
    return lambda world: world.port_flags.update({"br0": PortFlags(**sets)})


def flows(traits: FlowTraits | None) -> Callable[[World], None]:
    return lambda world: world.traits.update({"br0": traits})


def bond(mode: str | None, active: str | None) -> Callable[[World], None]:
    """As the output, with the member in use."""

    def change(world: World) -> None:
        new_port("out", members=("o1", "o2"), bond_mode=mode)(world)
        member = world.devices[active].address if active is not None else "02:00:00:00:ff:ff"
        world.set_port("out", bond_active_member=member)

    return change


def to_vlan(vlan: int) -> Callable[[World], None]:
    return mirror(output_port=None, output_vlan=vlan)


def beside(name: str = "other", /, **selection: Any) -> Callable[[World], None]:
    """Another mirror on the bridge."""

    def change(world: World) -> None:
        world.add_mirror(name, **selection)

    return change


def crowd(world: World) -> None:
    """So many other mirrors that OVS, which keeps statistics of those, has not taken this one."""
    for n in range(MAX_NATIVE_MIRRORS):
        world.add_mirror(f"n{n}", src="c", out="out", statistics={"tx_packets": 0})
    world.set_mirror("m", external_ids={MODE_KEY: "native"})


@pytest.mark.parametrize("left_over", [{}, {"filter": "odd=1", "out": "out"}])
def test_rows_that_ovs_does_not_take_need_no_room(left_over: dict[str, Any]) -> None:
    """A mirror just made has no statistics yet."""
    world = plain()
    world.set_mirror("m", external_ids={MODE_KEY: "native"})
    for n in range(MAX_NATIVE_MIRRORS):
        world.add_mirror(f"n{n}", src="c", **left_over)
    assert world.decision("m").state == NATIVE


def on_two_bridges(world: World) -> None:
    world.add_bridge("br1")
    world.set_bridge("br1", mirrors=world.bridges["br0"].mirrors)


def selects(destinations: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.remake_mirror("m", dst=destinations, out="out")

    return change


def other_bridge(world: World) -> None:
    world.add_bridge("br1").add_port("far", bridge="br1")
    world.set_mirror("m", output_port=world.ports["far"].uuid)


NATIVE_MODE: dict[str, Any] = {"external_ids": {MODE_KEY: "native"}}


def plain() -> World:
    return switch("a b c out").add_mirror(src="a b", dst="a b", out="out")


REASONS: list[tuple[str, Callable[[World], None], str, str]] = [
    # INVALID: what OVS refuses.
    (
        "no output",
        mirror(output_port=None),
        INVALID,
        "it has neither output_port nor output_vlan",
    ),
    (
        "output gone",
        mirror(output_port=NOWHERE),
        INVALID,
        "its output_port is not on this bridge",
    ),
    ("output elsewhere", other_bridge, INVALID, "its output_port is not on this bridge"),
    (
        "invalid is said before the mode",
        mirror(output_port=None, external_ids={MODE_KEY: "native"}),
        INVALID,
        "it has neither output_port nor output_vlan",
    ),
    ("filter of no sense", mirror(filter="tcp,ip_dst=10.0.0.1,odd=1"), INVALID, "filter: "),
    (
        "no room",
        crowd,
        INVALID,
        "Open vSwitch takes 32 mirrors on a bridge, and not this",
    ),
    # The mirror.
    ("two bridges", on_two_bridges, NATIVE, "it is on more than one bridge"),
    ("mode", mirror(external_ids={MODE_KEY: "native"}), NATIVE, "ebpf-tap-mode is native"),
    (
        "mode of no sense",
        mirror(external_ids={MODE_KEY: "of\nload"}),
        NATIVE,
        "ebpf-tap-mode is neither offload nor native: 'of\\nload'",
    ),
    (
        "snaplen",
        both(NETDEV, mirror(snaplen=19)),
        NATIVE,
        "snaplen is less than 20, within which the userspace datapath cuts VLAN tags",
    ),
    (
        "no cutter",
        both(mirror(snaplen=64), refuse("")),
        NATIVE,
        "it has a snaplen: hook refused: Operation not supported",
    ),
    ("filter", mirror(filter="ct_state=+trk"), NATIVE, "filter: "),
    # The bridge, and the host.
    (
        "spanning tree",
        bridge(spanning_tree=True),
        NATIVE,
        "the bridge runs STP or RSTP, whose port states only OVS knows",
    ),
    ("datapath", bridge(datapath_type="dummy"), NATIVE, "datapath type dummy is not known"),
    (
        "hw-offload",
        both(clsact, world_settings(hw_offload=True)),
        NATIVE,
        "hw-offload, until Open vSwitch is restarted without",
    ),
    # The output.
    (
        "output bond",
        new_port("out", members=("o1", "o2")),
        NATIVE,
        "output port out is a bond, whose choice of member only OVS knows",
    ),
    (
        "output bond that balances",
        bond("balance-slb", "o1"),
        NATIVE,
        "output port out is a bond, whose choice of member only OVS knows",
    ),
    (
        "output bond whose member in use is not there",
        bond("active-backup", None),
        NATIVE,
        "output port out is a bond, whose choice of member only OVS knows",
    ),
    (
        "output protected",
        both(port("out", protected=True), port("c", protected=True)),
        NATIVE,
        "output port out is protected, and so is c: at destination ports only Open vSwitch",
    ),
    (
        "output patch",
        new_port("out", type="patch", device=None),
        NATIVE,
        "output port out is of type patch",
    ),
    (
        "output device",
        no_device("out"),
        NATIVE,
        "output port out has no network device out",
    ),
    ("output interface", port("out", interfaces=()), NATIVE, "output port out has no interface"),
    (
        "output not Ethernet",
        new_port("out", device={"ethernet": False}),
        NATIVE,
        "output port out: device out is not an Ethernet device",
    ),
    (
        "output no-forward",
        flags(no_forward="out"),
        NATIVE,
        "output port out has the OpenFlow flag no-forward",
    ),
    (
        "output internal, and cut",
        both(new_port("out", type="internal"), mirror(snaplen=200)),
        NATIVE,
        "output port out is internal, and the mirror has a snaplen",
    ),
    (
        "output policed, whose hook is to change the copies",
        both(clsact, new_port("out", policed=True, tag=5)),
        NATIVE,
        "output port out has ingress_policing, which excludes clsact; TCX needs Linux 6.6",
    ),
    (
        "output refused, whose hook is to change the copies",
        both(refuse("out"), port("out", tag=5)),
        NATIVE,
        "output port out: hook refused",
    ),
    # The output VLAN.
    (
        "output_vlan of an access port, out of a tunnel",
        both(
            to_vlan(7),
            mirror(select_dst_port=()),
            port("c", tag=7),
            port("b", vlan_mode="dot1q-tunnel", tag=9),
        ),
        NATIVE,
        "a port of its output_vlan takes tags off, and only Open vSwitch knows whether there is",
    ),
    (
        "output_vlan of an access port, with two tags",
        both(to_vlan(7), port("c", tag=7), world_settings(vlan_limit=2)),
        NATIVE,
        "a port of its output_vlan takes tags off, and only Open vSwitch knows whether there is",
    ),
    (
        "output_vlan of a patch port",
        both(to_vlan(7), new_port("c", type="patch", device=None), to_vlan(7)),
        NATIVE,
        "output port c is of type patch",
    ),
    # The selected ports.
    ("tunnel", new_port("b", type="vxlan", device=None), NATIVE, "port b is of type vxlan"),
    ("DPDK", new_port("b", type="dpdk", device=None), NATIVE, "port b is of type dpdk"),
    (
        "not Ethernet",
        new_port("b", device={"ethernet": False}),
        NATIVE,
        "port b: device b is not an Ethernet device",
    ),
    (
        "no-receive-stp",
        flags(no_receive_stp="b"),
        NATIVE,
        "port b has the OpenFlow flag no-receive-stp",
    ),
    (
        "policed",
        both(clsact, new_port("b", policed=True)),
        NATIVE,
        "port b has ingress_policing, which excludes clsact; TCX needs Linux 6.6 or later",
    ),
    (
        "policed before the kernel's datapath",
        new_port("b", policed=True),
        NATIVE,
        "port b has ingress_policing: its hook would copy packets that this drops",
    ),
    (
        "policed by another program",
        filtered("b", takes=True, what="police 8000 bit/s"),
        NATIVE,
        "port b: filter 50 (u32, police 8000 bit/s) on ingress of another program drops or diverts",
    ),
    (
        "internal, and what the host sends is policed",
        both(NETDEV, new_port("b", type="internal"), filtered("b", direction=EGRESS, takes=True)),
        NATIVE,
        "port b: filter 50 (u32) on egress of another program drops or diverts",
    ),
    (
        "filtered before a clsact filter",
        both(clsact, NETDEV, filtered("b", takes=True)),
        NATIVE,
        "port b: filter 50 (u32) on ingress of another program keeps packets from its hook",
    ),
    (
        "filtered before a clsact filter, on leaving",
        both(clsact, filtered("b", direction=EGRESS, ends=True)),
        NATIVE,
        "port b: filter 50 (u32) on egress of another program keeps packets from its hook",
    ),
    (
        "an ingress qdisc",
        both(clsact, ingress_qdisc("b")),
        NATIVE,
        "port b: an ingress qdisc excludes clsact (TCX needs Linux 6.6 or later); if hw-offload",
    ),
    (
        "an ingress qdisc, and a policer",
        both(clsact, filtered("b", takes=True, what="police 8000 bit/s"), ingress_qdisc("b")),
        NATIVE,
        "port b: an ingress qdisc excludes clsact (TCX needs Linux 6.6 or later); it has filter 50 "
        "(u32, police 8000 bit/s) on ingress",
    ),
    ("a new device", both(clsact, reserve("b")), NATIVE, "port b: its device is new"),
    (
        "output new, whose hook is to change the copies",
        both(clsact, reserve("out"), port("out", tag=5)),
        NATIVE,
        "output port out: its device is new",
    ),
    (
        "output policed, which is a destination itself",
        both(clsact, new_port("out", policed=True), select_output),
        NATIVE,
        "output port out has ingress_policing, which excludes clsact; TCX needs Linux 6.6 or later",
    ),
    ("refused", refuse("b"), NATIVE, "port b: hook refused: Operation not supported"),
    (
        "device gone, to the userspace datapath",
        both(bridge(datapath_type="netdev"), no_device("b")),
        NATIVE,
        "port b: device b is gone, and Open vSwitch still has it",
    ),
    # Devices whose name others have.
    (
        "another one, of the name",
        new_port("b", state={"bound": 0}),
        NATIVE,
        "port b: device b is not the one that Open vSwitch has open",
    ),
    (
        "none of the name, to the userspace datapath",
        both(NETDEV, new_port("b", device=None, state={"bound": 0})),
        NATIVE,
        "port b: device b is gone, and Open vSwitch still has it",
    ),
    # Devices that are elsewhere.
    (
        "moved internal port",
        new_port("b", device=None, type="internal", state={"ifindex": 0}),
        NATIVE,
        "port b: device b is not in this network namespace",
    ),
    (
        "moved, and its row does not know yet",
        new_port("b", device=None, type="internal", state={"ifindex": 7, "away": True}),
        NATIVE,
        "port b: device b is not in this network namespace",
    ),
    (
        "moved, and another one has the name",
        new_port("b", type="internal", state={"away": True}),
        NATIVE,
        "port b: device b is not in this network namespace: another one has its name",
    ),
    (
        "moved, and one of another kind has the name",
        new_port("b", type="internal", device={"kind": "veth"}),
        NATIVE,
        "port b: device b is not in this network namespace: another one has its name",
    ),
    (
        "tap, and one of another kind has the name",
        new_port("b", type="tap", device={"kind": "veth"}),
        NATIVE,
        "port b: device b is not in this network namespace: another one has its name",
    ),
    (
        "moved, to the userspace datapath",
        both(bridge(datapath_type="netdev"), new_port("b", device=None, state={"away": True})),
        NATIVE,
        "port b: device b is not in this network namespace",
    ),
    (
        "moved member of a bond",
        both(
            bridge(datapath_type="netdev"),
            new_port("b", members=("b1", "b2")),
            no_device("b2"),
        ),
        NATIVE,
        "port b: device b2 is gone, and Open vSwitch still has it",
    ),
    (
        "moved, and any port is selected",
        both(
            new_port("c", device=None, type="internal", state={"ifindex": 0}),
            mirror(select_all=True),
        ),
        NATIVE,
        "port c: device c is not in this network namespace",
    ),
    (
        "moved output",
        new_port("out", device=None, type="internal", state={"ifindex": 0}),
        NATIVE,
        "output port out: device out is not in this network namespace",
    ),
    (
        "moved output, and another one has the name",
        new_port("out", type="internal", device={"kind": "veth"}),
        NATIVE,
        "output port out: device out is not in this network namespace: another one has its name",
    ),
    (
        "moved port of the output VLAN",
        both(
            new_port("c", device=None, type="internal", state={"ifindex": 0}),
            to_vlan(7),
            mirror(select_dst_port=()),
        ),
        NATIVE,
        "output port c: device c is not in this network namespace",
    ),
    (
        "renamed before anybody looked",
        both(
            new_port("b", device=None, state={"ifindex": 1}),
            lambda world: world.devices.update(other=Device(1, "other", 1500, True, True)),
        ),
        NATIVE,
        "port b: device b has another name",
    ),
    # Leaving packets.
    (
        "down",
        new_port("b", device={"up": False, "running": False}),
        NATIVE,
        "port b: device b is down",
    ),
    (
        "no carrier",
        new_port("b", device={"running": False}),
        NATIVE,
        "port b: device b is down",
    ),
    (
        "tunnel beside an access port",
        both(selects("b"), port("b", vlan_mode="dot1q-tunnel", tag=5), port("out", tag=5)),
        NATIVE,
        "port b is a dot1q-tunnel: whether Open vSwitch has looked at the tag of what it sends",
    ),
    (
        "tunnel with cvlans",
        port("b", vlan_mode="dot1q-tunnel", tag=5, cvlans=(7,)),
        NATIVE,
        "port b is a dot1q-tunnel: whether Open vSwitch has looked at the tag of what it sends",
    ),
    (
        "tunnel without a tag",
        port("c", vlan_mode="dot1q-tunnel"),
        NATIVE,
        "port c is a dot1q-tunnel without a tag: what it puts on frames is taken off with other",
    ),
    (
        "trunk between a tunnel and an access port",
        both(port("c", vlan_mode="dot1q-tunnel", tag=5), port("out", tag=5)),
        NATIVE,
        "port a sends what comes from dot1q-tunnels and from others: how many of its tags are",
    ),
    (
        "priority tags behind a tunnel",
        both(
            selects("b"),
            port("c", vlan_mode="dot1q-tunnel", tag=5),
            port("b", priority_tags="always"),
        ),
        NATIVE,
        "port b sends what comes from dot1q-tunnels and from others: how many of its tags are",
    ),
    (
        "priority tags",
        port("b", tag=5, priority_tags="always"),
        NATIVE,
        "port b has priority-tags: whether a tag of what it sends is one of these",
    ),
    # Flow tables.
    (
        "flow tables unknown",
        flows(None),
        NATIVE,
        "it selects leaving packets, and the flow tables are not known (yet)",
    ),
    (
        "outputs beside VLANs",
        both(flows(FlowTraits(outputs=True)), port("b", tag=5)),
        NATIVE,
        "it selects leaving packets of ports with VLAN settings, and flows that output to ports",
    ),
    (
        "modifies",
        both(flows(FlowTraits(modifies=True)), world_settings(ovs_version="3.1.2")),
        NATIVE,
        "it selects leaving packets, and flows modify packets",
    ),
    (
        "modifies, and no version",
        flows(FlowTraits(modifies=True)),
        NATIVE,
        "it selects leaving packets, and flows modify packets",
    ),
    (
        "repeats",
        flows(FlowTraits(repeats=True)),
        NATIVE,
        "it selects leaving packets, and flows output to a port more than once",
    ),
    (
        "metadata",
        both(flows(FlowTraits(sets_metadata=True)), world_settings(ovs_version="3.1.5")),
        NATIVE,
        "it selects leaving packets, and flows set registers or metadata",
    ),
    # Other mirrors.
    (
        "same output as a native one",
        beside(src="c", out="out", **NATIVE_MODE),
        NATIVE,
        "it shares its output with mirror other, which is native",
    ),
    (
        "same output VLAN as a native one",
        both(to_vlan(7), beside(src="c", output_vlan=7, **NATIVE_MODE)),
        NATIVE,
        "it shares its output with mirror other, which is native",
    ),
    (
        "copies selected by a native one",
        beside(dst="out", out="c", **NATIVE_MODE),
        NATIVE,
        "mirror other, which is native, selects its output port",
    ),
    (
        "copies changed by a native VLAN",
        both(port("b", vlan_mode="native-tagged", tag=5), beside(src="c", out="b")),
        NATIVE,
        "mirror other copies to port b, which it selects, and whose VLAN settings change the",
    ),
    (
        "copies changed by priority tags",
        both(port("b", priority_tags="if-nonzero"), beside(src="c", out="b")),
        NATIVE,
        "mirror other copies to port b, which it selects, and whose VLAN settings change the",
    ),
    (
        "copies, and priority tags at the output",
        both(port("out", priority_tags="always"), beside(src="c", out="b")),
        NATIVE,
        "it selects copies of mirror other, and tags that those have lost are of consequence",
    ),
    (
        "copies, and a second tag at the output",
        both(
            port("out", vlan_mode="native-untagged", tag=5),
            world_settings(vlan_limit=2),
            beside(src="c", out="b"),
        ),
        NATIVE,
        "it selects copies of mirror other, and tags that those have lost are of consequence",
    ),
    (
        "copies cut by OVS",
        beside(src="c", out="b", snaplen=200, **NATIVE_MODE),
        NATIVE,
        "it selects copies of mirror other, native and changed",
    ),
    (
        "copies of copies changed by OVS",
        both(
            beside("first", src="a", out="c", snaplen=200, **NATIVE_MODE),
            beside(dst="c", out="b", **NATIVE_MODE),
        ),
        NATIVE,
        "it selects copies of mirror other, native and changed",
    ),
    (
        "copies of OVS beside the packets",
        both(flows(FlowTraits(outputs=True)), beside(src="c", out="b", **NATIVE_MODE)),
        NATIVE,
        "it selects copies of mirror other, native to a port that flows may output to",
    ),
    (
        "copies, and a filter on tags",
        both(mirror(filter="dl_vlan=5"), beside(src="c", out="b")),
        NATIVE,
        "it selects copies of mirror other, and its filter VLAN tags",
    ),
    (
        "another snaplen, in other VLANs and the same",
        both(mirror(snaplen=200, select_vlan=(5,)), beside(src="a", out="out")),
        NATIVE,
        "it shares output and packets with mirror other, of another snaplen",
    ),
    (
        "another snaplen, at other hooks",
        both(mirror(snaplen=200), beside(dst="c", out="out", snaplen=300)),
        NATIVE,
        "it shares its output with a mirror of another snaplen that may select the same",
    ),
    (
        "other copies of the same packets, in another VLAN",
        beside(src="a", output_vlan=7),
        NATIVE,
        "packets come to its output also by way of another mirror, and in another VLAN",
    ),
    (
        "other copies of the same packets, where they leave through another port",
        both(NETDEV, selects("b"), port("c", trunks=(5,)), beside(dst="c", output_vlan=7)),
        NATIVE,
        "packets come to its output also by way of another mirror, and in another VLAN",
    ),
    (
        "packets in its output VLAN, and copies of them in another",
        both(
            mirror(select_src_port=(), output_port=None, output_vlan=20),
            beside(dst="c", output_vlan=10, select_vlan=(20,)),
        ),
        NATIVE,
        "packets come to its output also by way of another mirror, and in another VLAN",
    ),
    (
        "destinations with tags and without",
        both(NETDEV, port("b", tag=5)),
        NATIVE,
        "it selects what leaves through ports that take tags off and through others",
    ),
    (
        "destinations with tags and without, and one is an internal port",
        both(new_port("b", type="internal"), port("b", tag=5)),
        NATIVE,
        "it selects what leaves through ports that take tags off and through others",
    ),
    (
        "destinations with tags and with other tags",
        both(
            NETDEV,
            port("a", vlan_mode="dot1q-tunnel", tag=5),
            port("b", vlan_mode="native-untagged", tag=5),
            mirror(select_src_port=()),
            world_settings(vlan_limit=2),
        ),
        NATIVE,
        "it selects what leaves through ports that take tags off and through others",
    ),
    (
        "other copies of the same packets, which are in the output VLAN",
        both(
            to_vlan(7),
            mirror(select_vlan=(7,), select_dst_port=()),
            port("c", tag=8),
            beside(src="a", out="c"),
            beside("one more", dst="c", output_vlan=7),
        ),
        NATIVE,
        "it shares its output with mirror one more, which is native",
    ),
]


@pytest.mark.parametrize(
    ("change", "state", "reason"), [r[1:] for r in REASONS], ids=[r[0] for r in REASONS]
)
def test_reasons(change: Callable[[World], None], state: str, reason: str) -> None:
    world = plain()
    assert world.decision().state == OFFLOADED

    change(world)

    decision = world.decision()
    assert decision.state == state
    assert decision.reason is not None
    assert decision.reason.startswith(reason)
    rules = [rule for hook in world.plan().hooks.values() for rule in hook]
    assert not any(rule.mirror == world.mirrors["m"].uuid for rule in rules)


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
        both(flows(FlowTraits(modifies=True)), world_settings(ovs_version="3.1.3")),
        both(flows(FlowTraits(sets_metadata=True)), world_settings(ovs_version="3.1.6")),
        both(flows(FlowTraits(sets_metadata=True)), world_settings(ovs_version="3.1.0")),
        # Those of a parked mirror are what they were, until they are known again.
        both(flows(None), mirror(select_vlan=(4095,))),
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
def test_what_does_not_matter(change: Callable[[World], None]) -> None:
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
        both(flows(FlowTraits(True, True, True)), world_settings(ovs_version="3.1.0")),
    ],
)
def test_what_does_not_matter_to_arrivals(change: Callable[[World], None]) -> None:
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
    assert rule.edit.max_len == max_len


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


# Mirrors beside each other.


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
