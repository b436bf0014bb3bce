"""What a bridge's mirrors refer to: ports, interfaces and devices, looked up in what was seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self
from uuid import UUID

from ovs_ebpf_tap.decide.vlan import PortVlans
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, Hook
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortFlags
from ovs_ebpf_tap.model.frame_rewrite import vlan_set
from ovs_ebpf_tap.model.reasons import ports as reasons
from ovs_ebpf_tap.model.reasons.reason import Reason
from ovs_ebpf_tap.model.rows import INTERNAL_TYPES, Bridge, Database, Interface, Mirror, Port
from ovs_ebpf_tap.model.surroundings import Surroundings

DEVICE_TYPES = ("", "system", *INTERNAL_TYPES)
"""Interface types with a network device."""

_KERNELS, _TUN = "openvswitch", "tun"
"""What kind internal devices are of: the kernel's datapath's own, or taps."""

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


@dataclass(frozen=True)
class SeenPort:
    """A port, those of its interfaces that there are rows of, and their devices."""

    port: Port
    """With the `protected` that the user wants."""
    interfaces: tuple[Interface, ...]
    devices: tuple[Device | None, ...]
    """One for each interface; None where there is none."""
    astray: tuple[Reason | None, ...] = ()
    """For each interface: what is with the device that Open vSwitch has, if it is not here."""
    usurped: frozenset[str] = frozenset()
    """The interfaces whose name another device has than the one that is theirs: the userspace
    datapath receives from theirs, and sends to the other (`netdev_linux_send`)."""

    @classmethod
    def of(cls, port: Port, bridge: Bridge, db: Database, devices: Mapping[str, Device]) -> Self:
        """A port of a bridge with what it refers to."""
        interfaces = tuple(db.interfaces[i] for i in port.interfaces if i in db.interfaces)
        found = [_find_device(each, bridge.datapath_type, devices) for each in interfaces]
        here, astray = zip(*found, strict=True) if found else ((), ())
        usurped = frozenset(
            row.name
            for row, device in zip(interfaces, here, strict=True)
            if device is not None and devices.get(row.name, device).ifindex != device.ifindex
        )
        return cls(port, interfaces, here, astray, usurped)

    @cached_property
    def vlans(self) -> PortVlans:
        """The port's VLAN settings as OVS takes them."""
        return PortVlans.of(self.port)


def _find_device(
    interface: Interface, datapath_type: str, devices: Mapping[str, Device]
) -> tuple[Device | None, Reason | None]:
    """The interface's device here; or what is with it if Open vSwitch has another one, or one
    elsewhere.

    One that has another name by now is still its device if Open vSwitch has it open, which goes on
    with that: its socket is bound to the device (`lib/netdev-linux.c`), as is a port of the
    kernel's datapath. What the row says of the device is true of any that has the name where Open
    vSwitch looks; so one that has left is remembered.
    """
    device = devices.get(interface.name)
    if interface.bound is not None and not interface.away:
        return _find_bound(interface.bound, device, devices)
    foreign = device is not None and (
        interface.away or interface.refused or not _may_be_of(interface, datapath_type, device)
    )
    if device is not None and not foreign:
        lost = device.name != interface.name and not interface.opened
        return (None if lost else device), None
    if not interface.opened:
        return None, None
    if foreign:
        return None, reasons.NAME_TAKEN
    if interface.away or (interface.type in INTERNAL_TYPES and interface.ifindex == 0):
        return None, reasons.OTHER_NAMESPACE
    if any(each.ifindex == interface.ifindex for each in devices.values()):
        return None, reasons.RENAMED
    return None, None


def _find_bound(
    ifindex: int, named: Device | None, devices: Mapping[str, Device]
) -> tuple[Device | None, Reason | None]:
    """The same where it is known which device Open vSwitch has open."""
    device = next((each for each in devices.values() if each.ifindex == ifindex), None)
    return device, (reasons.NOT_OPEN if device is None and named is not None else None)


def _may_be_of(interface: Interface, datapath_type: str, device: Device) -> bool:
    """Whether the device is of the kind that Open vSwitch makes for the interface.

    `dpif_netdev_port_open_type` in `lib/dpif-netdev.c`, `internal_dev_link_ops` in the kernel's
    `net/openvswitch/vport-internal_dev.c`.
    """
    if interface.type not in INTERNAL_TYPES:
        return True
    made = _TUN if interface.type == "tap" or datapath_type == "netdev" else _KERNELS
    return device.kind == made


@dataclass(frozen=True)
class MirrorComponent:
    """Mirrors of a bridge that share ports, directly or through others, and these ports."""

    ports: tuple[SeenPort, ...]
    mirrors: tuple[Mirror, ...]
    """In the order of their UUIDs."""
    whole: bool
    """Whether the ports are all ports of the bridge."""


@dataclass(frozen=True)
class BridgeContext:
    """What the mirrors of all parts of a bridge have in common."""

    db: Database
    """Its settings alone."""
    bridge: Bridge
    """Its settings alone."""
    attach: str
    """How hooks would be attached."""
    refused: Mapping[int, str]
    """Why the kernel takes no hook on a device, by ifindex."""
    surroundings: Surroundings
    traits: FlowTraits | None
    """What the flow tables do; None while that is not known."""
    flags: PortFlags
    twice: frozenset[UUID]
    """The mirrors that are on more than one bridge."""
    crowded: bool
    """Whether OVS is asked for more mirrors than it takes: `is_crowded`."""
    strips: bool
    """Whether an output takes tags off of copies."""
    tunnels: tuple[Port, ...]
    """The dot1q-tunnels that are no output ports."""
    protected: str | None
    """The name of a protected port that is no output port."""


class BridgePorts:
    """Mirrors of a bridge, and the ports that they may refer to."""

    def __init__(self, seen: Mapping[UUID, SeenPort], mirrors: Sequence[Mirror]) -> None:
        """`mirrors` are in the order of their UUIDs."""
        self.seen = seen
        self.mirrors = mirrors
        outputs = (mirror.output_port for mirror in mirrors)
        self.reserved = {uuid for uuid in outputs if uuid is not None and uuid in seen}
        """Output ports: OVS drops what arrives on them, uncopied."""
        self._carrying: dict[int, list[Port]] = {}

    def vlans(self, port: Port) -> PortVlans:
        """The VLAN settings of a port that is here."""
        return self.seen[port.uuid].vlans

    # Ports of a mirror: OVS passes over those that are not on the bridge.

    def source_uuids(self, mirror: Mirror) -> Collection[UUID]:
        """The ports whose arriving packets it selects."""
        return self._pick(mirror, mirror.select_src_port)

    def destination_uuids(self, mirror: Mirror) -> Collection[UUID]:
        """The ports whose leaving packets it selects."""
        return self._pick(mirror, mirror.select_dst_port)

    def selects_ports(self, mirror: Mirror) -> bool:
        """Whether it selects any port; if not, OVS copies nothing, whatever its `select_vlan`."""
        return bool(self.source_uuids(mirror) or self.destination_uuids(mirror))

    def _pick(self, mirror: Mirror, chosen: tuple[UUID, ...]) -> Collection[UUID]:
        if mirror.select_all:
            return self.seen.keys()
        return [uuid for uuid in chosen if uuid in self.seen]

    def output_port(self, mirror: Mirror) -> Port | None:
        """The output port, if it is on the bridge."""
        found = self.seen.get(mirror.output_port) if mirror.output_port is not None else None
        return found.port if found is not None else None

    def outputs(self, mirror: Mirror) -> Sequence[Port]:
        """The ports that copies leave through: `mirror_packet`, and `xbundle_includes_vlan`."""
        if mirror.output_port is not None:
            output = self.output_port(mirror)
            return [output] if output is not None else []
        if mirror.output_vlan is None:
            return []
        if mirror.output_vlan not in self._carrying:
            self._carrying[mirror.output_vlan] = self._find_carrying(mirror.output_vlan)
        return self._carrying[mirror.output_vlan]

    def _find_carrying(self, vlan: int) -> list[Port]:
        carrying = (
            each.port
            for uuid, each in self.seen.items()
            if uuid not in self.reserved and each.vlans.carries(vlan)
        )
        return sorted(carrying, key=lambda port: port.uuid)

    # Parts.

    def split(self) -> list[MirrorComponent]:
        """The parts: what is copied in one of them is of no consequence in another."""
        if any(map(self._may_see_all, self.mirrors)):
            return [MirrorComponent(tuple(self.seen.values()), tuple(self.mirrors), whole=True)]
        groups: dict[UUID, _Group] = {}
        lonely = []
        for place, mirror in enumerate(self.mirrors):
            group = _Group()
            for uuid in self._ports_of(mirror):
                group = group.joined(uuid, groups)
            group.mirrors.append((place, mirror))
            if not group.ports:
                lonely.append(group)
        found = {id(group): group for group in groups.values()}
        return [group.part(self.seen) for group in (*found.values(), *lonely)]

    def _may_see_all(self, mirror: Mirror) -> bool:
        to_vlan = mirror.output_port is None and mirror.output_vlan is not None
        return mirror.select_all or to_vlan or len(mirror.select_src_port) >= len(self.seen)

    def _ports_of(self, mirror: Mirror) -> Iterator[UUID]:
        yield from self.source_uuids(mirror)
        yield from self.destination_uuids(mirror)
        if mirror.output_port is not None and mirror.output_port in self.seen:
            yield mirror.output_port


class _Group:
    """A part while it grows."""

    def __init__(self) -> None:
        self.ports: list[UUID] = []
        self.mirrors: list[tuple[int, Mirror]] = []

    def joined(self, port: UUID, groups: dict[UUID, _Group]) -> _Group:
        """This group with a port, and with the group that the port was in."""
        other = groups.get(port)
        if other is self:
            return self
        if other is None:
            groups[port] = self
            self.ports.append(port)
            return self
        small, large = sorted((self, other), key=lambda group: len(group.ports))
        large.mirrors += small.mirrors
        large.ports += small.ports
        groups.update(dict.fromkeys(small.ports, large))
        return large

    def part(self, seen: Mapping[UUID, SeenPort]) -> MirrorComponent:
        ports = tuple(seen[uuid] for uuid in self.ports)
        mirrors = tuple(mirror for _, mirror in sorted(self.mirrors, key=lambda each: each[0]))
        return MirrorComponent(ports, mirrors, whole=len(ports) == len(seen))


class Topology(BridgePorts):
    """A part of a bridge: mirrors of others, and of other bridges, do not see its packets."""

    def __init__(self, part: MirrorComponent, common: BridgeContext) -> None:
        super().__init__({each.port.uuid: each for each in part.ports}, part.mirrors)
        self.common = common
        self.whole = part.whole
        self._vlan_sets: dict[UUID, int] = {}
        self._sources = _by_port(self.mirrors, self.source_uuids)
        self._destinations = _by_port(self.mirrors, self.destination_uuids)
        self._devices = {
            interface.name: device
            for each in part.ports
            for interface, device in zip(each.interfaces, each.devices, strict=True)
        }
        self._astray = {
            interface.name: how
            for each in part.ports
            for interface, how in zip(each.interfaces, each.astray, strict=True)
        }

    @property
    def netdev(self) -> bool:
        """Whether it is the userspace datapath that forwards."""
        return self.common.bridge.datapath_type == "netdev"

    @property
    def ports(self) -> list[Port]:
        """The ports."""
        return [each.port for each in self.seen.values()]

    def destinations(self, mirror: Mirror) -> list[Port]:
        """The ports of `destination_uuids`."""
        return [self.seen[uuid].port for uuid in self.destination_uuids(mirror)]

    def selected(self, mirror: Mirror) -> list[Port]:
        """Sources and destinations, in the order of their names; not the output port."""
        chosen = {*self.source_uuids(mirror), *self.destination_uuids(mirror)}
        ports = [self.seen[uuid].port for uuid in chosen if uuid != mirror.output_port]
        return sorted(ports, key=lambda port: (port.name, port.uuid))

    @property
    def all_selected(self) -> list[Port]:
        """The ports that some mirror selects, in the order of their UUIDs."""
        return [self.seen[uuid].port for uuid in sorted({*self._sources, *self._destinations})]

    def selecting(self, port: Port, *, arrival: bool) -> list[Mirror]:
        """The mirrors that select packets arriving on the port, or leaving through it."""
        return (self._sources if arrival else self._destinations).get(port.uuid, [])

    def vlan_set(self, mirror: Mirror) -> int:
        """The VLANs that the mirror selects."""
        if mirror.uuid not in self._vlan_sets:
            self._vlan_sets[mirror.uuid] = vlan_set(mirror.wanted_vlans)
        return self._vlan_sets[mirror.uuid]

    # Devices.

    def interfaces(self, port: Port) -> tuple[Interface, ...]:
        """The port's interfaces that there are rows of."""
        return self.seen[port.uuid].interfaces

    def device(self, interface: Interface) -> Device | None:
        """The network device of an interface, if there is one."""
        return self._devices.get(interface.name)

    def astray(self, interface: Interface) -> Reason | None:
        """What is with an interface's device that Open vSwitch has open, but that is not here."""
        return self._astray.get(interface.name)

    def is_usurped(self, interface: Interface, port: Port) -> bool:
        """Whether what is sent to the port's interface goes to another device than its own."""
        return interface.name in self.seen[port.uuid].usurped

    def drops_arrivals(self, port: Port) -> bool:
        """Whether OVS drops what arrives on the port, uncopied: `may_receive`."""
        names = {interface.name for interface in self.interfaces(port)}
        return bool(names & self.common.flags.no_receive)

    def devices(self, port: Port) -> list[Device]:
        """The network devices of a port."""
        return [device for device in self.seen[port.uuid].devices if device is not None]

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
    mirrors: Iterable[Mirror], ports: Callable[[Mirror], Iterable[UUID]]
) -> dict[UUID, list[Mirror]]:
    found: dict[UUID, list[Mirror]] = defaultdict(list)
    for mirror in mirrors:
        for uuid in ports(mirror):
            found[uuid].append(mirror)
    return found
