"""Checks of the ports that a mirror selects, and of those that it copies to."""

from __future__ import annotations

from ovs_ebpf_tap.decide.checks.port_devices import (
    check_lost,
    check_place,
    check_sending,
    check_type,
)
from ovs_ebpf_tap.decide.checks.port_hooks import check_hooks
from ovs_ebpf_tap.decide.checks.snaplen import check_cut_at
from ovs_ebpf_tap.decide.checks.tunnels import is_hooked_tunnel
from ovs_ebpf_tap.decide.seen_port import DEVICE_TYPES
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.reasons import port_reasons
from ovs_ebpf_tap.model.rows import Mirror, Port


def check_outputs(topology: Topology, mirror: Mirror) -> None:
    """That copies can leave as OVS would send them."""
    for output in topology.outputs(mirror):
        where = f"output port {output.name}"
        _check_output(topology, output, where, named=mirror.output_port is not None)
        _check_protected(topology, mirror, output, where)
        check_cut_at(topology, mirror, output, where)
        if output.uuid in mirror.select_dst_port and not mirror.select_all:
            check_hooks(topology, output, where)


def check_selected(topology: Topology, mirror: Mirror) -> None:
    """That hooks can see what the mirror selects."""
    for port in topology.selected(mirror):
        if _needs_no_hook(topology, mirror, port):
            continue
        where = f"port {port.name}"
        for interface in topology.interfaces(port):
            if not is_hooked_tunnel(topology, interface):
                check_type(topology, interface, where)
            if interface.name in topology.context.flags.no_receive_stp:
                raise port_reasons.NO_RECEIVE_STP.error(where=where)
            check_place(topology, interface, where)
            check_lost(topology, interface, where)
        check_hooks(topology, port, where)


def _needs_no_hook(topology: Topology, mirror: Mirror, port: Port) -> bool:
    """Whether no copy is due of a port without a device that is not made at other ports.

    A patch is no wire: what leaves by it was copied, in its form then, when it arrived on a port.
    """
    if any(
        interface.type in DEVICE_TYPES or is_hooked_tunnel(topology, interface)
        for interface in topology.interfaces(port)
    ):
        return False
    if not topology.vlans(port).inside & topology.vlan_set(mirror):
        return True
    sources, silent = topology.source_uuids(mirror), topology.context.silent
    if port.uuid in sources and port.uuid not in silent:
        return False
    elsewhere = topology.seen.keys() - topology.reserved - silent
    return port.uuid not in topology.destination_uuids(mirror) or (
        topology.whole and elsewhere <= set(sources)
    )


def _check_output(topology: Topology, output: Port, where: str, *, named: bool) -> None:
    interfaces = topology.interfaces(output)
    if not interfaces:
        raise port_reasons.NO_INTERFACE.error(where=where)
    for interface in interfaces:
        check_type(topology, interface, where)
        check_place(topology, interface, where)
    check_sending(topology, output, where)
    sending = topology.sending(output)
    if sending is None:
        raise port_reasons.BOND.error(where=where)
    if sending.name in topology.context.flags.no_forward:
        raise port_reasons.NO_FORWARD.error(where=where)
    if named and topology.device(sending) is None:
        raise port_reasons.NO_DEVICE.error(where=where, device=sending.name)


def _check_protected(topology: Topology, mirror: Mirror, output: Port, where: str) -> None:
    """OVS copies nothing from a protected port to a protected one."""
    other = topology.context.protected
    if output.protected and other is not None and topology.destinations(mirror):
        raise port_reasons.PROTECTED.error(where=where, other=other)
