"""What all copies of a port's packets, in one direction, have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ovs_ebpf_tap.decide.seen_port import to_ingress
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.decide.vlan import Path, PortVlans
from ovs_ebpf_tap.model.desired import VlanIngressPolicy
from ovs_ebpf_tap.model.frame_rewrite import ACCESS, KEEP
from ovs_ebpf_tap.model.rows import Port
from ovs_ebpf_tap.model.tunnel import GeneveOption

VLAN_ETHERNET_HEADER = 18

_ADMITTING = VlanIngressPolicy(KEEP, 0)


@dataclass(frozen=True)
class PortDirection:
    """Packets that arrive in the switch on a port, or leave through it."""

    port: Port
    arrival: bool
    path: Path
    """Of all its packets, before a mirror has selected any."""
    ingress_policy: VlanIngressPolicy | None
    """As in `Rule`."""
    loses_dei: bool
    """As `FrameRewrite.no_dei`."""
    floods: bool
    """Whether a packet may leave through other ports, too."""
    late: bool
    """Whether the hook may see what leaves later than those of ports that are behind it."""

    @classmethod
    def of(cls, topology: Topology, port: Port, *, arrival: bool) -> Self:
        """One direction of a port of the component."""
        vlans = topology.vlans(port) if arrival else _leaving(topology, port)
        max_len = _max_arriving(topology, port) if arrival else 0
        options = _geneve_options(topology, port) if arrival else None
        policy = VlanIngressPolicy(vlans.mode, vlans.tag, vlans.admitted, max_len, options)
        taps = any(map(to_ingress, topology.interfaces(port)))
        return cls(
            port,
            arrival,
            path=Path.of(vlans),
            ingress_policy=None if policy == _ADMITTING else policy,
            # OVS reads the packets of taps with their tags in them.
            loses_dei=topology.netdev and arrival and not taps,
            floods=not arrival and _is_flooded(topology, port),
            # The userspace datapath sends packets in batches, port by port
            # (`dp_netdev_pmd_flush_output_packets` in `lib/dpif-netdev.c`). The kernel's does what
            # a flow says, one after the other; only internal ports come to their packets later
            # (`netif_rx` in its `net/openvswitch/vport-internal_dev.c`).
            late=topology.netdev or taps,
        )


def _leaving(topology: Topology, port: Port) -> PortVlans:
    """The VLAN settings for frames that have left through the port.

    OVS's `mirror_packet` looks at tags as if the frame had arrived there. An access port admits
    none, but NORMAL leaves it those behind the one that it takes off, and OVS copies these. Where
    flows may send tagged frames there by number, tags are taken for those that OVS looks at.
    """
    vlans = topology.vlans(port)
    tagged = any(paths.tagged_origins for paths in topology.paths(port))
    return vlans if vlans.mode == ACCESS and tagged else vlans.leaving


def _is_flooded(topology: Topology, port: Port) -> bool:
    """Whether what leaves through the port may leave through others, too.

    In which order a flood leaves depends on where Open vSwitch has its ports in memory. To a port
    that is an output only flows send packets, and no flood.
    """
    traits = topology.context.traits
    return port.uuid not in topology.reserved or (traits is not None and traits.outputs)


def _geneve_options(topology: Topology, port: Port) -> frozenset[GeneveOption] | None:
    """The options that the port's bridge knows; None if frames are taken in whatever they have.

    While the table of the bridge is not known, it is better to copy too much.
    """
    if topology.netdev or all(row.type != "geneve" for row in topology.interfaces(port)):
        return None
    return topology.context.flags.geneve_options


def _max_arriving(topology: Topology, port: Port) -> int:
    """The longest frame, in bytes, that OVS takes in from a device of the port; 0: any.

    The userspace datapath's sockets have room for the MTU, an Ethernet header and a tag. OVS
    drops what is longer, super-packets, unless `userspace-tso-enable` is set
    (`netdev_linux_batch_rxq_recv_sock` in `lib/netdev-linux.c`, 3.1.0). The outermost tag is
    neither in what is received nor in what a hook sees. The kernel cuts what comes by a tap.
    """
    if not topology.netdev or topology.context.db.userspace_tso:
        return 0
    if any(map(to_ingress, topology.interfaces(port))):
        return 0
    mtus = [device.mtu for device in topology.devices(port)]
    return max(mtus) + VLAN_ETHERNET_HEADER if mtus else 0
