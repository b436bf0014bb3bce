"""Which counters count a mirror's packets and copies, and whether they tell how many are due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from ovs_ebpf_tap.decide.bridge_ports import BridgePorts
from ovs_ebpf_tap.decide.seen_port import SeenPort, to_ingress
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.rows import Bridge, Database, Mirror, Port

RX = "rx"
TX = "tx"


@dataclass(frozen=True)
class Meter:
    """A counter of a device: of what has come in by it, or gone out, as the host sees it."""

    device: str
    ifindex: int
    side: str


@dataclass(frozen=True)
class MirrorCounters:
    """The counters that tell of a mirror.

    The sum of `due` is the number of copies that there should be; None if no counters give it, and
    `doubt` says why. Otherwise `doubt` says why the sum may be inexact: it is used only if it
    equals the number of copies.
    """

    sources: tuple[Meter, ...]
    destinations: tuple[Meter, ...]
    outputs: tuple[Meter, ...]
    switch: tuple[Meter, ...]
    """What arrives in the switch, on all its bridges."""
    due: tuple[Meter, ...] | None
    doubt: str | None
    internal_output: bool = False
    """Whether the output's device counts Open vSwitch's copies alone, not those of programs."""

    def same_mirror(self, other: MirrorCounters) -> bool:
        """Whether the mirror's own counters are the same."""
        return replace(self, switch=()) == replace(other, switch=())


class _NotKnownError(Exception):
    """Why counters do not tell how many copies are due."""


def find_counters(
    db: Database, bridge: Bridge, mirror: Mirror, devices: Mapping[str, Device]
) -> MirrorCounters:
    """The counters of the mirror, which is on the bridge."""
    layout = _layout(db, bridge, devices)
    finder = _Finder(layout, mirror)
    due: tuple[Meter, ...] | None
    try:
        due, doubt = finder.due()
    except _NotKnownError as why:
        due, doubt = None, str(why)
    output = layout.output_port(mirror)
    interfaces = layout.seen[output.uuid].interfaces if output is not None else ()
    return MirrorCounters(
        sources=finder.meters(finder.sources, arrival=True),
        destinations=finder.meters(finder.destinations, arrival=False),
        outputs=finder.meters([output] if output else [], arrival=False),
        switch=_arrivals(db, devices),
        due=due,
        doubt=doubt,
        internal_output=any(map(to_ingress, interfaces)),
    )


def _layout(db: Database, bridge: Bridge, devices: Mapping[str, Device]) -> BridgePorts:
    ports = (db.ports[uuid] for uuid in bridge.ports if uuid in db.ports)
    mirrors = [db.mirrors[uuid] for uuid in sorted(bridge.mirrors) if uuid in db.mirrors]
    return BridgePorts(
        {port.uuid: SeenPort.of(port, bridge, db, devices) for port in ports}, mirrors
    )


def _arrivals(db: Database, devices: Mapping[str, Device]) -> tuple[Meter, ...]:
    found: list[Meter] = []
    for bridge in db.bridges.values():
        layout = _layout(db, bridge, devices)
        ports = (each.port for uuid, each in layout.seen.items() if uuid not in layout.reserved)
        found += _meters(layout, ports, arrival=True)
    return tuple(dict.fromkeys(found))  # Tunnel ports share a device.


def _meters(layout: BridgePorts, ports: Iterable[Port], *, arrival: bool) -> tuple[Meter, ...]:
    """The counters of what arrives in the switch on the ports, or leaves through them."""
    found = []
    for port in sorted(ports, key=lambda port: port.name):
        seen = layout.seen[port.uuid]
        for interface, device in zip(seen.interfaces, seen.devices, strict=True):
            if device is not None:
                # Seen from the host, an internal port is the other way round.
                inward = to_ingress(interface) != arrival
                found.append(Meter(device.name, device.ifindex, RX if inward else TX))
    return tuple(found)


class _Finder:
    """Finds the counters of one mirror."""

    def __init__(self, layout: BridgePorts, mirror: Mirror) -> None:
        self._layout = layout
        self._mirror = mirror
        # What arrives on output ports is dropped, uncopied.
        self.sources = self._ports(set(layout.source_uuids(mirror)) - layout.reserved)
        self.destinations = self._ports(layout.destination_uuids(mirror))

    def _ports(self, uuids: Iterable[UUID]) -> list[Port]:
        ports = [self._layout.seen[uuid].port for uuid in uuids]
        return [port for port in ports if port.uuid != self._mirror.output_port]

    def meters(self, ports: Iterable[Port], *, arrival: bool) -> tuple[Meter, ...]:
        return _meters(self._layout, ports, arrival=arrival)

    def due(self) -> tuple[tuple[Meter, ...], str | None]:
        """The counters whose sum is the number of copies due, and why it may be inexact."""
        mirror = self._mirror
        if mirror.desired_vlans:
            raise _NotKnownError("select_vlan: only some packets of its ports are selected")
        if mirror.filter is not None:
            raise _NotKnownError("filter: only some packets of its ports are selected")
        self._check_output()
        self._check_devices()
        if mirror.select_all:
            arriving = self.meters(self.sources, arrival=True)
            return arriving, "select_all copies what Open vSwitch itself sends, too"
        if not self.destinations:
            return self.meters(self.sources, arrival=True), self._not_admitted()
        if len(self.destinations) > 1 or self.sources not in ([], self.destinations):
            raise _NotKnownError("a packet that several of its ports select is copied once")
        leaving = self.meters(self.destinations, arrival=False)
        if not self.sources:
            return leaving, "Open vSwitch also copies what the port's device drops"
        both = (*self.meters(self.sources, arrival=True), *leaving)
        return both, "a packet that goes back out of the port that it came from is copied once"

    def _check_output(self) -> None:
        mirror, layout = self._mirror, self._layout
        if layout.output_port(mirror) is None:
            raise _NotKnownError("copies leave with other packets of the output_vlan")
        for other in layout.mirrors:
            if other.uuid != mirror.uuid and other.output_port == mirror.output_port:
                raise _NotKnownError(f"mirror {other.name} copies to the same port")

    def _check_devices(self) -> None:
        for port in {*self.sources, *self.destinations}:
            seen = self._layout.seen[port.uuid]
            if not seen.devices or None in seen.devices:
                raise _NotKnownError(f"port {port.name} has no network device to count")
            if any(interface.tunnel is not None for interface in seen.interfaces):
                raise _NotKnownError(f"port {port.name} shares its device with other tunnels")

    def _not_admitted(self) -> str | None:
        for port in self.sources:
            if not self._layout.vlans(port).plain:
                return f"port {port.name} does not admit packets of every VLAN"
        return None
