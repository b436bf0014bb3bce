"""Why a mirror is not offloaded: the ports that it selects, and their devices."""

from __future__ import annotations

from planner_changes import (
    NETDEV,
    ReasonCase,
    both,
    bridge,
    clsact,
    filtered,
    flags,
    geneve_options,
    ingress_qdisc,
    mirror,
    new_port,
    no_device,
    port,
    refuse,
    reserve,
    select_output,
    to_vlan,
    tunnel,
)

from ovs_ebpf_tap.model.desired import (
    EGRESS,
    NATIVE,
)
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.limits import MAX_GENEVE_OPTIONS

CASES: list[ReasonCase] = [
    # The selected ports.
    (
        "tunnel of the userspace datapath",
        both(NETDEV, tunnel("b", key="1")),
        NATIVE,
        "port b is of type vxlan",
    ),
    ("tunnel of another type", new_port("b", type="stt", device=None), NATIVE, "port b is of type"),
    (
        "tunnel to a host's name",
        tunnel("b", remote_ip="peer.example"),
        NATIVE,
        "the options of tunnel port b do not tell its packets from those of other ports",
    ),
    (
        "beside a tunnel to a host's name",
        both(tunnel("b", key="1"), tunnel("c", remote_ip="peer.example")),
        NATIVE,
        "the options of tunnel port c do not tell its packets from those of other ports",
    ),
    (
        "tunnel with keys from flows",
        tunnel("b", key="flow"),
        NATIVE,
        "it selects what leaves through tunnel port b, and flows tell with which key or addresses",
    ),
    (
        "tunnels that send alike",
        both(tunnel("b", key="1"), tunnel("c", in_key="2", out_key="1")),
        NATIVE,
        "it selects what leaves through tunnel port b, and port c may send with the same key and",
    ),
    (
        "geneve on a bridge that knows many options",
        both(tunnel("a", "geneve", key="1"), geneve_options(MAX_GENEVE_OPTIONS + 1)),
        NATIVE,
        f"port a is a Geneve port of a bridge that knows more than {MAX_GENEVE_OPTIONS} kinds of",
    ),
    (
        "output to a tunnel",
        tunnel("out", key="1"),
        NATIVE,
        "output port out is of type vxlan",
    ),
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
        "another one, of the name, to which Open vSwitch sends",
        both(
            NETDEV,
            new_port("b", state={"bound": 1}),
            lambda world: world.devices.update(other=Device(1, "other", 1500, True, True)),
        ),
        NATIVE,
        "port b: device b is not the one that Open vSwitch has open, and Open vSwitch sends to it",
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
]
