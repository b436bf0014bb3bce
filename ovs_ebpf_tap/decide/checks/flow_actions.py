"""Checks of what flows do to packets that leave."""

from __future__ import annotations

from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.reasons import packet_reasons
from ovs_ebpf_tap.model.rows import Mirror


def check_flows(topology: Topology, mirror: Mirror) -> None:
    """That hooks can tell which packets are the same.

    Hooks tell packets apart by content and VLAN; OVS knows what became of each. A packet that a
    flow modifies is due in both forms, as `reset_mirror_ctx` in `ofproto/ofproto-dpif-xlate.c` of
    Open vSwitch 3.1.3 has it; where another version copies it otherwise, hooks do not follow.
    """
    if not topology.destinations(mirror):
        return
    vlans = any(not topology.vlans(port).plain for port in topology.selected(mirror))
    traits = topology.context.traits
    if traits is None:
        if mirror.parked:
            return  # What they were when it was offloaded, until they are known again.
        raise packet_reasons.FLOWS_UNKNOWN.error()
    if vlans and traits.outputs:
        raise packet_reasons.FLOWS_BYPASS_VLANS.error()
    if traits.repeats:
        raise packet_reasons.FLOWS_REPEAT.error()
