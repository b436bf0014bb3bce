"""Decides which mirrors are offloaded, with which hooks and rules, and why the others are not.

Pure functions from the database and the devices to a `Plan`. What OVS does is in
`ofproto/ofproto-dpif-xlate.c` (`mirror_packet`, `mirror_ingress_packet`,
`compose_output_action__`), `ofproto/ofproto-dpif-mirror.c` and `vswitchd/bridge.c`
(`mirror_configure`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from uuid import UUID

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.model import MODE_KEY, Bridge, Database, Interface, Mirror, Port
from ovs_ebpf_tap.netlink import EGRESS, INGRESS, Device
from ovs_ebpf_tap.text import printable

OFFLOADED = "offloaded"
NATIVE = "native"
INVALID = "invalid"

MODES = ("offload", "native")

TCX = "tcx"
CLSACT = "clsact"

MAX_RULES_PER_HOOK = abi.constant("MAX_RULES_PER_HOOK")
MAX_MIRRORS = abi.constant("MAX_MIRRORS")

_ETHERNET_HEADER = 14
_ANY_LENGTH = 0xFFFFFFFF
_UNTRUNCATED = 65535

# Interface types with a network device, and those of them that the host, not a VM, is behind.
_INTERNAL_TYPES = ("internal", "tap")
_DEVICE_TYPES = ("", "system", *_INTERNAL_TYPES)

_KEEPS_TAGS = (None, "trunk")


@dataclass(frozen=True, order=True)
class Hook:
    """The ingress or egress TC hook of a device."""

    ifindex: int
    direction: str


@dataclass(frozen=True, order=True)
class Rule:
    """A copy that a hook makes."""

    mirror: UUID
    output: int
    arrival: bool
    to_ingress: bool = False
    once: bool = False
    to_hook: bool = False
    """The output device has a hook too, which passes this copy over."""
    sees_copies: bool = False
    """The hook is on an output device, and copies of ours pass it."""
    max_len: int = _ANY_LENGTH


@dataclass(frozen=True)
class Verdict:
    """Who copies a mirror's packets; `reason` is there unless it is offloaded."""

    state: str
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is wanted: a verdict for each mirror that a bridge refers to, and the rules."""

    verdicts: Mapping[UUID, Verdict] = field(default_factory=dict)
    hooks: Mapping[Hook, tuple[Rule, ...]] = field(default_factory=dict)


OFFLOAD = Verdict(OFFLOADED)


class NotOffloadedError(Exception):
    """Why a mirror stays with OVS, or is refused by it."""

    def __init__(self, reason: str, state: str = NATIVE) -> None:
        super().__init__(reason)
        self.verdict = Verdict(state, printable(reason))


def make_plan(
    db: Database,
    devices: Mapping[str, Device],
    attach: str,
    refused: Mapping[int, str] = MappingProxyType({}),
) -> Plan:
    """The plan for all bridges, with hooks attached as `attach` (`TCX` or `CLSACT`) says.

    `refused` says why the kernel takes no hook on a device, by ifindex.
    """
    verdicts: dict[UUID, Verdict] = {}
    hooks: dict[Hook, list[Rule]] = defaultdict(list)
    room = MAX_MIRRORS
    for bridge in sorted(db.bridges.values(), key=lambda bridge: bridge.name):
        planner = _BridgePlanner(db, bridge, devices, attach, refused)
        planner.limit(room)
        verdicts.update(planner.verdicts)
        room -= len(planner.offloaded)
        for hook, rules in planner.rules().items():
            hooks[hook].extend(rules)
    return Plan(verdicts, {hook: tuple(sorted(rules)) for hook, rules in hooks.items()})


def mode_of(db: Database, bridge: Bridge, mirror: Mirror) -> str:
    """The mode in force: of the Mirror, its Bridge or the Open_vSwitch row, the nearest set."""
    for row in (mirror, bridge, db):
        mode = row.external_ids.get(MODE_KEY)
        if mode is not None:
            return mode
    return MODES[0]


def to_ingress(interface: Interface) -> bool:
    """Whether what the switch sends to the interface passes its device's ingress hook."""
    return interface.type in _INTERNAL_TYPES


def _hook(interface: Interface, device: Device, *, arrival: bool) -> Hook:
    inward = to_ingress(interface) != arrival
    return Hook(device.ifindex, INGRESS if inward else EGRESS)


class _BridgePlanner:
    """Plans one bridge: mirrors of different bridges do not see each other's packets."""

    def __init__(
        self,
        db: Database,
        bridge: Bridge,
        devices: Mapping[str, Device],
        attach: str,
        refused: Mapping[int, str],
    ) -> None:
        self._db = db
        self._bridge = bridge
        self._devices = devices
        self._attach = attach
        self._refused = refused
        self._ports = {uuid: db.ports[uuid] for uuid in bridge.ports if uuid in db.ports}
        self._mirrors = [db.mirrors[uuid] for uuid in sorted(bridge.mirrors) if uuid in db.mirrors]
        self.verdicts = {mirror.uuid: self._judge(mirror) for mirror in self._mirrors}
        self._spread()

    @property
    def offloaded(self) -> list[Mirror]:
        """The mirrors that are offloaded, in the order of their UUIDs."""
        return [m for m in self._mirrors if self.verdicts[m.uuid].state == OFFLOADED]

    def limit(self, room: int) -> None:
        """Leaves to OVS what there is no room for in the maps."""
        for mirror in self.offloaded[max(room, 0) :]:
            self.verdicts[mirror.uuid] = Verdict(
                NATIVE, f"more than {MAX_MIRRORS} mirrors are offloaded on this host"
            )
        for rules in list(self.rules().values()):
            for rule in rules[MAX_RULES_PER_HOOK:]:
                self.verdicts[rule.mirror] = Verdict(
                    NATIVE, f"a port of it is copied to more than {MAX_RULES_PER_HOOK} outputs"
                )
        self._spread()

    # One mirror by itself.

    def _judge(self, mirror: Mirror) -> Verdict:
        try:
            self._check_bridges(mirror)
            output = self._output_port(mirror)
            self._check_mode(mirror)
            self._check_selection(mirror)
            self._check_bridge()
            self._check_output(output)
            for port in self._selected(mirror):
                self._check_selected(port)
            self._check_destinations(mirror)
            self._check_reserved(mirror)
        except NotOffloadedError as why:
            return why.verdict
        return OFFLOAD

    def _check_bridges(self, mirror: Mirror) -> None:
        if sum(mirror.uuid in bridge.mirrors for bridge in self._db.bridges.values()) > 1:
            raise NotOffloadedError("it is on more than one bridge")

    def _output_port(self, mirror: Mirror) -> Port:
        """The output port; as OVS does, an output VLAN beside it is passed over."""
        if mirror.output_port is not None:
            port = self._ports.get(mirror.output_port)
            if port is None:
                raise NotOffloadedError("its output_port is not on this bridge", INVALID)
            return port
        if mirror.output_vlan is not None:
            raise NotOffloadedError("output_vlan is left to Open vSwitch")
        raise NotOffloadedError("it has neither output_port nor output_vlan", INVALID)

    def _check_mode(self, mirror: Mirror) -> None:
        mode = mode_of(self._db, self._bridge, mirror)
        if mode == "native":
            raise NotOffloadedError(f"{MODE_KEY} is native")
        if mode not in MODES:
            raise NotOffloadedError(f"{MODE_KEY} is neither offload nor native: {mode!r}")

    def _check_selection(self, mirror: Mirror) -> None:
        if mirror.wanted_vlans:
            raise NotOffloadedError("select_vlan is left to Open vSwitch")
        if mirror.snaplen is not None and 0 < mirror.snaplen < _UNTRUNCATED:
            raise NotOffloadedError("snaplen is left to Open vSwitch")
        if mirror.filter:
            raise NotOffloadedError("filter is left to Open vSwitch")

    def _check_bridge(self) -> None:
        if self._bridge.spanning_tree:
            raise NotOffloadedError("the bridge runs STP or RSTP, whose port states only OVS knows")
        if self._bridge.datapath_type not in ("", "system", "netdev"):
            raise NotOffloadedError(f"datapath type {self._bridge.datapath_type} is not known")
        if self._db.hw_offload and self._attach == CLSACT:
            raise NotOffloadedError(
                "hw-offload flushes clsact filters; TCX needs Linux 6.6 or later"
            )

    def _check_output(self, port: Port) -> None:
        where = f"output port {port.name}"
        if port.is_bond:
            raise NotOffloadedError(f"{where} is a bond")
        if port.vlan_mode not in _KEEPS_TAGS or port.tag is not None:
            raise NotOffloadedError(f"{where} has VLAN settings that change the frames")
        self._check_tag_settings(port, where)
        if self._db.intended_protected(port):
            raise NotOffloadedError(f"{where} is protected")
        interfaces = list(self._interfaces(port))
        if not interfaces:
            raise NotOffloadedError(f"{where} has no interface")
        for interface in interfaces:
            self._check_type(interface, where)
            if self._device(interface) is None:
                raise NotOffloadedError(f"{where} has no network device {interface.name}")

    def _check_selected(self, port: Port) -> None:
        where = f"port {port.name}"
        if port.vlan_mode not in _KEEPS_TAGS or port.tag is not None or port.trunks:
            raise NotOffloadedError(f"{where} has VLAN settings")
        self._check_tag_settings(port, where)
        for interface in self._interfaces(port):
            self._check_type(interface, where)
            self._check_hookable(interface, where)

    def _check_tag_settings(self, port: Port, where: str) -> None:
        if port.cvlans or port.priority_tags not in (None, "no", "false", "never"):
            raise NotOffloadedError(f"{where} has VLAN settings that change the frames")

    def _check_type(self, interface: Interface, where: str) -> None:
        if interface.type not in _DEVICE_TYPES:
            raise NotOffloadedError(f"{where} is of type {interface.type}")
        device = self._device(interface)
        if device is not None and not device.ethernet:
            raise NotOffloadedError(f"{where}: device {device.name} is not an Ethernet device")

    def _check_hookable(self, interface: Interface, where: str) -> None:
        if self._attach == CLSACT and interface.policed:
            raise NotOffloadedError(
                f"{where} has ingress_policing, which excludes clsact; TCX needs Linux 6.6 or later"
            )
        device = self._device(interface)
        if device is not None and device.ifindex in self._refused:
            raise NotOffloadedError(f"{where}: {self._refused[device.ifindex]}")

    def _check_destinations(self, mirror: Mirror) -> None:
        """A packet sent to a device that is down counts as leaving, and passes no hook."""
        if set(self._sources(mirror)) >= set(self._ports.values()):
            return  # It was copied when it arrived.
        for port in self._destinations(mirror):
            if port.is_bond:
                continue  # OVS sends through members that are up.
            for device in self._port_devices(port):
                carrier = self._bridge.datapath_type == "netdev" or device.running
                if not device.up or not carrier:
                    raise NotOffloadedError(f"port {port.name}: device {device.name} is down")

    def _check_reserved(self, mirror: Mirror) -> None:
        """Output ports as destinations: only flows that name them send other packets there."""
        if mirror.select_all:
            return  # Such packets were copied when they arrived.
        for port in self._destinations(mirror):
            if port is self._output(mirror):
                raise NotOffloadedError("it selects its own output port as destination")
            if port in self._reserved and any(map(to_ingress, self._interfaces(port))):
                raise NotOffloadedError(
                    f"it selects internal port {port.name}, which is a mirror's output port"
                )

    # What a mirror refers to.

    @property
    def _reserved(self) -> set[Port]:
        """Output ports: OVS drops what arrives on them, uncopied."""
        outputs = (self._output(mirror) for mirror in self._mirrors)
        return {output for output in outputs if output is not None}

    def _interfaces(self, port: Port) -> Iterable[Interface]:
        interfaces = self._db.interfaces
        return (interfaces[uuid] for uuid in port.interfaces if uuid in interfaces)

    def _device(self, interface: Interface) -> Device | None:
        return self._devices.get(interface.name)

    def _port_devices(self, port: Port) -> Iterable[Device]:
        devices = (self._device(interface) for interface in self._interfaces(port))
        return (device for device in devices if device is not None)

    def _sources(self, mirror: Mirror) -> Iterable[Port]:
        return self._pick(mirror, mirror.select_src_port)

    def _destinations(self, mirror: Mirror) -> Iterable[Port]:
        return self._pick(mirror, mirror.select_dst_port)

    def _selected(self, mirror: Mirror) -> Iterable[Port]:
        selected = {*self._sources(mirror), *self._destinations(mirror)} - {self._output(mirror)}
        return sorted(selected, key=lambda port: (port.name, port.uuid))

    def _pick(self, mirror: Mirror, chosen: tuple[UUID, ...]) -> list[Port]:
        """The ports chosen that are on the bridge: OVS passes over the others."""
        if mirror.select_all:
            return list(self._ports.values())
        return [self._ports[uuid] for uuid in chosen if uuid in self._ports]

    def _output(self, mirror: Mirror) -> Port | None:
        return self._ports.get(mirror.output_port) if mirror.output_port is not None else None

    # Mirrors beside each other.

    def _spread(self) -> None:
        """Leaves to OVS what depends on the copies of a mirror that OVS keeps."""
        changed = True
        while changed:
            native = [m for m in self._mirrors if self.verdicts[m.uuid].state == NATIVE]
            for mirror in self.offloaded:
                reason = self._tie(mirror, native)
                if reason is not None:
                    self.verdicts[mirror.uuid] = Verdict(NATIVE, printable(reason))
                    break
            else:
                changed = False

    def _tie(self, mirror: Mirror, native: Iterable[Mirror]) -> str | None:
        output = self._output(mirror)
        for other in native:
            if self._output(other) is output:
                return f"it shares its output port with mirror {other.name}, which is native"
            if output is not None and output in self._destinations(other):
                return f"mirror {other.name}, which is native, selects its output port"
        return None

    def _reach(self, mirror: Mirror) -> list[Mirror]:
        """The mirror and those that select its copies, and theirs, without end of rings."""
        reached = [mirror]
        for each in reached:
            output = self._output(each)
            reached += [
                other
                for other in self.offloaded
                if output is not None
                and other not in reached
                and output in self._destinations(other)
            ]
        return reached

    def rules(self) -> dict[Hook, list[Rule]]:
        """The rules of each hook, one for each output, in the order of the mirrors."""
        reserved = self._reserved
        wanted: dict[Hook, dict[int, Rule]] = defaultdict(dict)
        reach = {mirror.uuid: self._reach(mirror) for mirror in self.offloaded}

        def add(ports: Callable[[Mirror], Iterable[Port]], *, arrival: bool) -> None:
            for mirror in self.offloaded:
                for port in ports(mirror):
                    if port in reserved and (arrival or mirror.select_all):
                        continue
                    for interface in self._interfaces(port):
                        device = self._device(interface)
                        if device is None:
                            continue
                        hook = _hook(interface, device, arrival=arrival)
                        for reached in reach[mirror.uuid]:
                            rule = self._rule(reached, arrival=arrival)
                            wanted[hook].setdefault(rule.output, rule)

        add(self._sources, arrival=True)
        add(self._destinations, arrival=False)
        return _mark(wanted)

    def _rule(self, mirror: Mirror, *, arrival: bool) -> Rule:
        output = self._output(mirror)
        assert output is not None
        interface = next(iter(self._interfaces(output)))
        device = self._devices[interface.name]
        inward = to_ingress(interface)
        return Rule(
            mirror=mirror.uuid,
            output=device.ifindex,
            arrival=arrival,
            to_ingress=inward,
            # A tap takes any length; others drop what exceeds their MTU.
            max_len=_ANY_LENGTH if inward else device.mtu + _ETHERNET_HEADER,
        )


def _mark(wanted: Mapping[Hook, Mapping[int, Rule]]) -> dict[Hook, list[Rule]]:
    """Adds what hooks have to mind of each other.

    They tell packets apart where two of them can see the same packet. A packet arrives once.
    So hooks that see arrivals only do not see the same packet; a hook that sees departures may
    see what any other hook with the same output has seen.

    A hook on an output device passes over the copies that other hooks deliver there: where
    they are selected, those other hooks have rules for it.
    """
    users: dict[int, list[bool]] = defaultdict(list)
    for rules in wanted.values():
        for rule in rules.values():
            users[rule.output].append(rule.arrival)
    shared = {output for output, arrival in users.items() if len(arrival) > 1 and not all(arrival)}
    hooked = {hook.ifindex for hook, rules in wanted.items() if not _sees_arrivals(rules.values())}
    return {
        hook: [
            replace(
                rule,
                once=rule.output in shared,
                to_hook=rule.output in hooked,
                sees_copies=hook.ifindex in users and not rule.arrival,
            )
            for rule in rules.values()
        ]
        for hook, rules in wanted.items()
    }


def _sees_arrivals(rules: Iterable[Rule]) -> bool:
    return any(rule.arrival for rule in rules)
