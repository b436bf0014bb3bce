"""Bridges that learn addresses, with the ports, VLANs and few flows that other tools give them."""

from __future__ import annotations

from collections.abc import Iterator

from deployments.mirrors import UserMirror
from deployments.rows import BridgePlan, PortRow, Talk
from deployments.usual_mirrors import of_all_ports, usual_mirrors


def _talks(*names: str) -> list[Talk]:
    """The first two talk to each other; the first hears from all others, and sends to the last."""
    first, second, *others = names
    return [
        *(Talk(first, second), Talk(second, first)),
        *(Talk(other, first) for other in others),
        Talk(first, others[-1]),
    ]


# libvirt: `<vlan>` of an interface, with and without `trunk` and `nativeMode`.
LIBVIRT = BridgePlan(
    "libvirt",
    bridge="ovsbr0",
    bridges={"ovsbr0": {}},
    ports={
        "vnet0": PortRow("ovsbr0", tag=10),
        "vnet1": PortRow("ovsbr0", tag=10),
        "vnet2": PortRow("ovsbr0", "tap", tag=10),
        "vnet3": PortRow("ovsbr0", "tap", tag=20),
        "vnet4": PortRow("ovsbr0", trunks=(10, 20)),
        "vnet5": PortRow("ovsbr0", tag=10, trunks=(10, 20), vlan_mode="native-untagged"),
        "eno1": PortRow("ovsbr0"),
    },
    talks=[
        *_talks("vnet0", "vnet1", "vnet2", "vnet3"),
        *(Talk("vnet4", "vnet0", (10,)), Talk("vnet5", "vnet0"), Talk("vnet0", "vnet5")),
        *(Talk("eno1", "vnet3", (20,)), Talk("eno1", "vnet0", (10,)), Talk("eno1", "vnet4", (20,))),
    ],
    connections=[("vnet0", "vnet1"), ("vnet5", "vnet0")],
    mirrors=[
        *usual_mirrors("vnet0", "vnet1", ("vnet0", "vnet1", "vnet2"), vlan=10),
        *of_all_ports(),
        UserMirror("tap", src=["vnet2"], dst=["vnet2"], output="tap"),
        UserMirror("trunk", src=["vnet4"], dst=["vnet4"]),
        UserMirror("native", src=["vnet5"], dst=["vnet5"]),
        UserMirror("uplink", src=["eno1"], dst=["eno1"]),
    ],
)

# Proxmox VE: a machine with a firewall is behind a Linux bridge, and that at an internal port.
_PROXMOX = BridgePlan(
    "proxmox",
    bridge="vmbr0",
    bridges={"vmbr0": {}},
    ports={
        "tap100i0": PortRow("vmbr0", tag=10),
        "tap101i0": PortRow("vmbr0", tag=10),
        "tap102i0": PortRow("vmbr0", "tap", tag=10),
        "tap103i0": PortRow("vmbr0", "tap"),
        "tap104i0": PortRow("vmbr0", tag=10, trunks=(20, 30), vlan_mode="native-untagged"),
        "fwln105o0": PortRow("vmbr0", "bridged-internal", tag=10),
        "eno1": PortRow("vmbr0"),
    },
    talks=[
        *_talks("tap100i0", "tap101i0", "tap102i0", "fwln105o0"),
        *(Talk("tap103i0", "tap100i0", (10,)), Talk("tap104i0", "tap100i0")),
        *(Talk("eno1", "tap100i0", (10,)), Talk("eno1", "tap104i0", (20,))),
    ],
    connections=[("tap100i0", "tap101i0"), ("fwln105o0", "tap100i0")],
    mirrors=[
        *usual_mirrors("tap100i0", "tap101i0", ("tap100i0", "tap101i0", "tap102i0"), vlan=10),
        UserMirror("trunk", src=["tap103i0"], dst=["tap103i0"]),
        UserMirror("native", src=["tap104i0"], dst=["tap104i0"]),
        # Internal ports get super-packets cut from the userspace datapath.
        UserMirror("firewalled", src=["fwln105o0"], dst=["fwln105o0"], offloaded=False),
        UserMirror("uplink", src=["eno1"], dst=["eno1"]),
    ],
)

# ovs-cni: pods' pairs, and mirrors of its producers and consumers.
_OVS_CNI = BridgePlan(
    "ovs-cni",
    bridge="br1",
    bridges={"br1": {}},
    ports={
        "veth1a2b": PortRow("br1", tag=100, vlan_mode="access"),
        "veth3c4d": PortRow("br1", tag=100, vlan_mode="access"),
        "veth5e6f": PortRow("br1", tag=200, vlan_mode="access"),
        "veth7081": PortRow("br1", trunks=(100, 200), vlan_mode="trunk"),
        "eth1": PortRow("br1"),
    },
    talks=[
        *_talks("veth1a2b", "veth3c4d", "veth5e6f"),
        *(Talk("veth7081", "veth1a2b", (100,)), Talk("veth7081", "veth5e6f", (200,))),
        *(Talk("eth1", "veth1a2b", (100,)), Talk("veth1a2b", "eth1")),
    ],
    connections=[("veth1a2b", "veth3c4d")],
    mirrors=[
        *usual_mirrors("veth1a2b", "veth3c4d", ("veth1a2b", "veth3c4d"), vlan=100),
        *of_all_ports(),
        UserMirror("trunk", src=["veth7081"], dst=["veth7081"]),
        UserMirror("producers-out", dst=["veth1a2b", "veth5e6f", "veth7081"], offloaded=False),
    ],
)


def _admitted(port: str) -> Iterator[str]:
    """Has a machine send with its own addresses, by tables for each of them."""
    here = f"in_port={{{port}}}"
    yield f"table=0,priority=100,{here},actions=note:00.00.00.0a.00.00,resubmit(,10)"
    yield f"table=10,priority=45000,{here},dl_src={{{port}.mac}},actions=resubmit(,20)"
    yield f"table=10,priority=40000,{here},actions=drop"
    own = f"table=20,priority=45000,{here}"
    yield f"{own},ip,nw_src={{{port}.ip}},actions=NORMAL"
    yield f"{own},ipv6,ipv6_src={{{port}.ip6}},actions=NORMAL"
    yield f"table=20,priority=50000,{here},arp,arp_spa={{{port}.ip}},actions=NORMAL"
    yield f"table=20,priority=49000,{here},arp,actions=drop"
    booting = "udp,nw_src=0.0.0.0,nw_dst=255.255.255.255,tp_src=68,tp_dst=67"
    yield f"table=20,priority=44000,{here},{booting},actions=NORMAL"
    for protocol in ("ip", "ipv6"):
        yield f"table=20,priority=40000,{here},{protocol},actions=drop"
    yield f"table=20,priority=100,{here},actions=NORMAL"


# OpenNebula: ports with a tag are native-untagged, with tables against false addresses.
_ONE = ("one-7-0", "one-8-0", "one-9-0")
_OPENNEBULA = BridgePlan(
    "opennebula",
    bridge="onebr10",
    bridges={"onebr10": {}},
    ports={
        "one-7-0": PortRow("onebr10", tag=30, vlan_mode="native-untagged"),
        "one-8-0": PortRow("onebr10", tag=30, vlan_mode="native-untagged"),
        "one-9-0": PortRow("onebr10", "tap", tag=30, vlan_mode="native-untagged"),
        "one-10-0": PortRow("onebr10", "tap", trunks=(10, 20), vlan_mode="trunk"),
        "eno2": PortRow("onebr10"),
    },
    talks=[
        *_talks(*_ONE),
        *(
            Talk("one-10-0", "one-7-0", (10,)),
            Talk("eno2", "one-7-0", (10,)),
            Talk("eno2", "one-9-0"),
        ),
    ],
    connections=[("one-7-0", "one-8-0")],
    mirrors=[
        *usual_mirrors("one-7-0", "one-8-0", _ONE, vlan=30),
        *of_all_ports(),
        UserMirror("trunk", src=["one-10-0"], dst=["one-10-0"]),
        UserMirror("uplink", src=["eno2"], dst=["eno2"]),
    ],
    flows={
        "onebr10": [
            "table=0,priority=0,actions=NORMAL",
            *(flow for port in _ONE for flow in _admitted(port)),
        ]
    },
)

# kube-ovn: pods' pairs without tags, its own internal port, a provider's bridge by a patch port,
# where services of a network outside are sent to their pods.
_PODS = ("1a2b3c4d_h", "5e6f7081_h", "92a3b4c5_h")
_SERVICE = (
    "cookie=0x1000,priority=10000,in_port={eth1},tcp,nw_dst=10.0.0.200,tp_dst=80,"
    "actions=mod_dl_dst:{1a2b3c4d_h.mac},output:{patch-outer}"
)
_KUBE_OVN = BridgePlan(
    "kube-ovn",
    bridge="br-int",
    bridges={"br-int": {}, "br-provider": {}},
    ports={
        **{pod: PortRow("br-int") for pod in _PODS},
        "ovn0": PortRow("br-int", "internal"),
        "patch-inner": PortRow("br-int", "patch", peer="patch-outer"),
        "patch-outer": PortRow("br-provider", "patch", peer="patch-inner"),
        "eth1": PortRow("br-provider", trunks=(0, 100)),
    },
    talks=[
        *_talks(*_PODS),
        *(Talk("ovn0", _PODS[0]), Talk("eth1", _PODS[0]), Talk(_PODS[0], "eth1")),
        Talk("eth1", _PODS[0], (100,)),
    ],
    connections=[(_PODS[0], _PODS[1]), (_PODS[2], "eth1")],
    mirrors=usual_mirrors(_PODS[0], _PODS[1], _PODS, vlan=0),
    later=of_all_ports(offloaded=False),
    flows={"br-provider": ["priority=0,actions=NORMAL", _SERVICE]},
)

PLANS = (LIBVIRT, _PROXMOX, _OVS_CNI, _OPENNEBULA, _KUBE_OVN)
