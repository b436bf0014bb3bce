"""Checks of what cuts packets: `snaplen`, and the kernel's segmentation of super-packets."""

from __future__ import annotations

from ovs_ebpf_tap.decide.seen_port import to_ingress
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.desired import NO_CUTTER
from ovs_ebpf_tap.model.reasons import port_reasons, row_reasons
from ovs_ebpf_tap.model.rows import Mirror, Port

_SHORTEST_NETDEV = 20
"""The userspace datapath counts a VLAN tag in `snaplen`, and below this it cuts within the tag or
the type behind it: what the kernel then drops depends on the output."""


def check_snaplen(topology: Topology, mirror: Mirror) -> None:
    """That copies can be cut as OVS cuts them."""
    if 0 < mirror.cut < _SHORTEST_NETDEV and topology.netdev:
        raise row_reasons.SHORT_SNAPLEN.error(shortest=_SHORTEST_NETDEV)
    refused = topology.context.refused
    if mirror.cut and NO_CUTTER in refused:
        raise row_reasons.SNAPLEN_REFUSED.error(refusal=refused[NO_CUTTER])


def check_cut_at(topology: Topology, mirror: Mirror, output: Port, where: str) -> None:
    """That copies to the output can be cut."""
    if mirror.cut and any(map(to_ingress, topology.interfaces(output))):
        raise port_reasons.INTERNAL_SNAPLEN.error(where=where)


def check_super_packets(topology: Topology, mirror: Mirror) -> None:
    """That packets that the host sends have one form at all hooks, and for `snaplen`.

    The kernel cuts super-packets behind the hook of a tap without offloads
    (`validate_xmit_skb` in its `net/core/dev.c`), so that the userspace datapath receives
    segments. A mirror of such arrivals alone copies super-packets as one.
    """
    if not topology.netdev or topology.context.db.userspace_tso:
        return
    if not mirror.cut and not topology.destinations(mirror):
        return
    reason = (
        port_reasons.SUPER_PACKETS_SNAPLEN if mirror.cut else port_reasons.SUPER_PACKETS_LEAVING
    )
    for uuid in topology.source_uuids(mirror):
        port = topology.seen[uuid].port
        if uuid in topology.reserved:
            continue
        for interface in topology.interfaces(port):
            device = topology.device(interface)
            if to_ingress(interface) and device is not None and device.up:
                raise reason.error(port=port.name)
