"""Checks of tunnel ports of the kernel's datapath: whether their packets can be told apart."""

from __future__ import annotations

from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.decide.tunnel_ports import is_told_by_flows, tunnel_of
from ovs_ebpf_tap.model.limits import MAX_GENEVE_OPTIONS
from ovs_ebpf_tap.model.reasons import port_reasons
from ovs_ebpf_tap.model.rows import Interface, Mirror, Port
from ovs_ebpf_tap.model.tunnel import KINDS


def is_hooked_tunnel(topology: Topology, interface: Interface) -> bool:
    """Whether it is a tunnel whose device carries its packets as Ethernet frames."""
    return not topology.netdev and interface.type in KINDS


def check_tunnels(topology: Topology, mirror: Mirror) -> None:
    """That hooks know the packets of the tunnel ports that the mirror selects."""
    sources, destinations = topology.source_uuids(mirror), topology.destination_uuids(mirror)
    arrivals_do = _is_all_copied_on_arrival(topology, mirror)
    for port in topology.selected(mirror):
        for interface in topology.interfaces(port):
            if is_hooked_tunnel(topology, interface):
                if port.uuid in sources or port.uuid in destinations:
                    _check_options(topology, interface, port)
                if port.uuid in sources and interface.type == "geneve":
                    _check_geneve(topology, port)
                if port.uuid in destinations and not arrivals_do:
                    _check_leaving(topology, interface, port)


def _is_all_copied_on_arrival(topology: Topology, mirror: Mirror) -> bool:
    """Whether nothing is left to be copied when it leaves."""
    traits = topology.context.traits
    return (
        topology.whole
        and set(topology.source_uuids(mirror)) >= topology.seen.keys()
        and traits is not None
        and not (traits.modifies or traits.outputs)
    )


def _check_options(topology: Topology, interface: Interface, port: Port) -> None:
    if interface.tunnel is None:
        raise port_reasons.TUNNEL_OPTIONS.error(port=port.name)
    other = topology.context.tunnel_ports.unclear(interface)
    if other is not None:
        raise port_reasons.TUNNEL_OPTIONS.error(port=other.name)


def _check_geneve(topology: Topology, port: Port) -> None:
    if len(topology.context.flags.geneve_options or ()) > MAX_GENEVE_OPTIONS:
        raise port_reasons.GENEVE_OPTIONS.error(where=f"port {port.name}", limit=MAX_GENEVE_OPTIONS)


def _check_leaving(topology: Topology, interface: Interface, port: Port) -> None:
    tunnel = tunnel_of(interface, arrival=False)
    if tunnel is None or is_told_by_flows(tunnel):
        raise port_reasons.TUNNEL_BY_FLOW.error(port=port.name)
    other = topology.context.tunnel_ports.alike(interface)
    if other is not None:
        raise port_reasons.TUNNELS_ALIKE.error(port=port.name, other=other.name)
