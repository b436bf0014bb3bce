"""Checks of VLAN tags that are not to be seen any more when frames leave."""

from __future__ import annotations

from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.frame_rewrite import ACCESS, ALL, PRIORITY_ALWAYS, PRIORITY_NEVER, TUNNEL
from ovs_ebpf_tap.model.reasons import packet_reasons
from ovs_ebpf_tap.model.rows import Mirror


def check_tags_left(topology: Topology, mirror: Mirror) -> None:
    """That the tags of a frame that has left a port are ones that OVS has looked at.

    A port may have taken one off, and what was a second tag then looks like a first. A
    dot1q-tunnel may have put one on, and Open vSwitch then minds the second, too.
    """
    context = topology.context
    inner = context.db.vlan_limit > 1
    destinations = topology.destinations(mirror)
    untagged_output, tunnels = context.has_untagged_output, context.tunnels
    for port in tunnels if destinations else ():
        if not port.tag:
            raise packet_reasons.TUNNEL_WITHOUT_TAG.error(port=port.name)
    for port in destinations:
        vlans = topology.vlans(port)
        if vlans.mode == TUNNEL and not inner and (untagged_output or vlans.trunks != ALL):
            raise packet_reasons.TUNNEL_TAGS.error(port=port.name)
        minded = untagged_output or vlans.priority == PRIORITY_ALWAYS
        if vlans.mode != ACCESS and not inner and minded and tunnels:
            raise packet_reasons.TUNNELS_AND_OTHERS.error(port=port.name)
        if vlans.mode == ACCESS and tunnels:
            raise packet_reasons.ACCESS_BEHIND_TUNNELS.error(port=port.name)
        if vlans.mode == ACCESS and vlans.priority != PRIORITY_NEVER:
            raise packet_reasons.PRIORITY_TAGS.error(port=port.name)
