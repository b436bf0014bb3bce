"""What a component's mirrors refer to: ports, interfaces and devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

from ovs_ebpf_tap.decide.bridge_ports import BridgePorts
from ovs_ebpf_tap.decide.components import MirrorComponent
from ovs_ebpf_tap.decide.tunnel_ports import TunnelPorts
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortFlags, PortPaths
from ovs_ebpf_tap.model.frame_rewrite import vlan_set
from ovs_ebpf_tap.model.reasons.reason import Reason
from ovs_ebpf_tap.model.rows import Bridge, Database, Interface, Mirror, Port
from ovs_ebpf_tap.model.surroundings import Surroundings

_ACTIVE_BACKUP = (None, "active-backup")


@dataclass(frozen=True)
class BridgeContext:
    """What the mirrors of all components of a bridge have in common."""

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
    examined: frozenset[UUID]
    """Its ports that flows were followed back from when it was last asked."""
    flags: PortFlags
    multi_bridge_mirrors: frozenset[UUID]
    """The mirrors that are on more than one bridge."""
    over_native_limit: bool
    """Whether OVS is asked for more mirrors than it takes: `is_over_native_limit`."""
    has_untagged_output: bool
    """Whether an output takes tags off of copies."""
    tunnels: tuple[Port, ...]
    """The dot1q-tunnels that are no output ports."""
    silent: frozenset[UUID]
    """The patch ports on which nothing arrives."""
    access_and_patch_ofports: frozenset[int]
    """The OpenFlow numbers of access ports, and of patch ports."""
    leaves_tags: bool
    """Whether packets may leave through access ports with a tag that was behind another, which OVS
    does not look at."""
    protected: str | None
    """The name of a protected port that is no output port."""
    tunnel_ports: TunnelPorts
    """Of the kernel's datapath, those of other bridges included."""


class Topology(BridgePorts):
    """A component of a bridge: mirrors of others, and of other bridges, do not see its packets."""

    def __init__(self, component: MirrorComponent, context: BridgeContext) -> None:
        super().__init__({each.port.uuid: each for each in component.ports}, component.mirrors)
        self.context = context
        self.whole = component.whole
        self._vlan_sets: dict[UUID, int] = {}

    @cached_property
    def _sources(self) -> dict[UUID, list[Mirror]]:
        return _by_port(self.mirrors, self.source_uuids)

    @cached_property
    def _destinations(self) -> dict[UUID, list[Mirror]]:
        return _by_port(self.mirrors, self.destination_uuids)

    @cached_property
    def _devices(self) -> dict[str, Device | None]:
        return {
            interface.name: device
            for each in self.seen.values()
            for interface, device in zip(each.interfaces, each.devices, strict=True)
        }

    @cached_property
    def _astray(self) -> dict[str, Reason | None]:
        return {
            interface.name: why
            for each in self.seen.values()
            for interface, why in zip(each.interfaces, each.astray, strict=True)
        }

    @property
    def netdev(self) -> bool:
        """Whether it is the userspace datapath that forwards."""
        return self.context.bridge.datapath_type == "netdev"

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
            self._vlan_sets[mirror.uuid] = vlan_set(mirror.desired_vlans)
        return self._vlan_sets[mirror.uuid]

    # Flows.

    def ofports(self, port: UUID) -> list[int]:
        """The OpenFlow numbers of the port's interfaces."""
        rows = self.seen[port].interfaces
        return [interface.ofport for interface in rows if interface.ofport is not None]

    def paths(self, port: Port) -> list[PortPaths]:
        """How packets may leave through the port's interfaces, as far as that is known."""
        known = self.context.traits.ports if self.context.traits is not None else {}
        return [known[ofport] for ofport in self.ofports(port.uuid) if ofport in known]

    def flows_are_known(self, port: Port) -> bool:
        """Whether it is known how packets may leave through each of the port's interfaces."""
        known = self.paths(port)
        asked = [paths for paths in known if paths.origins is not None or paths.undecided]
        vlans = any(not each.vlans.plain for each in self.seen.values())
        return len(asked if vlans else known) == len(self.ofports(port.uuid))

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
        return bool(names & self.context.flags.no_receive)

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
