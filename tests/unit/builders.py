"""Small worlds for unit tests: rows and devices, named instead of numbered."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from errno import ENOMEM
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

from ovs_ebpf_tap.decide.bridge_ports import BridgePorts
from ovs_ebpf_tap.decide.planner import make_plan
from ovs_ebpf_tap.decide.seen_port import SeenPort
from ovs_ebpf_tap.model.desired import NO_CUTTER, TCX, Hook, OffloadDecision, Plan, Rule
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.flow_traits import FlowTraits, OpenFlow, PortFlags
from ovs_ebpf_tap.model.rows import Bridge, Database, Interface, Mirror, Port
from ovs_ebpf_tap.model.surroundings import ForeignFilter, State, Surroundings

_T = TypeVar("_T")


@dataclass
class World:
    """Bridges, ports, mirrors and devices; rows are referred to by name.

    `traits` are those of bridges that are not known to send all to NORMAL; None if not known.
    `unexamined` are ports that were not there when bridges were last asked.
    `refused` says why the kernel takes no hook on a device; of none, why there is no cutter.
    `filters`, `ingress_qdiscs` and `reserved` are what others have on devices, or may want to.
    """

    bridges: dict[str, Bridge] = field(default_factory=dict)
    ports: dict[str, Port] = field(default_factory=dict)
    interfaces: dict[str, Interface] = field(default_factory=dict)
    mirrors: dict[str, Mirror] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    traits: dict[str, FlowTraits | None] = field(default_factory=dict)
    unexamined: set[str] = field(default_factory=set)
    port_flags: dict[str, PortFlags] = field(default_factory=dict)
    attach: str = TCX
    refused: dict[str, str] = field(default_factory=dict)
    filters: dict[str, tuple[ForeignFilter, ...]] = field(default_factory=dict)
    ingress_qdiscs: set[str] = field(default_factory=set)
    reserved: dict[str, str] = field(default_factory=dict)
    _last: int = 0
    _last_ifindex: int = 99

    def new_uuid(self) -> UUID:
        self._last += 1
        return UUID(int=self._last)

    def add_bridge(self, name: str = "br0", **columns: Any) -> World:
        self.bridges[name] = Bridge(self.new_uuid(), name, **columns)
        return self

    def add_port(
        self,
        name: str,
        *,
        bridge: str = "br0",
        members: Iterable[str] = (),
        type: str = "",
        policed: bool = False,
        opened: bool = True,
        state: Mapping[str, Any] = MappingProxyType({}),
        device: Mapping[str, Any] | None = MappingProxyType({}),
        **columns: Any,
    ) -> World:
        """A port with an interface for each of `members`, or one of its own name.

        `device` holds what is special of their devices; None for a port without any. `state` is
        what Open vSwitch says of the interfaces, besides.
        """
        interfaces = []
        for each in tuple(members) or (name,):
            interface = Interface(
                self.new_uuid(), each, type=type, policed=policed, opened=opened, **state
            )
            self.interfaces[each] = interface
            interfaces.append(interface.uuid)
            if device is not None:
                made = "tun" if self.bridges[bridge].datapath_type == "netdev" else "openvswitch"
                kind = {"internal": made, "tap": "tun"}.get(type, "veth")
                self.add_device(each, **{"kind": kind, **device})
        self.ports[name] = Port(self.new_uuid(), name, interfaces=tuple(interfaces), **columns)
        home = self.bridges[bridge]
        self.bridges[bridge] = replace(home, ports=(*home.ports, self.ports[name].uuid))
        return self

    def add_ports(self, names: str, **columns: Any) -> World:
        for name in names.split():
            self.add_port(name, **columns)
        return self

    def add_device(self, name: str, **special: Any) -> World:
        self._last_ifindex += 1
        address = f"02:00:00:00:{self._last_ifindex >> 8:02x}:{self._last_ifindex & 0xFF:02x}"
        values = {"mtu": 1500, "up": True, "running": True, "address": address, **special}
        self.devices[name] = Device(ifindex=self._last_ifindex, name=name, **values)
        return self

    def add_mirror(
        self,
        name: str = "m",
        *,
        out: str | None = None,
        src: str = "",
        dst: str = "",
        bridge: str = "br0",
        **columns: Any,
    ) -> World:
        self.mirrors[name] = Mirror(
            self.new_uuid(),
            name,
            select_src_port=tuple(self.ports[port].uuid for port in src.split()),
            select_dst_port=tuple(self.ports[port].uuid for port in dst.split()),
            output_port=self.ports[out].uuid if out is not None else None,
            **columns,
        )
        home = self.bridges[bridge]
        self.bridges[bridge] = replace(home, mirrors=(*home.mirrors, self.mirrors[name].uuid))
        return self

    def remake_mirror(self, name: str, **selection: Any) -> World:
        """Another mirror in the place of the one called so, on the same bridge."""
        uuid = self.mirrors[name].uuid
        bridge = next(bridge for bridge, row in self.bridges.items() if uuid in row.mirrors)
        self.remove_mirror(name, bridge)
        return self.add_mirror(name, bridge=bridge, **selection)

    def remove_port(self, name: str) -> World:
        """Removes the port with its interfaces and devices, not what refers to it."""
        gone = self.ports.pop(name)
        for interface in [i for i in self.interfaces.values() if i.uuid in gone.interfaces]:
            del self.interfaces[interface.name]
            self.devices.pop(interface.name, None)
        for bridge, row in self.bridges.items():
            left = tuple(uuid for uuid in row.ports if uuid != gone.uuid)
            self.set_bridge(bridge, ports=left)
        return self

    def remove_mirror(self, name: str, bridge: str = "br0") -> Mirror:
        removed, home = self.mirrors.pop(name), self.bridges[bridge]
        left = tuple(uuid for uuid in home.mirrors if uuid != removed.uuid)
        self.bridges[bridge] = replace(home, mirrors=left)
        return removed

    def set_mirror(self, name: str, /, **columns: Any) -> None:
        self.mirrors[name] = replace(self.mirrors[name], **columns)

    def set_port(self, name: str, /, **columns: Any) -> None:
        self.ports[name] = replace(self.ports[name], **columns)

    def set_bridge(self, name: str, /, **columns: Any) -> None:
        self.bridges[name] = replace(self.bridges[name], **columns)

    @property
    def db(self) -> Database:
        return Database(
            bridges={row.uuid: row for row in self.bridges.values()},
            ports={row.uuid: row for row in self.ports.values()},
            interfaces={row.uuid: row for row in self.interfaces.values()},
            mirrors={row.uuid: row for row in self.mirrors.values()},
            **self.settings,
        )

    def bridge_ports(self, name: str = "br0") -> BridgePorts:
        """The ports and mirrors of a bridge, as the planner sees them."""
        db, bridge = self.db, self.bridges[name]
        seen = {
            uuid: SeenPort.of(db.ports[uuid], bridge, db, self.devices) for uuid in bridge.ports
        }
        return BridgePorts(seen, [db.mirrors[uuid] for uuid in sorted(bridge.mirrors)])

    @property
    def openflow(self) -> OpenFlow:
        traits = {name: self.traits.get(name, FlowTraits()) for name in self.bridges}
        known = {name: each for name, each in traits.items() if each is not None}
        examined = {row.uuid for name, row in self.ports.items() if name not in self.unexamined}
        return OpenFlow(known, self.port_flags, frozenset(examined))

    def plan(self) -> Plan:
        refused = self._by_ifindex(self.refused)
        if "" in self.refused:
            refused[NO_CUTTER] = self.refused[""]
        return make_plan(
            self.db, self.devices, self.attach, refused, self.openflow, self.surroundings
        )

    @property
    def surroundings(self) -> Surroundings:
        ingress = frozenset(self.devices[name].ifindex for name in self.ingress_qdiscs)
        others = State(ingress, self._by_ifindex(self.filters))
        return Surroundings(others, self._by_ifindex(self.reserved))

    def _by_ifindex(self, named: Mapping[str, _T]) -> dict[int, _T]:
        found = named.keys() & self.devices.keys()
        return {self.devices[name].ifindex: named[name] for name in found}

    def decision(self, name: str = "m") -> OffloadDecision:
        return self.plan().decisions[self.mirrors[name].uuid]

    def states(self) -> dict[str, str]:
        decisions = self.plan().decisions
        return {name: decisions[row.uuid].state for name, row in self.mirrors.items()}

    def hooks(self) -> dict[str, tuple[Rule, ...]]:
        """The rules by `device:direction` of their hook."""
        return {self.name_of(hook): rules for hook, rules in self.plan().hooks.items()}

    def name_of(self, hook: Hook) -> str:
        return f"{self._names[hook.ifindex]}:{hook.direction}"

    def rules(self) -> dict[str, dict[str, Rule]]:
        """The rules by hook and the name of their output device: at most one for each."""
        names = self._names
        found: dict[str, dict[str, Rule]] = {}
        for hook, rules in self.hooks().items():
            found[hook] = {names[rule.output]: rule for rule in rules}
            assert len(found[hook]) == len(rules), f"{hook} has several rules for an output"
        return found

    def copies(self) -> dict[str, set[str]]:
        """Where each hook copies to."""
        names = self._names
        return {
            hook: {names[rule.output] for rule in rules} for hook, rules in self.hooks().items()
        }

    @property
    def _names(self) -> dict[int, str]:
        return {device.ifindex: device.name for device in self.devices.values()}


class FakeMap:
    """An array map: see `bpf.Map`."""

    def __init__(self, value_size: int, max_entries: int) -> None:
        self.max_entries = max_entries
        self._value_size = value_size
        self._values: dict[int, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        place = int.from_bytes(key, sys.byteorder)
        assert place < self.max_entries
        return self._values.get(place, bytes(self._value_size))

    def set(self, key: bytes, value: bytes) -> None:
        place = int.from_bytes(key, sys.byteorder)
        assert place < self.max_entries
        assert len(key) == 4
        assert len(value) == self._value_size
        self._values[place] = value

    def clear(self, key: bytes) -> None:
        self.set(key, bytes(self._value_size))

    def first(self, count: int) -> list[bytes]:
        return [self.get(index.to_bytes(4, sys.byteorder)) or b"" for index in range(count)]


class FakeHash:
    """A hash map; `failing` calls raise."""

    fd = -1

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.failing = False

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def set(self, key: bytes, value: bytes) -> None:
        if self.failing:
            raise OSError(ENOMEM, "no room")
        self.values[key] = value

    def delete(self, key: bytes) -> None:
        if self.failing:
            raise OSError(ENOMEM, "no room")
        self.values.pop(key, None)

    def items(self) -> dict[bytes, bytes]:
        return dict(self.values)


class Clock:
    """In place of the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def switch(ports: str = "a b c out") -> World:
    """A bridge with some ports."""
    return World().add_bridge().add_ports(ports)
