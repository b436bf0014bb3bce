"""Reasons in what packets become: VLAN tags, flows, and the copies of other mirrors."""

from __future__ import annotations

from ovs_ebpf_tap.model.reasons.reason import Reason

# VLAN tags.

TUNNEL_WITHOUT_TAG = Reason(
    "port {port} is a dot1q-tunnel without a tag: what it puts on frames is taken off with other "
    "tags when they leave",
    "Which tags a leaving frame had in the bridge is not to be seen any more.",
    "Set `tag` of the dot1q-tunnel, or select no leaving packets.",
)
TUNNEL_TAGS = Reason(
    "port {port} is a dot1q-tunnel: whether Open vSwitch has looked at the tag of what it sends, "
    "depends on where that came from",
    "An output port takes tags off, or the dot1q-tunnel has `cvlans`, and `vlan-limit` is 1.",
    "Set `other_config:vlan-limit=2`, or do not select the port as a destination.",
)
TUNNELS_AND_OTHERS = Reason(
    "port {port} sends what comes from dot1q-tunnels and from others: how many of its tags are "
    "taken off of a copy, only Open vSwitch knows",
    "An output port takes tags off, or the port has `priority-tags=always`, and `vlan-limit` is 1.",
    "Set `other_config:vlan-limit=2`, or do not select the port as a destination.",
)
ACCESS_BEHIND_TUNNELS = Reason(
    "port {port} takes all tags off of what tunnels bring: whether it was copied before, only "
    "Open vSwitch knows",
    "A frame from a dot1q-tunnel leaves an access port without the tags that it had.",
    "Do not select access ports as destinations on a bridge with dot1q-tunnels.",
)
PRIORITY_TAGS = Reason(
    "port {port} has priority-tags: whether a tag of what it sends is one of these, only "
    "Open vSwitch knows",
    "A tag of VLAN 0 may have been in the frame before.",
    "Remove `other_config:priority-tags`, or do not select the port as a destination.",
)
SECOND_TAG = Reason(
    "a port of its output_vlan takes tags off, and only Open vSwitch knows whether there is a "
    "second one to be minded",
    "Whether an access or dot1q-tunnel port carries a copy depends on its second tag.",
    "Set `output_port` in the place of `output_vlan`, set `other_config:vlan-limit=1`, or do not "
    "select dot1q-tunnels.",
)
ANOTHER_TAG = Reason(
    "it selects what leaves through port {port} and through others, not all of which take tags "
    "off: what becomes of the tag of what leaves through both, only Open vSwitch knows",
    "Open vSwitch copies what a flood sends first, and with the userspace datapath, or an internal "
    "port among the destinations, hooks may see another packet first.",
    "Select all ports as sources, or only destinations that send the VLAN alike.",
)

# Flows.

FLOWS_UNKNOWN = Reason(
    "it selects leaving packets, and the flow tables are not known (yet): that takes "
    "OpenFlow 1.3, 1.4 or 1.5 among the bridge's protocols",
    "What flows do to a packet decides whether hooks can tell it from others when it leaves.",
    "Wait a moment; if it lasts, add `OpenFlow13`, `OpenFlow14` or `OpenFlow15` to the bridge's "
    "`protocols`.",
)
FLOWS_TOO_MANY = Reason(
    "it selects leaving packets, and the bridge has too many flows to find out in time how packets "
    "come to port {port}",
    "What flows do to a packet decides whether Open vSwitch copies it again when it leaves.",
    "Select no leaving packets of the port; have flows match registers that others have loaded, so "
    "that fewer may lead there.",
)
FLOWS_BYPASS_VLANS = Reason(
    "{flow} outputs to port {port} by number, whose VLAN settings are {settings}",
    "Tags of a packet that a flow outputs to such a port do not tell which VLAN it was in.",
    "Have flows output to the port with `NORMAL`, make it a trunk or an access port without "
    "`priority-tags`, or do not select what leaves there.",
)
FLOWS_KEEP_TAGS = Reason(
    "{flow} outputs to access port {port} by number, also packets that may have a VLAN tag",
    "Open vSwitch does not copy such a packet, but one that NORMAL sends there with a second tag; "
    "a hook can't tell them apart.",
    "Have the flow take the tag off (`strip_vlan`), or do not select what leaves there.",
)
FLOWS_MIX_VLANS = Reason(
    "{flow} outputs to port {port} by number packets that are also selected at port {other}, whose "
    "VLAN settings differ",
    "A hook sees the packet in one VLAN at one port, and in another VLAN at the other.",
    "Give the ports the same VLAN settings, select one of them, or give the mirrors of the two "
    "different outputs.",
)
FLOWS_REPEAT = Reason(
    "{flow}, or tables and groups that it uses, may output a packet to port {port} more than once, "
    "which Open vSwitch copies once",
    "A hook can't tell the second packet from the first one of another packet that is alike.",
    "Have flows output to the port once, or do not select what leaves there.",
)

# Copies of other mirrors.

NATIVE_SHARES_OUTPUT = Reason(
    "it shares its output with mirror {mirror}, which is native",
    "Open vSwitch copies a packet to an output once, and does not know of a hook's copies.",
    "Have the other mirror offloaded, or give the mirrors different outputs.",
)
NATIVE_SELECTS_OUTPUT = Reason(
    "mirror {mirror}, which is native, selects its output port",
    "Open vSwitch would not see the copies, and not copy them on.",
    "Have the other mirror offloaded, or have it not select the output port.",
)
NATIVE_COPIES_CHANGED = Reason(
    "it selects copies of mirror {mirror}, native and changed",
    "A hook can't tell that a copy of Open vSwitch's with other tags or length was copied before.",
    "Have the other mirror offloaded, or do not select its output port.",
)
NATIVE_COPIES_BESIDE_FLOWS = Reason(
    "it selects copies of mirror {mirror}, native to a port that flows may output to",
    "The packet itself may leave there, too, and Open vSwitch copies one of the two.",
    "Have the other mirror offloaded, or do not select its output port.",
)
COPIES_FILTERED_BY_TAGS = Reason(
    "it selects copies of mirror {mirror}, and its filter VLAN tags",
    "The filter applies to the copies' tags, which the other mirror's output may have changed.",
    "Remove VLAN fields from `filter`, or do not select the other mirror's output port.",
)
COPIES_CHANGED = Reason(
    "mirror {mirror} copies to port {port}, which it selects, and whose VLAN settings change the "
    "copies",
    "The port is native-tagged, native-untagged, dot1q-tunnel, or has `priority-tags`.",
    "Make the port a trunk or an access port without `priority-tags`, or do not select it.",
)
COPIES_LOST_TAGS = Reason(
    "it selects copies of mirror {mirror}, and tags that those have lost are of consequence at its "
    "output",
    "The output has `priority-tags`, or minds a second tag.",
    "Choose an output port whose VLAN settings do not depend on these tags, or do not select the "
    "other mirror's output port.",
)
ANOTHER_VLAN = Reason(
    "packets of port {port} come to its output also by way of another mirror, and in another "
    "VLAN: which of the two is copied, only Open vSwitch knows",
    "It depends on which mirror is older, or which port a flood leaves through first, and OVSDB "
    "does not tell; a packet in the `output_vlan` counts as copied there.",
    "Give the mirrors different outputs, or have them select different packets.",
)
ANOTHER_SNAPLEN = Reason(
    "it shares output and packets with mirror {mirror}, of another snaplen",
    "A packet is copied to an output once; how long depends on which mirror is older.",
    "Give both mirrors the same `snaplen`, or different outputs.",
)
UNDECIDED_SNAPLEN = Reason(
    "it shares its output with a mirror of another snaplen that may select the same",
    "A packet is copied to an output once; how long depends on which mirror comes first.",
    "Give both mirrors the same `snaplen`, or different outputs.",
)
