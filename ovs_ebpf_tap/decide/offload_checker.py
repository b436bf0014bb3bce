"""Whether a mirror by itself can be copied exactly as OVS would, or why not.

What OVS refuses is in `vswitchd/bridge.c` (`mirror_configure`), what it would copy in
`ofproto/ofproto-dpif-xlate.c` (`mirror_packet`, `compose_output_action__`).
"""

from __future__ import annotations

from functools import partial

from ovs_ebpf_tap.decide.bridge_ports import BridgePorts
from ovs_ebpf_tap.decide.mirror_filter import InvalidFilterError, UnsupportedFilterError, parse
from ovs_ebpf_tap.decide.ovs_version import mirrors_after_metadata, mirrors_modified_packets
from ovs_ebpf_tap.decide.policing import is_looked_at_first, obstacle
from ovs_ebpf_tap.decide.seen_port import DEVICE_TYPES, hook_of, to_ingress
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.desired import (
    CLSACT,
    NO_CUTTER,
    NOTHING_SELECTED,
    OFFLOAD,
    NotOffloadedError,
    OffloadDecision,
)
from ovs_ebpf_tap.model.frame_rewrite import ACCESS, ALL, PRIORITY_ALWAYS, PRIORITY_NEVER, TUNNEL
from ovs_ebpf_tap.model.reasons import packet_reasons, port_reasons, row_reasons
from ovs_ebpf_tap.model.reasons.reason import at_port
from ovs_ebpf_tap.model.rows import (
    INTERNAL_TYPES,
    MODE_KEY,
    Bridge,
    Database,
    Interface,
    Mirror,
    Port,
)

MODES = ("offload", "native")

MAX_NATIVE_MIRRORS = 32
"""Mirrors that OVS takes on a bridge: MAX_MIRRORS in `ofproto/ofproto-dpif-mirror.h`."""


_SHORTEST_NETDEV = 20
"""The userspace datapath counts a VLAN tag in `snaplen`, and below this it cuts within the tag or
the type behind it: what the kernel then drops depends on the output."""


def mode_of(db: Database, bridge: Bridge, mirror: Mirror) -> str:
    """The mode in force: of the Mirror, its Bridge or the Open_vSwitch row, the nearest set."""
    for row in (mirror, bridge, db):
        mode = row.external_ids.get(MODE_KEY)
        if mode is not None:
            return mode
    return MODES[0]


def is_over_native_limit(layout: BridgePorts) -> bool:
    """Whether OVS is asked for more mirrors on the bridge than it takes.

    A row without an output, or with a filter that it does not parse, takes no place of another:
    `mirror_configure` in `vswitchd/bridge.c`, `mirror_set` in `ofproto/ofproto-dpif-mirror.c`.
    """
    if len(layout.mirrors) <= MAX_NATIVE_MIRRORS:
        return False
    return sum(map(partial(_takes_place, layout), layout.mirrors)) > MAX_NATIVE_MIRRORS


def _takes_place(layout: BridgePorts, mirror: Mirror) -> bool:
    if mirror.output_port is not None:
        if layout.output_port(mirror) is None:
            return False
    elif mirror.output_vlan is None:
        return False
    try:
        parse(mirror.filter or "")
    except InvalidFilterError:
        return False
    except UnsupportedFilterError:
        return True
    return True


class OffloadChecker:
    """Judges the mirrors of a part of a bridge, each by itself."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._context = topology.context

    def decision(self, mirror: Mirror) -> OffloadDecision:
        """Whether the mirror can be offloaded; the first reason found why not."""
        try:
            self._check_bridges(mirror)
            self._check_row(mirror)
            self._check_mode(mirror)
            self._check_bridge()
            self._check_selection(mirror)
            self._check_outputs(mirror)
            for port in self._topology.selected(mirror):
                self._check_port(port)
            self._check_filters(mirror)
            self._check_super_packets(mirror)
            self._check_destinations(mirror)
            self._check_tags_left(mirror)
            self._check_flows(mirror)
        except NotOffloadedError as why:
            return why.decision
        return OFFLOAD if self._topology.selects_ports(mirror) else NOTHING_SELECTED

    def lacks_room(self, mirror: Mirror) -> bool:
        """Whether OVS has not taken the mirror because it has 32 on the bridge.

        It keeps statistics of those that it has taken (`mirror_refresh_stats`), and which they
        are depends on what came first.
        """
        return self._context.over_native_limit and not mirror.parked and not mirror.statistics

    def _check_bridges(self, mirror: Mirror) -> None:
        if mirror.uuid in self._context.multi_bridge_mirrors:
            raise row_reasons.MULTIPLE_BRIDGES.error()

    def _check_row(self, mirror: Mirror) -> None:
        """As OVS does, passes over an output VLAN beside an output port."""
        if mirror.output_port is not None:
            if self._topology.output_port(mirror) is None:
                raise row_reasons.OUTPUT_ELSEWHERE.error()
        elif mirror.output_vlan is None:
            raise row_reasons.NO_OUTPUT.error()
        try:
            parse(mirror.filter or "")
        except InvalidFilterError as error:
            raise row_reasons.INVALID_FILTER.error(error=error) from None
        except UnsupportedFilterError:
            return  # Not for Open vSwitch.

    def _check_mode(self, mirror: Mirror) -> None:
        mode = mode_of(self._context.db, self._context.bridge, mirror)
        if mode == "native":
            raise row_reasons.MODE_NATIVE.error()
        if mode not in MODES:
            raise row_reasons.MODE_UNKNOWN.error(mode=mode)
        if mirror.contended:
            raise row_reasons.CONTENDED.error()

    def _check_bridge(self) -> None:
        bridge = self._context.bridge
        if bridge.spanning_tree:
            raise row_reasons.SPANNING_TREE.error()
        if bridge.datapath_type not in ("", "system", "netdev"):
            raise row_reasons.DATAPATH_TYPE.error(type=bridge.datapath_type)
        if self._context.db.hw_offload and self._context.attach == CLSACT:
            raise row_reasons.HW_OFFLOAD.error()

    def _check_selection(self, mirror: Mirror) -> None:
        try:
            parse(mirror.filter or "")
        except UnsupportedFilterError as error:
            raise row_reasons.UNSUPPORTED_FILTER.error(field=error) from None
        if 0 < mirror.cut < _SHORTEST_NETDEV and self._topology.netdev:
            raise row_reasons.SHORT_SNAPLEN.error(shortest=_SHORTEST_NETDEV)
        if mirror.cut and NO_CUTTER in self._context.refused:
            raise row_reasons.SNAPLEN_REFUSED.error(refusal=self._context.refused[NO_CUTTER])

    # Outputs.

    def _check_outputs(self, mirror: Mirror) -> None:
        for output in self._topology.outputs(mirror):
            where = f"output port {output.name}"
            self._check_output(output, where, named=mirror.output_port is not None)
            self._check_protected(mirror, output, where)
            self._check_cut(mirror, output, where)
            if output.uuid in mirror.select_dst_port and not mirror.select_all:
                self._check_hooks(output, where)

    def _check_output(self, output: Port, where: str, *, named: bool) -> None:
        interfaces = self._topology.interfaces(output)
        if not interfaces:
            raise port_reasons.NO_INTERFACE.error(where=where)
        for interface in interfaces:
            self._check_type(interface, where)
            self._check_place(interface, where)
        self._check_sending(output, where)
        sending = self._topology.sending(output)
        if sending is None:
            raise port_reasons.BOND.error(where=where)
        if sending.name in self._context.flags.no_forward:
            raise port_reasons.NO_FORWARD.error(where=where)
        if named and self._topology.device(sending) is None:
            raise port_reasons.NO_DEVICE.error(where=where, device=sending.name)

    def _check_protected(self, mirror: Mirror, output: Port, where: str) -> None:
        """OVS copies nothing from a protected port to a protected one."""
        other = self._context.protected
        if output.protected and other is not None and self._topology.destinations(mirror):
            raise port_reasons.PROTECTED.error(where=where, other=other)

    def _check_cut(self, mirror: Mirror, output: Port, where: str) -> None:
        if mirror.cut and any(map(to_ingress, self._topology.interfaces(output))):
            raise port_reasons.INTERNAL_SNAPLEN.error(where=where)

    # Ports.

    def _check_port(self, port: Port) -> None:
        where = f"port {port.name}"
        for interface in self._topology.interfaces(port):
            self._check_type(interface, where)
            if interface.name in self._context.flags.no_receive_stp:
                raise port_reasons.NO_RECEIVE_STP.error(where=where)
            self._check_place(interface, where)
            self._check_lost(interface, where)
        self._check_hooks(port, where)

    def _check_place(self, interface: Interface, where: str) -> None:
        """Of a device that is elsewhere, Open vSwitch copies all the same."""
        astray = self._topology.astray(interface)
        if astray is not None:
            raise astray.error(where=where, device=interface.name)

    def _check_sending(self, port: Port, where: str) -> None:
        for interface in self._topology.interfaces(port):
            if self._topology.is_usurped(interface, port):
                raise port_reasons.USURPED.error(where=where, device=interface.name)

    def _check_lost(self, interface: Interface, where: str) -> None:
        """The userspace datapath lets go of a device neither when it ends nor when it is renamed.

        What is sent to it counts as leaving. Internal devices end with ovs-vswitchd.
        """
        lost = interface.opened and self._topology.device(interface) is None
        if lost and self._topology.netdev and interface.type not in INTERNAL_TYPES:
            raise port_reasons.DEVICE_GONE.error(where=where, device=interface.name)

    def _check_hooks(self, port: Port, where: str) -> None:
        for interface in self._topology.interfaces(port):
            device = self._topology.device(interface)
            if device is not None:
                self.check_hook(device.ifindex, interface, where)

    def _check_type(self, interface: Interface, where: str) -> None:
        if interface.type not in DEVICE_TYPES:
            raise port_reasons.INTERFACE_TYPE.error(where=where, type=interface.type)
        device = self._topology.device(interface)
        if device is not None and not device.ethernet:
            raise port_reasons.NOT_ETHERNET.error(where=where, device=device.name)

    def check_hook(self, ifindex: int, interface: Interface, where: str) -> None:
        """Raises NotOffloadedError if the interface's device takes no hook."""
        if self._context.attach == CLSACT:
            self._check_clsact(ifindex, interface, where)
        if ifindex in self._context.refused:
            raise NotOffloadedError(at_port(where, self._context.refused[ifindex]))

    def _check_clsact(self, ifindex: int, interface: Interface, where: str) -> None:
        """Raises NotOffloadedError if another qdisc holds the device's ingress, or soon may."""
        others = self._context.surroundings.state
        if interface.policed:
            raise port_reasons.POLICING_EXCLUDES_CLSACT.error(where=where)
        if ifindex in others.ingress:
            filters = others.filters.get(ifindex, ())
            if filters:
                raise port_reasons.INGRESS_QDISC.error(where=where, filter=filters[0])
            raise port_reasons.EMPTY_INGRESS_QDISC.error(where=where)
        reserved = self._context.surroundings.reserved
        if ifindex in reserved and interface.type not in INTERNAL_TYPES:
            raise NotOffloadedError(at_port(where, reserved[ifindex]))

    def _check_filters(self, mirror: Mirror) -> None:
        """Whether hooks see what Open vSwitch does, where others' filters take packets away."""
        topology = self._topology
        sources, destinations = topology.source_uuids(mirror), topology.destination_uuids(mirror)
        for port in topology.selected(mirror):
            where = f"port {port.name}"
            for interface in topology.interfaces(port):
                if port.uuid in sources and port.uuid not in topology.reserved:
                    self._check_passing(interface, where, arrival=True)
                if port.uuid in destinations:
                    self._check_passing(interface, where, arrival=False)

    def _check_passing(self, interface: Interface, where: str, *, arrival: bool) -> None:
        topology, clsact = self._topology, self._context.attach == CLSACT
        internal = to_ingress(interface)
        ovs_first = is_looked_at_first(arrival=arrival, netdev=topology.netdev, internal=internal)
        if interface.policed and arrival and not internal and not ovs_first:
            raise port_reasons.POLICED.error(where=where)
        device = topology.device(interface)
        filters = self._context.surroundings.state.filters
        if device is None or device.ifindex not in filters:
            return
        hook = hook_of(interface, device, arrival=arrival)
        there = (each for each in filters[device.ifindex] if each.direction == hook.direction)
        reason = obstacle(there, clsact=clsact, ovs_first=ovs_first)
        if reason is not None:
            raise NotOffloadedError(at_port(where, reason))

    def _check_super_packets(self, mirror: Mirror) -> None:
        """Whether packets that the host sends have one form at all hooks, and for `snaplen`.

        The kernel cuts super-packets behind the hook of a tap without offloads
        (`validate_xmit_skb` in its `net/core/dev.c`), so that the userspace datapath receives
        segments. A mirror of such arrivals alone copies super-packets as one.
        """
        topology = self._topology
        if not topology.netdev or self._context.db.userspace_tso:
            return
        if not mirror.cut and not topology.destinations(mirror):
            return
        for uuid in topology.source_uuids(mirror):
            port = topology.seen[uuid].port
            if uuid in topology.reserved:
                continue
            for interface in topology.interfaces(port):
                device = topology.device(interface)
                if to_ingress(interface) and device is not None and device.up:
                    cut, leaving = (
                        port_reasons.SUPER_PACKETS_SNAPLEN,
                        port_reasons.SUPER_PACKETS_LEAVING,
                    )
                    raise (cut if mirror.cut else leaving).error(port=port.name)

    def _check_destinations(self, mirror: Mirror) -> None:
        """A packet sent to a device that is down counts as leaving, and passes no hook."""
        topology = self._topology
        if topology.whole and set(topology.source_uuids(mirror)) >= topology.seen.keys():
            return  # It was copied when it arrived.
        for port in topology.destinations(mirror):
            self._check_sending(port, f"port {port.name}")
            if port.is_bond:
                continue  # OVS sends through members that are up.
            for device in topology.devices(port):
                if not device.up or not (topology.netdev or device.running):
                    raise port_reasons.DEVICE_DOWN.error(port=port.name, device=device.name)

    def _check_tags_left(self, mirror: Mirror) -> None:
        """Whether tags of a frame that has left a port are ones that OVS has looked at.

        A port may have taken one off, and what was a second tag then looks like a first. A
        dot1q-tunnel may have put one on, and Open vSwitch then minds the second, too.
        """
        topology = self._topology
        inner = self._context.db.vlan_limit > 1
        destinations = topology.destinations(mirror)
        strips, tunnels = self._context.has_untagged_output, self._context.tunnels
        for port in tunnels if destinations else ():
            if not port.tag:
                raise packet_reasons.TUNNEL_WITHOUT_TAG.error(port=port.name)
        for port in destinations:
            vlans = topology.vlans(port)
            if vlans.mode == TUNNEL and not inner and (strips or vlans.trunks != ALL):
                raise packet_reasons.TUNNEL_TAGS.error(port=port.name)
            minded = strips or vlans.priority == PRIORITY_ALWAYS
            if vlans.mode != ACCESS and not inner and minded and tunnels:
                raise packet_reasons.TUNNELS_AND_OTHERS.error(port=port.name)
            if vlans.mode == ACCESS and tunnels:
                raise packet_reasons.ACCESS_BEHIND_TUNNELS.error(port=port.name)
            if vlans.mode == ACCESS and vlans.priority != PRIORITY_NEVER:
                raise packet_reasons.PRIORITY_TAGS.error(port=port.name)

    # Flow tables.

    def _check_flows(self, mirror: Mirror) -> None:
        """Hooks tell packets apart by content and VLAN; OVS knows what became of each."""
        topology = self._topology
        if not topology.destinations(mirror):
            return
        version = self._context.db.ovs_version
        vlans = any(not topology.vlans(port).plain for port in topology.selected(mirror))
        modified = mirrors_modified_packets(version) is not True
        metadata = mirrors_after_metadata(version) is not False
        traits = self._context.traits
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
