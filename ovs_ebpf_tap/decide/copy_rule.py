"""The rule of one copy: from where a packet was seen to one output port."""

from __future__ import annotations

from zlib import crc32

from ovs_ebpf_tap.decide.port_direction import PortDirection
from ovs_ebpf_tap.decide.seen_port import to_ingress
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.decide.vlan import Path
from ovs_ebpf_tap.model.desired import VLAN_GROUP, Rule
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.rows import Interface, Mirror, Port

ETHERNET_HEADER = 14
_ANY_LENGTH = 0xFFFFFFFF


def group_of(topology: Topology, mirror: Mirror) -> int:
    """The group of the mirror's rules: `Rule.group`."""
    if mirror.output_port is None:
        name = f"{topology.context.bridge.uuid} {mirror.output_vlan}"
        return VLAN_GROUP | crc32(name.encode())
    interface = topology.sending(topology.seen[mirror.output_port].port)
    device = topology.device(interface) if interface is not None else None
    return device.ifindex if device is not None else 0


def make_rule(
    topology: Topology,
    direction: PortDirection,
    mirror: Mirror,
    *,
    group: int,
    selection: int,
    path: Path,
    output: Port,
) -> Rule | None:
    """The rule that copies what takes the path to an output; None where no copy can be sent."""
    interface = topology.sending(output)
    device = topology.device(interface) if interface is not None else None
    if interface is None or device is None or not (device.up or mirror.output_port):
        return None
    if output.protected and direction.port.protected:
        return None
    return Rule(
        mirror=mirror.uuid,
        output=device.ifindex,
        group=group,
        selection=selection,
        arrival=direction.arrival,
        rewrite=path.rewrite(
            topology.vlans(output),
            limit=topology.context.db.vlan_limit,
            snaplen=mirror.cut,
            max_len=_max_len(topology, interface, device),
            netdev=topology.netdev,
            no_dei=direction.loses_dei,
        ),
        to_ingress=to_ingress(interface),
        unreserved=path.unreserved,
        match=path.match,
        vlans=None if path.selected == direction.path.selected else path.selected,
        ingress_policy=direction.ingress_policy,
    )


def _max_len(topology: Topology, interface: Interface, device: Device) -> int:
    """The longest frame that is sent, in bytes, without a VLAN tag.

    The kernel's datapath minds every device's MTU (`ovs_vport_send` in its
    `net/openvswitch/vport.c`); what the userspace datapath writes to a tap is not held
    against it.
    """
    if topology.netdev and to_ingress(interface):
        return _ANY_LENGTH
    return device.mtu + ETHERNET_HEADER
