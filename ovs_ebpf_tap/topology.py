"""What a bridge's mirrors refer to: ports, interfaces and devices, looked up in what was seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from ovs_ebpf_tap.links import Device
from ovs_ebpf_tap.model import Bridge, Database, Interface, Mirror, Port
from ovs_ebpf_tap.netlink import EGRESS, INGRESS
from ovs_ebpf_tap.openflow import FlowTraits, PortFlags
from ovs_ebpf_tap.vlan import PortVlans
from ovs_ebpf_tap.wanted import Hook

# Interface types with a network device, and those of them that the host, not a VM, is behind.
INTERNAL_TYPES = ("internal", "tap")
DEVICE_TYPES = ("", "system", *INTERNAL_TYPES)

_ACTIVE_BACKUP = (None, "active-backup")


def to_ingress(interface: Interface) -> bool:
    """Whether what the switch sends to the interface passes its device's ingress hook."""
    return interface.type in INTERNAL_TYPES


def hook_of(interface: Interface, device: Device, *, arrival: bool) -> Hook:
    """The hook that the interface's packets pass when they arrive in the switch, or leave it."""
    inward = to_ingress(interface) != arrival
    return Hook(device.ifindex, INGRESS if inward else EGRESS)


@dataclass(frozen=True)
class OpenFlow:
    """What bridges' OpenFlow tells, by their names."""

    traits: Mapping[str, FlowTraits] = field(default_factory=dict)
    port_flags: Mapping[str, PortFlags] = field(default_factory=dict)


class Topology:
    """One bridge: mirrors of different bridges do not see each other's packets."""

    def __init__(
        self, db: Database, bridge: Bridge, devices: Mapping[str, Device], openflow: OpenFlow
    ) -> None:
        self.db = db
        self.bridge = bridge
        self._devices = devices
        self.traits = openflow.traits.get(bridge.name)
        """What the flow tables do; None while that is not known."""
        self.flags = openflow.port_flags.get(bridge.name, PortFlags())
        self.ports = {uuid: db.ports[uuid] for uuid in bridge.ports if uuid in db.ports}
        self.mirrors = [db.mirrors[uuid] for uuid in sorted(bridge.mirrors) if uuid in db.mirrors]
        self.vlans = {uuid: PortVlans.of(port) for uuid, port in self.ports.items()}
        outputs = (self.output_port(mirror) for mirror in self.mirrors)
        self.reserved = {output.uuid for output in outputs if output is not None}
        """Output ports: OVS drops what arrives on them, uncopied."""
        self._sources = _by_port(self.mirrors, self.source_uuids)
        self._destinations = _by_port(self.mirrors, self.destination_uuids)

    @property
    def netdev(self) -> bool:
        """Whether it is the userspace datapath that forwards."""
        return self.bridge.datapath_type == "netdev"

    # Ports of a mirror: OVS passes over those that are not on the bridge.

    def source_uuids(self, mirror: Mirror) -> Iterable[UUID]:
        """The ports whose arriving packets it selects."""
        return self._pick(mirror, mirror.select_src_port)

    def destination_uuids(self, mirror: Mirror) -> Iterable[UUID]:
        """The ports whose leaving packets it selects."""
        return self._pick(mirror, mirror.select_dst_port)

    def _pick(self, mirror: Mirror, chosen: tuple[UUID, ...]) -> Iterable[UUID]:
        return self.ports if mirror.select_all else [uuid for uuid in chosen if uuid in self.ports]

    def destinations(self, mirror: Mirror) -> list[Port]:
        """The ports of `destination_uuids`."""
        return [self.ports[uuid] for uuid in self.destination_uuids(mirror)]

    def selected(self, mirror: Mirror) -> list[Port]:
        """Sources and destinations, in the order of their names; not the output port."""
        chosen = {*self.source_uuids(mirror), *self.destination_uuids(mirror)}
        ports = [self.ports[uuid] for uuid in chosen if uuid != mirror.output_port]
        return sorted(ports, key=lambda port: (port.name, port.uuid))

    def selecting(self, port: Port, *, arrival: bool) -> list[Mirror]:
        """The mirrors that select packets arriving on the port, or leaving through it."""
        return (self._sources if arrival else self._destinations).get(port.uuid, [])

    def output_port(self, mirror: Mirror) -> Port | None:
        """The output port, if it is on the bridge."""
        return self.ports.get(mirror.output_port) if mirror.output_port is not None else None

    def outputs(self, mirror: Mirror) -> list[Port]:
        """The ports that copies leave through: `mirror_packet`, and `xbundle_includes_vlan`."""
        if mirror.output_port is not None:
            output = self.output_port(mirror)
            return [output] if output is not None else []
        if mirror.output_vlan is None:
            return []
        carrying = (
            port
            for uuid, port in self.ports.items()
            if uuid not in self.reserved and self.vlans[uuid].carries(mirror.output_vlan)
        )
        return sorted(carrying, key=lambda port: port.uuid)

    # Devices.

    def interfaces(self, port: Port) -> list[Interface]:
        """The port's interfaces that there are rows of."""
        rows = self.db.interfaces
        return [rows[uuid] for uuid in port.interfaces if uuid in rows]

    def device(self, interface: Interface) -> Device | None:
        """The network device of an interface, if there is one."""
        return self._devices.get(interface.name)

    def drops_arrivals(self, port: Port) -> bool:
        """Whether OVS drops what arrives on the port, uncopied: `may_receive`."""
        names = {interface.name for interface in self.interfaces(port)}
        return bool(names & self.flags.no_receive)

    def devices(self, port: Port) -> list[Device]:
        """The network devices of a port."""
        found = (self.device(interface) for interface in self.interfaces(port))
        return [device for device in found if device is not None]

    def sending(self, port: Port) -> Interface | None:
        """The interface that copies leave through; None if there is none, or OVS alone knows.

        Of a bond, the member in use: `bond_choose_output_member` in `ofproto/bond.c`.
        """
        interfaces = self.interfaces(port)
        if not port.is_bond:
            return interfaces[0] if interfaces else None
        if port.bond_mode not in _ACTIVE_BACKUP or not port.bond_active_member:
            return None
        for interface in interfaces:
            device = self.device(interface)
            if device is not None and device.address == port.bond_active_member:
                return interface
        return None


def _by_port(
    mirrors: list[Mirror], ports: Callable[[Mirror], Iterable[UUID]]
) -> dict[UUID, list[Mirror]]:
    found: dict[UUID, list[Mirror]] = defaultdict(list)
    for mirror in mirrors:
        for uuid in ports(mirror):
            found[uuid].append(mirror)
    return found
