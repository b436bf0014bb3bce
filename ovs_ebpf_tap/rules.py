"""The rules of a bridge's hooks: what each copies, for the mirrors that are offloaded.

As `mirror_packet` in `ofproto/ofproto-dpif-xlate.c` does, copies are followed where they leave
through a port that other mirrors select. Here that is done once, in the plan: the hook that a
packet passes first has the rules for all copies that come of it, with what they need changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self
from uuid import UUID
from zlib import crc32

from ovs_ebpf_tap.filter import Match, parse
from ovs_ebpf_tap.links import Device
from ovs_ebpf_tap.model import Interface, Mirror, Port
from ovs_ebpf_tap.topology import Topology, hook_of, to_ingress
from ovs_ebpf_tap.vlan import Path
from ovs_ebpf_tap.wanted import VLAN_GROUP, Gate, Hook, Rule

ETHERNET_HEADER = 14
_ANY_LENGTH = 0xFFFFFFFF


_MOST_BEHIND = 64
"""Mirrors one behind the other, that copy copies of copies; OVS follows no more, either."""

_MOST_FOUND = 8192
_MOST_TRIED = 131072
"""How often copies are followed to another mirror, and selected there, and how often that is tried,
for all hooks together."""


@dataclass(frozen=True)
class _Served:
    """Which packets were copied to an output, and how they came there."""

    way: tuple[int | None, bool]
    unreserved: bool
    match: Match | None

    @classmethod
    def of(cls, path: Path) -> Self:
        return cls((path.vlan, path.forced), path.unreserved, path.match)

    def covers(self, other: Self) -> bool:
        """Whether what has come that way is all that would come the other, VLANs apart."""
        every = not self.unreserved and self.match is None
        return every or (self.unreserved, self.match) == (other.unreserved, other.match)

    def differs(self, other: Self) -> bool:
        """Whether a packet may come both ways, and does not look the same then."""
        if self.way == other.way:
            return False
        if self.match is None or other.match is None:
            return True
        return self.match.both(other.match) is not None


def _no_vlans() -> dict[_Served, int]:
    return defaultdict(int)


@dataclass
class Following:
    """How often copies were followed to other mirrors."""

    tried: int = 0
    found: int = 0
    lost: set[UUID] = field(default_factory=set)
    """The mirrors that copies were not followed to: that would not end, or not soon."""
    undecided: set[UUID] = field(default_factory=set)
    """The mirrors whose copies' VLAN depends on which mirror, or which port, comes first."""
    leaving: dict[int, dict[_Served, int]] = field(default_factory=lambda: defaultdict(_no_vlans))
    """By group: the VLANs of what is copied there when it leaves through some port."""

    @property
    def ended(self) -> bool:
        """Whether it was too often."""
        return self.found >= _MOST_FOUND or self.tried >= _MOST_TRIED


def make_rules(
    topology: Topology, offloaded: Collection[UUID], following: Following
) -> dict[Hook, list[Rule]]:
    """The rules of each hook; those of a group are next to each other.

    They are not all, or not all of them right, if `following` then has lost or undecided mirrors.
    """
    wanted: dict[Hook, list[Rule]] = defaultdict(list)
    for port in topology.all_selected:
        for arrival in (True, False):
            walk = _Walk(topology, offloaded, port, arrival, following)
            for interface in topology.interfaces(port):
                device = topology.device(interface)
                if device is not None and walk.rules:
                    wanted[hook_of(interface, device, arrival=arrival)] += walk.rules
    return _mark(wanted)


class _Walk:
    """Follows what arrives on a port, or leaves through it, from mirror to mirror."""

    def __init__(
        self,
        topology: Topology,
        offloaded: Collection[UUID],
        port: Port,
        arrival: bool,
        following: Following,
    ) -> None:
        self._topology = topology
        self._following = following
        self._offloaded = offloaded
        self._port = port
        self._arrival = arrival
        # By group: the VLANs of what is copied there.
        self._served: dict[int, dict[_Served, int]] = defaultdict(_no_vlans)
        # The groups that the copies that are followed have come through, and their VLANs.
        self._above: list[tuple[int, int]] = []
        self._found: dict[int, list[Rule]] = defaultdict(list)
        self._runs = 0
        vlans = topology.vlans(port) if arrival else topology.vlans(port).leaving
        self._gate = None if vlans.plain else Gate(vlans.mode, vlans.tag, vlans.admitted)
        self._all = Path.of(vlans)
        # OVS reads the packets of taps with their tags in them.
        self._no_dei = (
            topology.netdev and arrival and not any(map(to_ingress, topology.interfaces(port)))
        )
        self._in_any_order = self._leaves_in_any_order()
        for mirror in self._first():
            self._visit(mirror, self._all, 0)
        if self._in_any_order:
            for group, served in self._served.items():
                for each, bits in served.items():
                    following.leaving[group][each] |= bits

    @property
    def rules(self) -> list[Rule]:
        """The rules found, group by group, in the order in which OVS comes to them."""
        return [rule for rules in self._found.values() for rule in rules]

    def _leaves_in_any_order(self) -> bool:
        """Whether a packet may leave through other ports, too, which come first or not.

        In which order a flood leaves depends on where Open vSwitch has its ports in memory. To a
        port that is an output only flows send packets, and no flood.
        """
        reserved = self._port.uuid in self._topology.reserved
        traits = self._topology.common.traits
        return not self._arrival and (not reserved or traits is None or traits.outputs)

    def _first(self) -> Iterator[Mirror]:
        reserved = self._port.uuid in self._topology.reserved
        if self._arrival and self._topology.drops_arrivals(self._port):
            return
        for mirror in self._selecting(self._port, arrival=self._arrival):
            # OVS drops what arrives on an output port. What leaves through one was copied
            # when it arrived, unless the mirror names the port.
            if not (reserved and (self._arrival or mirror.select_all)):
                yield mirror

    def _selecting(self, port: Port, *, arrival: bool) -> Iterator[Mirror]:
        for mirror in self._topology.selecting(port, arrival=arrival):
            if mirror.uuid in self._offloaded:
                yield mirror

    def _follow(self, mirror: Mirror, path: Path, depth: int) -> None:
        if depth > _MOST_BEHIND or self._following.ended:
            self._following.lost.add(mirror.uuid)
            return
        self._following.tried += 1
        self._visit(mirror, path, depth)

    def _visit(self, mirror: Mirror, path: Path, depth: int) -> None:
        path = path.select(self._topology.vlan_set(mirror))
        if mirror.filter:
            path = path.filtered(parse(mirror.filter))
        selected = path.selected
        if mirror.output_port is None and mirror.output_vlan is not None:
            path = path.into(mirror.output_vlan)
        group = self._group(mirror)
        path = self._first_time(mirror, group, path, selected)
        if not path.selected:
            return
        self._following.found += bool(depth)
        outputs = self._topology.outputs(mirror)
        self._runs += 1
        copies = [rule for each in outputs for rule in self._rules(mirror, group, path, each)]
        for number, rule in enumerate(copies):
            self._found[group].append(replace(rule, counted=number == 0))
        for output in outputs:
            behind = path.through(self._topology.vlans(output))
            if behind is not None and behind.selected:
                self._above.append((group, path.selected))
                for other in self._selecting(output, arrival=False):
                    self._follow(other, behind, depth + 1)
                self._above.pop()

    def _first_time(self, mirror: Mirror, group: int, path: Path, selected: int) -> Path:
        """What was copied there before is not copied again, nor followed: so rings end.

        What is in the output VLAN already counts as copied there, too, as the mirror has
        `selected` it.

        Which mirror Open vSwitch comes to first depends on what was created first (`mirror_scan`
        in `ofproto/ofproto-dpif-mirror.c`), but for those that the copies have come through.
        """
        served, this = self._served[group], _Served.of(path)
        undecided = selected
        for at, bits in self._above:
            if at == group:
                undecided &= ~bits
        others = self._following.leaving[group] if self._in_any_order else {}
        for each, bits in (*served.items(), *others.items()):
            if bits & undecided and this.differs(each):
                self._following.undecided.add(mirror.uuid)
        for each, bits in served.items():
            if each.covers(this):
                path = replace(path, selected=path.selected & ~bits)
                selected &= ~bits
        served[this] |= selected
        return path

    def _group(self, mirror: Mirror) -> int:
        if mirror.output_port is None:
            name = f"{self._topology.common.bridge.uuid} {mirror.output_vlan}"
            return VLAN_GROUP | crc32(name.encode())
        interface = self._topology.sending(self._topology.seen[mirror.output_port].port)
        device = self._topology.device(interface) if interface is not None else None
        return device.ifindex if device is not None else 0

    def _max_len(self, interface: Interface, device: Device) -> int:
        """The longest frame that is sent, without a VLAN tag.

        The kernel's datapath minds every device's MTU (`ovs_vport_send` in its
        `net/openvswitch/vport.c`); what the userspace datapath writes to a tap is not held
        against it.
        """
        if self._topology.netdev and to_ingress(interface):
            return _ANY_LENGTH
        return device.mtu + ETHERNET_HEADER

    def _rules(self, mirror: Mirror, group: int, path: Path, output: Port) -> Iterator[Rule]:
        topology = self._topology
        interface = topology.sending(output)
        device = topology.device(interface) if interface is not None else None
        if interface is None or device is None or not (device.up or mirror.output_port):
            return
        if output.protected and self._port.protected:
            return
        inward = to_ingress(interface)
        yield Rule(
            mirror=mirror.uuid,
            output=device.ifindex,
            group=group,
            run=self._runs,
            arrival=self._arrival,
            edit=path.edit(
                topology.vlans(output),
                limit=topology.common.db.vlan_limit,
                snaplen=mirror.cut,
                max_len=self._max_len(interface, device),
                netdev=topology.netdev,
                no_dei=self._no_dei,
            ),
            to_ingress=inward,
            unreserved=path.unreserved,
            match=path.match,
            vlans=None if path.selected == self._all.selected else path.selected,
            gate=self._gate,
        )


def _mark(wanted: Mapping[Hook, list[Rule]]) -> dict[Hook, list[Rule]]:
    """Adds what hooks have to mind of each other.

    They tell packets apart where two of them can see the same packet. A packet arrives once.
    So hooks that see arrivals only do not see the same packet; a hook that sees departures may
    see what any other hook with the same group has seen.

    A hook on an output device passes over the copies that other hooks deliver there: where
    they are selected, those other hooks have rules for it.
    """
    users: dict[int, list[bool]] = defaultdict(list)
    for rules in wanted.values():
        for group in {rule.group for rule in rules}:
            users[group].append(rules[0].arrival)
    shared = {group for group, arrival in users.items() if len(arrival) > 1 and not all(arrival)}
    hooked = {hook.ifindex for hook, rules in wanted.items() if not rules[0].arrival}
    return {
        hook: [
            replace(rule, once=rule.group in shared, to_hook=rule.output in hooked)
            for rule in rules
        ]
        for hook, rules in wanted.items()
    }
