"""Why a mirror is not offloaded: its row, its bridge, the host and its output."""

from __future__ import annotations

from planner_changes import (
    NETDEV,
    NOWHERE,
    ReasonCase,
    bond,
    both,
    bridge,
    clsact,
    crowd,
    flags,
    mirror,
    new_port,
    no_device,
    on_two_bridges,
    other_bridge,
    port,
    refuse,
    to_vlan,
    world_settings,
)

from ovs_ebpf_tap.model.desired import (
    INVALID,
    NATIVE,
)
from ovs_ebpf_tap.model.rows import MODE_KEY

CASES: list[ReasonCase] = [
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
]
