"""Why a mirror is not offloaded: what leaves, flows, and other mirrors."""

from __future__ import annotations

from planner_changes import (
    NATIVE_MODE,
    NETDEV,
    ReasonCase,
    beside,
    both,
    flows,
    leads_to,
    mirror,
    new_port,
    ofport,
    port,
    selects,
    to_vlan,
    unexamined,
    world_settings,
)

from ovs_ebpf_tap.model.desired import (
    NATIVE,
)
from ovs_ebpf_tap.model.flow import IN_PORT, FlowName, Known
from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortPaths

BY_NUMBER = FlowName(82, 90, 0)
NUMBERED = PortPaths(numbered=BY_NUMBER, origins=frozenset({Known()}))
TAGGED = PortPaths(numbered=BY_NUMBER, tagged_origins=frozenset({Known.of(IN_PORT, ofport("a"))}))
FROM_PORT_A = PortPaths(numbered=BY_NUMBER, origins=frozenset({Known.of(IN_PORT, ofport("a"))}))

CASES: list[ReasonCase] = [
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
        "super-packets, and leaving packets",
        both(NETDEV, new_port("b", type="internal")),
        NATIVE,
        "port b is internal and up: the userspace datapath receives the host's super-packets cut "
        "into segments, and a hook sees them whole; the mirror selects leaving packets, too",
    ),
    (
        "super-packets, and a snaplen",
        both(NETDEV, new_port("b", type="internal"), mirror(snaplen=200)),
        NATIVE,
        "port b is internal and up: the userspace datapath receives the host's super-packets cut "
        "into segments, and a hook sees them whole; the mirror has a snaplen",
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
        "access port behind a tunnel",
        both(
            selects("b"),
            port("c", vlan_mode="dot1q-tunnel", tag=5),
            port("b", tag=5),
            world_settings(vlan_limit=2),
        ),
        NATIVE,
        "port b takes all tags off of what tunnels bring: whether it was copied before",
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
        "flow tables unknown since before a port was added",
        both(leads_to(), flows(None), mirror(select_vlan=(4095,)), unexamined("b")),
        NATIVE,
        "it selects leaving packets, and the flow tables are not known (yet)",
    ),
    (
        "flows to a port unknown",
        leads_to(b=None),
        NATIVE,
        "it selects leaving packets, and the flow tables are not known (yet)",
    ),
    (
        "flows to a port undecided",
        leads_to(b=PortPaths(undecided=True)),
        NATIVE,
        "it selects leaving packets, and the bridge has too many flows to find out in time how "
        "packets come to port b",
    ),
    (
        "repeats",
        leads_to(b=PortPaths(repeats=FlowName(3, 90, 7))),
        NATIVE,
        "flow table=3,priority=90,cookie=0x7, or tables and groups that it uses, may output a "
        "packet to port b more than once",
    ),
    (
        "outputs to a native-tagged port",
        both(leads_to(b=NUMBERED), port("b", vlan_mode="native-tagged", tag=5)),
        NATIVE,
        "flow table=82,priority=90 outputs to port b by number, whose VLAN settings are native-tag",
    ),
    (
        "outputs to a port with priority-tags",
        both(leads_to(b=NUMBERED), port("b", priority_tags="always")),
        NATIVE,
        "flow table=82,priority=90 outputs to port b by number, whose VLAN settings are with prior",
    ),
    (
        "outputs to an access port, with a tag",
        both(leads_to(b=TAGGED), port("b", tag=5), selects("b")),
        NATIVE,
        "flow table=82,priority=90 outputs to access port b by number, also packets that may",
    ),
    (
        "outputs between VLANs",
        both(leads_to(b=NUMBERED), port("b", tag=5), selects("b", src="a")),
        NATIVE,
        "flow table=82,priority=90 outputs to port b by number packets that are also selected at "
        "port a, whose VLAN settings differ",
    ),
    (
        "outputs between VLANs, by two mirrors",
        both(leads_to(b=NUMBERED), port("b", tag=5), selects("b"), beside(src="a", out="out")),
        NATIVE,
        "flow table=82,priority=90 outputs to port b by number packets that are also selected at "
        "port a, whose VLAN settings differ",
    ),
    (
        "outputs to two VLANs",
        both(leads_to(b=NUMBERED, c=FROM_PORT_A), port("b", tag=5), selects("b c")),
        NATIVE,
        "flow table=82,priority=90 outputs to port b by number packets that are also selected at "
        "port c, whose VLAN settings differ",
    ),
    (
        "outputs to an output, and NORMAL",
        both(leads_to(out=NUMBERED), port("out", tag=5), selects("out b")),
        NATIVE,
        "flow table=82,priority=90 outputs to port out by number packets that are also selected at "
        "port b, whose VLAN settings differ",
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
        "packets of port a come to its output also by way of another mirror, and in another VLAN",
    ),
    (
        "other copies of the same packets, where they leave through another port",
        both(NETDEV, selects("b"), port("c", trunks=(5,)), beside(dst="c", output_vlan=7)),
        NATIVE,
        "packets of port c come to its output also by way of another mirror, and in another VLAN",
    ),
    (
        "packets in its output VLAN, and copies of them in another",
        both(
            mirror(select_src_port=(), output_port=None, output_vlan=20),
            beside(dst="c", output_vlan=10, select_vlan=(20,)),
        ),
        NATIVE,
        "packets of port c come to its output also by way of another mirror, and in another VLAN",
    ),
    (
        "destinations with tags and without",
        both(NETDEV, port("b", tag=5)),
        NATIVE,
        "it selects what leaves through port b and through others, not all of which take tags off",
    ),
    (
        "destinations with tags and without, and one is an internal port",
        both(new_port("b", type="internal"), port("b", tag=5)),
        NATIVE,
        "it selects what leaves through port b and through others, not all of which take tags off",
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
        "it selects what leaves through port b and through others, not all of which take tags off",
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
