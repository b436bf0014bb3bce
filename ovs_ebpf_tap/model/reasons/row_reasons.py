"""Reasons in the Mirror row itself, its bridge, the host, and limits."""

from __future__ import annotations

from ovs_ebpf_tap.model.desired import INVALID
from ovs_ebpf_tap.model.reasons.reason import Reason
from ovs_ebpf_tap.util import unexpected

# Open vSwitch refuses the mirror.

NO_OUTPUT = Reason(
    "it has neither output_port nor output_vlan",
    "Open vSwitch refuses a mirror without an output.",
    "Set `output_port` or `output_vlan`.",
    INVALID,
)
OUTPUT_ELSEWHERE = Reason(
    "its output_port is not on this bridge",
    "Open vSwitch refuses a mirror whose output port is on another bridge, or on none.",
    "Set `output_port` to a port of the mirror's bridge.",
    INVALID,
)
INVALID_FILTER = Reason(
    "filter: {error}",
    "Open vSwitch refuses the mirror's `filter`.",
    "Correct `filter` as the reason says.",
    INVALID,
)
NO_ROOM = Reason(
    "Open vSwitch takes {limit} mirrors on a bridge, and not this",
    "The mirror is native for another reason, and the bridge has more mirrors than Open vSwitch "
    "takes.",
    "Have mirrors of the bridge offloaded, or remove some.",
    INVALID,
)

# The row.

UNSUPPORTED_FILTER = Reason(
    "filter: {field} is left to Open vSwitch",
    "The field is of Open vSwitch's metadata, which is not in the frame that a hook sees.",
    "Use only fields of the frame in `filter`.",
)
MULTIPLE_BRIDGES = Reason(
    "it is on more than one bridge",
    "A row that several bridges refer to has one state and one `select_vlan` for all of them.",
    "Create a mirror for each bridge.",
)
MODE_NATIVE = Reason(
    "ebpf-tap-mode is native",
    "`external_ids:ebpf-tap-mode` of the mirror, its bridge or the Open_vSwitch row says so.",
    "Set `ebpf-tap-mode` to `offload`.",
)
MODE_UNKNOWN = Reason(
    "ebpf-tap-mode is neither offload nor native: {mode!r}",
    "A mode that is not known is not acted on.",
    "Set `ebpf-tap-mode` to `offload`, or remove it.",
)
CONTENDED = Reason(
    "another program keeps undoing what is written on its row: select_vlan=4095 and "
    "external_ids:ebpf-tap-*",
    "Each write of one program would be followed by a write of the other.",
    "Have the other program leave these columns alone; the mirror is tried again after a minute, "
    "then ever more seldom, at least once an hour.",
)
SHORT_SNAPLEN = Reason(
    "snaplen is less than {shortest}, within which the userspace datapath cuts VLAN tags",
    "What the kernel drops of such a copy depends on the output.",
    "Set a `snaplen` of at least 20.",
)
SNAPLEN_REFUSED = Reason(
    "it has a snaplen: {refusal}",
    "A copy that is not cut in place goes through a pair of devices (`ebpfcut-...`), which the "
    "kernel refuses: it has no macvlan, or neither dummy nor veth devices.",
    "Load the modules `macvlan` and `dummy` or `veth`, or remove `snaplen`.",
)
INTERNAL_ERROR = Reason(
    unexpected.TEXT,
    "A fault of ovs-ebpf-tap's; it tries again every minute.",
    "Report the traceback in the log.",
)

# The bridge, and the host.

SPANNING_TREE = Reason(
    "the bridge runs STP or RSTP, whose port states only OVS knows",
    "Open vSwitch does not copy what arrives on a blocked port.",
    "Turn `stp_enable` and `rstp_enable` off.",
)
DATAPATH_TYPE = Reason(
    "datapath type {type} is not known",
    "Hooks are known to see what Open vSwitch does with the datapaths `system` and `netdev`.",
    "Use `datapath_type` `system` or `netdev`.",
)
HW_OFFLOAD = Reason(
    "hw-offload, until Open vSwitch is restarted without: its flows pass by filters on "
    "clsact; TCX needs Linux 6.6 or later",
    "Open vSwitch's own filters come first, and take the packets.",
    "Set `other_config:hw-offload=false` and restart Open vSwitch, or use Linux 6.6 or later.",
)

# Limits.

MIRRORS_PER_COMPONENT = Reason(
    "more than {limit} mirrors share ports with each other",
    "To plan so many would take too long.",
    "Remove mirrors, or have them share no ports.",
)
PORTS_PER_COMPONENT = Reason(
    "mirrors that share ports select more than {limit} in all",
    "To plan so many would take too long, and their rules would not fit into the maps.",
    "Remove mirrors, or have them select fewer ports.",
)
MIRRORS_PER_HOST = Reason(
    "more than {limit} mirrors are offloaded on this host",
    "The maps have no room for more.",
    "Remove mirrors, or set `ebpf-tap-mode` of some to `native`.",
)
NO_SLOT = Reason(
    "all places for {limit} mirrors are taken on this host, or were a moment ago",
    "The place of a mirror that is gone is free for another only after a moment.",
    "Wait; if it lasts, remove mirrors, or set `ebpf-tap-mode` of some to `native`.",
)
RULES_PER_HOOK = Reason(
    "a port of it has more than {limit} copies made",
    "A hook makes so many copies of a packet at most.",
    "Have fewer mirrors with different outputs select the port.",
)
DEPENDENT = Reason(
    "too many mirrors that share ports depend on each other",
    "Each round of the plan left more of them to Open vSwitch, without an end.",
    "Have the mirrors share fewer ports and outputs.",
)
ENDLESS_COPIES = Reason(
    "it selects copies of too many other mirrors, or of mirrors too far behind each other",
    "Copies of copies are followed through 64 mirrors, and 8192 times in all.",
    "Do not select the output ports of other mirrors.",
)
