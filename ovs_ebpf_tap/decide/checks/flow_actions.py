"""Checks of what flows do to packets that leave."""

from __future__ import annotations

from ovs_ebpf_tap.decide.ovs_version import mirrors_after_metadata, mirrors_modified_packets
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.reasons import packet_reasons
from ovs_ebpf_tap.model.rows import Mirror


def check_flows(topology: Topology, mirror: Mirror) -> None:
    """That hooks can tell which packets are the same.

    Hooks tell packets apart by content and VLAN; OVS knows what became of each.
    """
    if not topology.destinations(mirror):
        return
    version = topology.context.db.ovs_version
    vlans = any(not topology.vlans(port).plain for port in topology.selected(mirror))
    modified = mirrors_modified_packets(version) is not True
    metadata = mirrors_after_metadata(version) is not False
    traits = topology.context.traits
    if traits is None:
        if mirror.parked:
            return  # What they were when it was offloaded, until they are known again.
        raise packet_reasons.FLOWS_UNKNOWN.error()
    if vlans and traits.outputs:
        raise packet_reasons.FLOWS_BYPASS_VLANS.error()
    if traits.repeats:
        raise packet_reasons.FLOWS_REPEAT.error()
    if modified and traits.modifies:
        raise packet_reasons.FLOWS_MODIFY.error()
    if metadata and traits.sets_metadata:
        raise packet_reasons.FLOWS_SET_METADATA.error()
