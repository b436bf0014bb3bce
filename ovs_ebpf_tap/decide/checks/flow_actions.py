"""Checks of what flows do with packets that leave.

Hooks tell packets apart by content and VLAN; OVS knows what became of each. Copies that OVS makes
beyond one for each form of a packet are not imitated.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from uuid import UUID

from ovs_ebpf_tap.decide.native_mirrors import output_of
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.flow import IN_PORT, Known
from ovs_ebpf_tap.model.flow_traits import PortPaths
from ovs_ebpf_tap.model.frame_rewrite import ACCESS, KEEP, PRIORITY_NEVER
from ovs_ebpf_tap.model.reasons import packet_reasons
from ovs_ebpf_tap.model.rows import Mirror, Port

_ANY = frozenset({Known()})


def check_flows(topology: Topology, mirror: Mirror) -> None:
    """That hooks copy what flows send to destinations as often as OVS means to."""
    destinations = topology.destinations(mirror)
    for port in destinations:
        if topology.context.traits is None and not (mirror.parked and _was_known(topology, port)):
            raise packet_reasons.FLOWS_UNKNOWN.error()
        # Flows that are not known (again) are as they were when the mirror was offloaded.
        if not (mirror.parked or topology.flows_are_known(port)):
            raise packet_reasons.FLOWS_UNKNOWN.error()
        for paths in topology.paths(port):
            if paths.undecided:
                raise packet_reasons.FLOWS_TOO_MANY.error(port=port.name)
            if paths.repeats is not None:
                raise packet_reasons.FLOWS_REPEAT.error(flow=paths.repeats, port=port.name)
            if paths.numbered is not None:
                if topology.context.db.vlan_limit > 1:
                    # A tag that is taken off may leave another that OVS looks at.
                    paths = replace(paths, origins=_ANY, tagged_origins=_ANY)
                _check_tags(topology, port, paths)
                _check_others(topology, mirror, port, paths)


def _was_known(topology: Topology, port: Port) -> bool:
    """Whether it was known how packets leave through the port, or none can."""
    return port.uuid in topology.context.examined or not topology.ofports(port.uuid)


def _check_tags(topology: Topology, port: Port, paths: PortPaths) -> None:
    """That the frame tells what OVS's `mirror_packet` makes of its tags."""
    vlans = topology.vlans(port)
    if vlans.mode not in (KEEP, ACCESS) or vlans.priority != PRIORITY_NEVER:
        settings = port.vlan_mode or "with priority-tags"
        raise packet_reasons.FLOWS_BYPASS_VLANS.error(
            flow=paths.numbered, port=port.name, settings=settings
        )
    if vlans.mode == ACCESS and topology.context.leaves_tags:
        for origin in paths.tagged_origins or ():
            if not _is_at(origin, topology.context.access_and_patch_ofports):
                raise packet_reasons.FLOWS_KEEP_TAGS.error(flow=paths.numbered, port=port.name)


def _is_at(origin: Known, ofports: Collection[int]) -> bool:
    """Whether packets have arrived on one of these ports."""
    known = origin.mask & IN_PORT.mask == IN_PORT.mask
    return known and (origin.value & IN_PORT.mask) >> IN_PORT.offset in ofports


def _check_others(topology: Topology, mirror: Mirror, port: Port, paths: PortPaths) -> None:
    """That no packet is seen in one VLAN here, and in another at a port with the same output."""
    here = output_of(mirror)
    for other in topology.mirrors:
        if output_of(other) != here:
            continue
        for uuid in topology.source_uuids(other):
            arriving = {Known.of(IN_PORT, ofport) for ofport in topology.ofports(uuid)}
            _check_apart(topology, port, paths, uuid, arriving)
        for uuid in topology.destination_uuids(other):
            _check_apart(topology, port, paths, uuid, _origins(topology, port, uuid))


def _origins(topology: Topology, port: Port, other: UUID) -> set[Known]:
    """How packets may have arrived that leave through the other port, and perhaps this one."""
    traits = topology.context.traits
    if port.uuid in topology.reserved and traits is not None and traits.normal:
        return {Known()}
    # What goes to one port by number and to another by NORMAL would go to the one by NORMAL, too.
    found = topology.paths(topology.seen[other].port)
    return {origin for each in found for origin in each.origins or ()}


def _check_apart(
    topology: Topology, port: Port, paths: PortPaths, other: UUID, origins: Collection[Known]
) -> None:
    seen = topology.seen[other]
    if seen.vlans == topology.vlans(port):
        return
    for origin in paths.origins or ():
        if any(origin.meets(each) for each in origins):
            raise packet_reasons.FLOWS_MIX_VLANS.error(
                flow=paths.numbered, port=port.name, other=seen.port.name
            )
