"""Reasons in ports, their devices, and what other programs have there.

`where` is `port NAME` or `output port NAME`.
"""

from __future__ import annotations

from ovs_ebpf_tap.model.reasons.reason import Reason

# Output ports.

NO_INTERFACE = Reason(
    "{where} has no interface",
    "Copies leave through a network device.",
    "Give the port an interface.",
)
NO_DEVICE = Reason(
    "{where} has no network device {device}",
    "Copies leave through a network device, and there is none of that name.",
    "Create the device, or choose another output port.",
)
BOND = Reason(
    "{where} is a bond, whose choice of member only OVS knows",
    "The bond balances, or its active member is not known.",
    "Set `bond_mode` to `active-backup`, or choose another output port.",
)
NO_FORWARD = Reason(
    "{where} has the OpenFlow flag no-forward",
    "Open vSwitch sends nothing to the port, copies neither.",
    "Run `ovs-ofctl mod-port BRIDGE PORT forward`.",
)
PROTECTED = Reason(
    "{where} is protected, and so is {other}: at destination ports only Open vSwitch knows where "
    "a packet came from",
    "Open vSwitch copies nothing from a protected port to a protected one.",
    "Set `protected=false` on the output port, or select no leaving packets.",
)
INTERNAL_SNAPLEN = Reason(
    "{where} is internal, and the mirror has a snaplen",
    "Copies to an internal port can't be cut.",
    "Remove `snaplen`, or choose an output port that is not internal.",
)

# Ports and their devices.

INTERFACE_TYPE = Reason(
    "{where} is of type {type}",
    "Hooks are on network devices. Patch and DPDK ports, for example, have none, nor do tunnels on "
    "the userspace datapath. Hooks send no copies into tunnels.",
    "Select ports, and an output, with a network device.",
)
TUNNEL_OPTIONS = Reason(
    "the options of tunnel port {port} do not tell its packets from those of other ports",
    "The `remote_ip` is a host's name, or the port carries packets without an Ethernet header.",
    "Give the port's `remote_ip` and `local_ip` as addresses, and no other `packet_type` than "
    "`legacy_l2`.",
)
TUNNEL_BY_FLOW = Reason(
    "it selects what leaves through tunnel port {port}, and flows tell with which key or addresses",
    "A hook sees key and addresses, and another tunnel port may send with the same.",
    "Give the port a `remote_ip`, and a `key` that is not `flow`, or do not select it as a "
    "destination.",
)
TUNNELS_ALIKE = Reason(
    "it selects what leaves through tunnel port {port}, and port {other} may send with the same "
    "key and addresses",
    "A hook sees key and addresses, not through which port a packet leaves.",
    "Give the ports different keys or addresses, or do not select them as destinations.",
)
GENEVE_OPTIONS = Reason(
    "{where} is a Geneve port of a bridge that knows more than {limit} kinds of options",
    "Open vSwitch drops frames with critical options that the bridge does not know, and a hook "
    "can know so many.",
    "Remove kinds of options with `ovs-ofctl del-tlv-map`, or do not select the port as a source.",
)
NOT_ETHERNET = Reason(
    "{where}: device {device} is not an Ethernet device",
    "Hooks there would see packets without an Ethernet header.",
    "Use an Ethernet device.",
)
NO_RECEIVE_STP = Reason(
    "{where} has the OpenFlow flag no-receive-stp",
    "Open vSwitch does not copy the STP frames that arrive there.",
    "Run `ovs-ofctl mod-port BRIDGE PORT receive-stp`.",
)
OTHER_NAMESPACE = Reason(
    "{where}: device {device} is not in this network namespace",
    "A hook there could copy only to devices in that namespace, such as a container's.",
    "Move the device back, or leave the mirror to Open vSwitch.",
)
NAME_TAKEN = Reason(
    "{where}: device {device} is not in this network namespace: another one has its name",
    "Open vSwitch has the device open that is in another namespace, not the one here.",
    "Rename the other device, and move the port's device back.",
)
RENAMED = Reason(
    "{where}: device {device} has another name",
    "The device was renamed before the sidecar started; one that is renamed later is followed.",
    "Give the device its name back, or add the port anew.",
)
NOT_OPEN = Reason(
    "{where}: device {device} is not the one that Open vSwitch has open",
    "Open vSwitch has another device open, which had the name before.",
    "Add the port anew, or restart Open vSwitch.",
)
USURPED = Reason(
    "{where}: device {device} is not the one that Open vSwitch has open, and Open vSwitch sends "
    "to it all the same",
    "The userspace datapath receives from one device, and sends to the one that has its name by "
    "now.",
    "Select only what arrives on the port, add the port anew, or restart Open vSwitch.",
)
DEVICE_GONE = Reason(
    "{where}: device {device} is gone, and Open vSwitch still has it",
    "The userspace datapath does not let go of a device that was deleted, renamed or moved, and "
    "copies what it sends there.",
    "Add the port anew, or restart Open vSwitch.",
)
DEVICE_DOWN = Reason(
    "port {port}: device {device} is down",
    "Open vSwitch copies what it sends to a device that is down, and no hook sees it.",
    "Bring the device up, do not select the port as a destination, or select all ports as sources.",
)

_SUPER_PACKETS = (
    "port {port} is internal and up: the userspace datapath receives the host's super-packets cut "
    "into segments, and a hook sees them whole; "
)
SUPER_PACKETS_SNAPLEN = Reason(
    f"{_SUPER_PACKETS}the mirror has a snaplen",
    "Open vSwitch cuts each segment, a hook the super-packet.",
    "Remove `snaplen`, set `other_config:userspace-tso-enable=true`, or do not select the port as "
    "a source.",
)
SUPER_PACKETS_LEAVING = Reason(
    f"{_SUPER_PACKETS}the mirror selects leaving packets, too",
    "A packet that arrives whole and leaves in segments can't be told to be the same.",
    "Select arriving packets only, set `other_config:userspace-tso-enable=true`, or do not select "
    "the port as a source.",
)

# Hooks, and what other programs have on devices.

HOOK_REFUSED = Reason(
    "hook refused: {error}",
    "The kernel does not take the hook on the device; it is tried again every few seconds.",
    "See what the kernel says.",
    of_device=True,
)
HARDWARE_FLOWS = Reason(
    "with hw-offload, its hardware takes packets past hooks (hw-tc-offload)",
    "Hooks do not see packets that the hardware forwards.",
    "Run `ethtool -K DEVICE hw-tc-offload off`, or set `other_config:hw-offload=false` and restart "
    "Open vSwitch.",
    of_device=True,
)
POLICING_EXCLUDES_CLSACT = Reason(
    "{where} has ingress_policing, which excludes clsact; TCX needs Linux 6.6 or later",
    "Open vSwitch polices by an ingress qdisc, and a device has that or clsact.",
    "Remove the policing, or use Linux 6.6 or later.",
)
POLICED = Reason(
    "{where} has ingress_policing: its hook would copy packets that this drops",
    "The kernel's datapath receives only what the policer lets through; the hook is before it.",
    "Remove `ingress_policing_rate` and `ingress_policing_kpkts_rate`, or do not select the port "
    "as a source.",
)
_INGRESS_QDISC = "{where}: an ingress qdisc excludes clsact (TCX needs Linux 6.6 or later); "
INGRESS_QDISC = Reason(
    f"{_INGRESS_QDISC}it has {{filter}}",
    "Another program has an ingress qdisc on the device, and a device has that or clsact.",
    "Remove the qdisc, or use Linux 6.6 or later.",
)
EMPTY_INGRESS_QDISC = Reason(
    f"{_INGRESS_QDISC}if hw-offload has left it, it goes when Open vSwitch is restarted",
    "An ingress qdisc is on the device, and a device has that or clsact.",
    "Restart Open vSwitch, remove the qdisc, or use Linux 6.6 or later.",
)
COOLING_DOWN = Reason(
    "its device {event}, and another program may add an ingress qdisc, which clsact would "
    "prevent: hooks wait for {seconds:g} s",
    "Before Linux 6.6, a hook in place would make the command of a program that polices fail.",
    "Wait (10 s by default), set `--clsact-delay`, or use Linux 6.6 or later.",
    of_device=True,
)
FILTER_BEFORE_HOOK = Reason(
    "{filter} of another program keeps packets from its hook",
    "The filter comes before the hook, and Open vSwitch sees the packets that it takes.",
    "Remove the filter, or use Linux 6.6 or later.",
    of_device=True,
)
FILTER_BEHIND_HOOK = Reason(
    "{filter} of another program drops or diverts packets that its hook would copy",
    "Open vSwitch sees only what the filter (`drop`, `police`, `mirred redirect`) leaves, and the "
    "hook is before it.",
    "Remove the filter, or do not select the port as a source.",
    of_device=True,
)
