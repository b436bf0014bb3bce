"""Checks of the devices of ports: whether they are the ones that OVS has, and here."""

from __future__ import annotations

from ovs_ebpf_tap.decide.seen_port import DEVICE_TYPES
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.reasons import port_reasons
from ovs_ebpf_tap.model.rows import INTERNAL_TYPES, Interface, Mirror, Port


def check_type(topology: Topology, interface: Interface, where: str) -> None:
    """That the interface is an Ethernet device."""
    if interface.type not in DEVICE_TYPES:
        raise port_reasons.INTERFACE_TYPE.error(where=where, type=interface.type)
    device = topology.device(interface)
    if device is not None and not device.ethernet:
        raise port_reasons.NOT_ETHERNET.error(where=where, device=device.name)


def check_place(topology: Topology, interface: Interface, where: str) -> None:
    """That the device is here. Of one that is elsewhere, Open vSwitch copies all the same."""
    astray = topology.astray(interface)
    if astray is not None:
        raise astray.error(where=where, device=interface.name)


def check_sending(topology: Topology, port: Port, where: str) -> None:
    """That OVS sends to the devices that it receives from."""
    for interface in topology.interfaces(port):
        if topology.is_usurped(interface, port):
            raise port_reasons.USURPED.error(where=where, device=interface.name)


def check_lost(topology: Topology, interface: Interface, where: str) -> None:
    """That OVS does not go on with a device that is gone.

    The userspace datapath lets go of a device neither when it ends nor when it is renamed.
    What is sent to it counts as leaving. Internal devices end with ovs-vswitchd.
    """
    lost = interface.opened and topology.device(interface) is None
    if lost and topology.netdev and interface.type not in INTERNAL_TYPES:
        raise port_reasons.DEVICE_GONE.error(where=where, device=interface.name)


def check_destinations(topology: Topology, mirror: Mirror) -> None:
    """That destinations are up.

    A packet sent to a device that is down counts as leaving, and passes no hook.
    """
    if topology.whole and set(topology.source_uuids(mirror)) >= topology.seen.keys():
        return  # It was copied when it arrived.
    for port in topology.destinations(mirror):
        check_sending(topology, port, f"port {port.name}")
        if port.is_bond:
            continue  # OVS sends through members that are up.
        for device in topology.devices(port):
            if not device.up or not (topology.netdev or device.running):
                raise port_reasons.DEVICE_DOWN.error(port=port.name, device=device.name)
