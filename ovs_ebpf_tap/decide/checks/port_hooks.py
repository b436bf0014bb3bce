"""Checks of hooks: whether a device takes one, and which packets others' filters leave to it."""

from __future__ import annotations

from ovs_ebpf_tap.decide.policing import is_looked_at_first, obstacle
from ovs_ebpf_tap.decide.seen_port import hook_of, to_ingress
from ovs_ebpf_tap.decide.topology import BridgeContext, Topology
from ovs_ebpf_tap.model.desired import CLSACT, NotOffloadedError
from ovs_ebpf_tap.model.reasons import port_reasons
from ovs_ebpf_tap.model.reasons.reason import at_port
from ovs_ebpf_tap.model.rows import INTERNAL_TYPES, Interface, Mirror, Port


def check_hooks(topology: Topology, port: Port, where: str) -> None:
    """That the devices of the port take hooks."""
    for interface in topology.interfaces(port):
        device = topology.device(interface)
        if device is not None:
            check_hook(topology.context, device.ifindex, interface, where)


def check_hook(context: BridgeContext, ifindex: int, interface: Interface, where: str) -> None:
    """That the interface's device takes a hook."""
    if context.attach == CLSACT:
        _check_clsact(context, ifindex, interface, where)
    if ifindex in context.refused:
        raise NotOffloadedError(at_port(where, context.refused[ifindex]))


def _check_clsact(context: BridgeContext, ifindex: int, interface: Interface, where: str) -> None:
    """That no other qdisc holds the device's ingress, or soon may."""
    others = context.surroundings.state
    if interface.policed:
        raise port_reasons.POLICING_EXCLUDES_CLSACT.error(where=where)
    if ifindex in others.ingress:
        filters = others.filters.get(ifindex, ())
        if filters:
            raise port_reasons.INGRESS_QDISC.error(where=where, filter=filters[0])
        raise port_reasons.EMPTY_INGRESS_QDISC.error(where=where)
    reserved = context.surroundings.reserved
    if ifindex in reserved and interface.type not in INTERNAL_TYPES:
        raise NotOffloadedError(at_port(where, reserved[ifindex]))


def check_filters(topology: Topology, mirror: Mirror) -> None:
    """That hooks see what Open vSwitch does, where others' filters take packets away."""
    sources, destinations = topology.source_uuids(mirror), topology.destination_uuids(mirror)
    for port in topology.selected(mirror):
        where = f"port {port.name}"
        for interface in topology.interfaces(port):
            if port.uuid in sources and port.uuid not in topology.reserved:
                _check_passing(topology, interface, where, arrival=True)
            if port.uuid in destinations:
                _check_passing(topology, interface, where, arrival=False)


def _check_passing(topology: Topology, interface: Interface, where: str, *, arrival: bool) -> None:
    context = topology.context
    internal = to_ingress(interface)
    ovs_first = is_looked_at_first(arrival=arrival, netdev=topology.netdev, internal=internal)
    if interface.policed and arrival and not internal and not ovs_first:
        raise port_reasons.POLICED.error(where=where)
    device = topology.device(interface)
    filters = context.surroundings.state.filters
    if device is None or device.ifindex not in filters:
        return
    hook = hook_of(interface, device, arrival=arrival)
    there = (each for each in filters[device.ifindex] if each.direction == hook.direction)
    reason = obstacle(there, clsact=context.attach == CLSACT, ovs_first=ovs_first)
    if reason is not None:
        raise NotOffloadedError(at_port(where, reason))
