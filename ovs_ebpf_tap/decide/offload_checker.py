"""Whether a mirror by itself can be copied exactly as OVS would, or why not.

What OVS refuses is in `vswitchd/bridge.c` (`mirror_configure`), what it would copy in
`ofproto/ofproto-dpif-xlate.c` (`mirror_packet`, `compose_output_action__`).
"""

from __future__ import annotations

from ovs_ebpf_tap.decide.checks import (
    flow_actions,
    leaving_tags,
    mirror_ports,
    mirror_row,
    port_devices,
    port_hooks,
    snaplen,
    tunnels,
)
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.desired import (
    NOTHING_SELECTED,
    OFFLOAD,
    NotOffloadedError,
    OffloadDecision,
)
from ovs_ebpf_tap.model.rows import Mirror


def check_mirror(topology: Topology, mirror: Mirror) -> OffloadDecision:
    """Whether the mirror can be offloaded; the first reason found why not."""
    context = topology.context
    try:
        mirror_row.check_bridges(context, mirror)
        mirror_row.check_row(topology, mirror)
        mirror_row.check_mode(context, mirror)
        mirror_row.check_bridge(context)
        mirror_row.check_filter(mirror)
        snaplen.check_snaplen(topology, mirror)
        mirror_ports.check_outputs(topology, mirror)
        mirror_ports.check_selected(topology, mirror)
        tunnels.check_tunnels(topology, mirror)
        port_hooks.check_filters(topology, mirror)
        snaplen.check_super_packets(topology, mirror)
        port_devices.check_destinations(topology, mirror)
        leaving_tags.check_tags_left(topology, mirror)
        flow_actions.check_flows(topology, mirror)
    except NotOffloadedError as why:
        return why.decision
    return OFFLOAD if topology.selects_ports(mirror) else NOTHING_SELECTED
