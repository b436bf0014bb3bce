"""The rules of a bridge's hooks: what each copies, for the mirrors that are offloaded.

As `mirror_packet` in `ofproto/ofproto-dpif-xlate.c` does, copies are followed where they leave
through a port that other mirrors select. Here that is done once, in the plan: the hook that a
packet passes first has the rules for all copies that come of it, with what they need changed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self
from uuid import UUID
from zlib import crc32

from ovs_ebpf_tap.decide.mirror_filter import parse
from ovs_ebpf_tap.decide.seen_port import hook_of, to_ingress
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.decide.vlan import Path
from ovs_ebpf_tap.model.desired import VLAN_GROUP, Hook, Rule, VlanIngressPolicy
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.frame_rewrite import ACCESS, ALL, TUNNEL
from ovs_ebpf_tap.model.match import Match
from ovs_ebpf_tap.model.reasons import packet_reasons
from ovs_ebpf_tap.model.rows import Interface, Mirror, Port

ETHERNET_HEADER = 14
VLAN_ETHERNET_HEADER = 18
_ANY_LENGTH = 0xFFFFFFFF


_MOST_BEHIND = 64
"""Mirrors one behind the other, that copy copies of copies; OVS follows no more, either."""

_MOST_FOUND = 8192
_MOST_TRIED = 131072
"""How often copies are followed to another mirror, and selected there, and how often that is tried,
for all hooks together."""


@dataclass(frozen=True)
class _CopiedSet:
    """Which packets were copied to an output, and how they came there."""

    way: tuple[int | None, bool]
    unreserved: bool
    match: Match | None
    tpid: int | None = None
    """The TPID of what the copies have in the place of a tag that was taken off."""
    copied: bool = True
    """Not, if the packets were in the output VLAN already: to Open vSwitch they were copied."""

    @classmethod
    def of(cls, path: Path) -> Self:
        return cls((path.vlan, path.forced), path.unreserved, path.match)

    def covers(self, other: Self) -> bool:
        """Whether what has come that way is all that would come the other, VLANs apart."""
        every = not self.unreserved and self.match is None
        return every or (self.unreserved, self.match) == (other.unreserved, other.match)

    def differs(self, other: Self) -> str | None:
        """What, if a packet may come both ways, does not look the same then."""
        looks = (self.way, self.tpid, self.copied)
        if looks == (other.way, other.tpid, other.copied) or not (self.copied or other.copied):
            return None
        if self.match and other.match and self.match.both(other.match) is None:
            return None
        same = (self.way, self.copied) == (other.way, other.copied)
        return (packet_reasons.ANOTHER_TAG if same else packet_reasons.ANOTHER_VLAN).told()


_Groups = dict[int, dict[_CopiedSet, int]]


def _no_vlans() -> dict[_CopiedSet, int]:
    return defaultdict(int)


def _no_groups() -> _Groups:
    return defaultdict(_no_vlans)


@dataclass
class TraversalState:
    """How often copies were followed to other mirrors."""

    tried: int = 0
    found: int = 0
    lost: set[UUID] = field(default_factory=set)
    """The mirrors that copies were not followed to: that would not end, or not soon."""
    undecided: dict[UUID, str] = field(default_factory=dict)
    """The mirrors whose copies' tags depend on which mirror, or which port, comes first: why."""
    arrived: dict[int, int] = field(default_factory=dict)
    """By group: the VLANs of which all is copied there when it arrives."""
    inside: _Groups = field(default_factory=_no_groups)
    """By group: the VLANs of what is not copied there when it arrives, but counts as copied."""
    leaving: _Groups = field(default_factory=_no_groups)
    """By group: the VLANs of what is copied there when it leaves through some port."""
    leaving_late: _Groups = field(default_factory=_no_groups)
    """Those of them whose hooks may see it later than those of ports that Open vSwitch sends it to
    behind them, or do not see that it counts as copied."""

    @property
    def ended(self) -> bool:
        """Whether it was too often."""
        return self.found >= _MOST_FOUND or self.tried >= _MOST_TRIED


def make_rules(
    topology: Topology, offloaded: Collection[UUID], following: TraversalState
) -> dict[Hook, list[Rule]]:
    """The rules of each hook; those of a group are next to each other.

    They are not all, or not all of them right, if `following` then has lost or undecided mirrors.
    """
    wanted: dict[Hook, list[Rule]] = defaultdict(list)
    for arrival in (True, False):
        walks = {
            port.uuid: _Walk(topology, offloaded, port, arrival, following)
            for port in topology.all_selected
        }
        if arrival:
            following.arrived = _all_copied(topology, walks)
        for uuid, walk in walks.items():
            for interface in topology.seen[uuid].interfaces:
                device = topology.device(interface)
                if device is not None and walk.rules:
                    wanted[hook_of(interface, device, arrival=arrival)] += walk.rules
    return _mark(wanted)


def _all_copied(topology: Topology, arrivals: Mapping[UUID, _Walk]) -> dict[int, int]:
    """By group: the VLANs of which all is copied there when it arrives, on any port.

    Then it is not copied when it leaves, unless it was modified; flows that output to a port also
    forward what arrives uncopied.
    """
    traits = topology.context.traits
    if not topology.whole or (traits is not None and (traits.modifies or traits.outputs)):
        return {}
    ports = [
        port
        for port in topology.ports
        if not (port.uuid in topology.reserved or topology.drops_arrivals(port))
    ]
    walks = [(port, arrivals[port.uuid]) for port in ports if port.uuid in arrivals]
    users = Counter(group for _, walk in walks for group in walk.served)
    found = {group: ALL for group, count in users.items() if count == len(ports)}
    for port, walk in walks if found else ():
        for group in found:
            found[group] &= walk.copies_all(group) | ~topology.vlans(port).inside
    return found


class _Walk:
    """Follows what arrives on a port, or leaves through it, from mirror to mirror."""

    def __init__(
        self,
        topology: Topology,
        offloaded: Collection[UUID],
        port: Port,
        arrival: bool,
        following: TraversalState,
    ) -> None:
        self._topology = topology
        self._following = following
        self._offloaded = offloaded
        self._port = port
        self._arrival = arrival
        self.served = _no_groups()
        """By group: the VLANs of what is copied there."""
        self._leaving = _no_groups()
        # The groups that the copies that are followed have come through, and their VLANs.
        self._above: list[tuple[int, int]] = []
        self._found: dict[int, list[Rule]] = defaultdict(list)
        self._selections = 0
        vlans = topology.vlans(port) if arrival else topology.vlans(port).leaving
        ingress_policy = VlanIngressPolicy(
            vlans.mode, vlans.tag, vlans.admitted, self._max_arriving()
        )
        self._ingress_policy = ingress_policy if ingress_policy.max_len or not vlans.plain else None
        self._all = Path.of(vlans)
        # OVS reads the packets of taps with their tags in them.
        self._no_dei = (
            topology.netdev and arrival and not any(map(to_ingress, topology.interfaces(port)))
        )
        self._floods = self._is_flooded()
        self._late = self._is_late()
        for mirror in self._first():
            self._visit(mirror, self._all, 0)
        for group, leaving in self._leaving.items():
            for each, bits in leaving.items():
                following.leaving[group][each] |= bits
                if self._late or not each.copied:
                    following.leaving_late[group][each] |= bits

    @property
    def rules(self) -> list[Rule]:
        """The rules found, group by group, in the order in which OVS comes to them."""
        return [rule for rules in self._found.values() for rule in rules]

    def copies_all(self, group: int) -> int:
        """The VLANs of which all is copied there that could be."""
        found = 0
        for each, bits in self.served[group].items():
            # Into a VLAN, nothing is ever copied that goes to reserved addresses.
            if each.match is None and (group & VLAN_GROUP or not each.unreserved):
                found |= bits
        return found

    def _is_flooded(self) -> bool:
        """Whether a packet may leave through other ports, too.

        In which order a flood leaves depends on where Open vSwitch has its ports in memory. To a
        port that is an output only flows send packets, and no flood.
        """
        reserved = self._port.uuid in self._topology.reserved
        traits = self._topology.context.traits
        return not self._arrival and (not reserved or (traits is not None and traits.outputs))

    def _is_late(self) -> bool:
        """Whether the hook may see what leaves later than those of ports that are behind it.

        The userspace datapath sends packets in batches, port by port
        (`dp_netdev_pmd_flush_output_packets` in `lib/dpif-netdev.c`). The kernel's does what a flow
        says, one after the other; only internal ports come to their packets later (`netif_rx` in
        its `net/openvswitch/vport-internal_dev.c`).
        """
        interfaces = self._topology.interfaces(self._port)
        return self._topology.netdev or any(map(to_ingress, interfaces))

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
        self._selections += 1
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
        in `ofproto/ofproto-dpif-mirror.c`), but for those that the copies have come through. Of
        what is flooded, it copies what leaves first.
        """
        served, this = self.served[group], _CopiedSet.of(path)
        already = selected & ~path.selected
        ways = [(this, ~already)]
        if already:
            ways.append((replace(this, copied=False), already))
        undecided = selected & ~self._decided(group)
        for looks, vlans in ways:
            self._decide(mirror, looks, undecided & vlans, served)
        for each, bits in served.items():
            if each.covers(this):
                path = replace(path, selected=path.selected & ~bits)
                selected &= ~bits
        for looks, vlans in ways:
            served[looks] |= selected & vlans
            if self._arrival and not looks.copied:
                self._following.inside[group][looks] |= selected & vlans
        if not self._arrival:
            self._decide(mirror, this, path.selected, self._following.inside[group])
        for looks, vlans in self._flooded(mirror, path, ways) if self._floods else ():
            late = self._late or not looks.copied
            others = self._following.leaving if late else self._following.leaving_late
            self._decide(mirror, looks, undecided & vlans, others[group])
            self._leaving[group][looks] |= selected & vlans
        return path

    def _decided(self, group: int) -> int:
        """The VLANs of what is copied there first, whatever comes first elsewhere."""
        found = 0 if self._arrival else self._following.arrived.get(group, 0)
        for at, vlans in self._above:
            found |= vlans if at == group else 0
        return found

    def _flooded(
        self, mirror: Mirror, path: Path, ways: Sequence[tuple[_CopiedSet, int]]
    ) -> Iterator[tuple[_CopiedSet, int]]:
        """What becomes of what leaves through other ports, too, and its VLANs."""
        bare = 0 if path.forced else path.source.bare & ~self._untagged(mirror, path)
        for looks, vlans in ways:
            if looks.copied and bare & vlans:
                yield looks, vlans & ~bare
                yield replace(looks, tpid=path.source.tpid), vlans & bare
            else:
                yield looks, vlans

    def _decide(
        self, mirror: Mirror, this: _CopiedSet, vlans: int, others: Mapping[_CopiedSet, int]
    ) -> None:
        """Whether it is of no consequence, in these VLANs, which of them comes first."""
        if not vlans:
            return
        for each, bits in others.items():
            why = this.differs(each) if bits & vlans else None
            if why is not None:
                self._following.undecided.setdefault(mirror.uuid, why)

    def _untagged(self, mirror: Mirror, path: Path) -> int:
        """The VLANs of those packets whose copies have no tag of these, whatever they had."""
        found = ALL
        for output in self._topology.outputs(mirror):
            vlans = self._topology.vlans(output)
            if vlans.mode == ACCESS:
                continue
            bare = vlans.bare if vlans.mode != TUNNEL else 0
            found &= bare if path.vlan is None else ALL * (bare >> path.vlan & 1)
        return found

    def _group(self, mirror: Mirror) -> int:
        if mirror.output_port is None:
            name = f"{self._topology.context.bridge.uuid} {mirror.output_vlan}"
            return VLAN_GROUP | crc32(name.encode())
        interface = self._topology.sending(self._topology.seen[mirror.output_port].port)
        device = self._topology.device(interface) if interface is not None else None
        return device.ifindex if device is not None else 0

    def _max_arriving(self) -> int:
        """The longest frame that OVS takes in from a device of the port; 0: any.

        The userspace datapath's sockets have room for the MTU, an Ethernet header and a tag. OVS
        drops what is longer, super-packets, unless `userspace-tso-enable` is set
        (`netdev_linux_batch_rxq_recv_sock` in `lib/netdev-linux.c`, 3.1.0). The outermost tag is
        neither in what is received nor in what a hook sees. The kernel cuts what comes by a tap.
        """
        topology = self._topology
        if not (self._arrival and topology.netdev) or topology.context.db.userspace_tso:
            return 0
        if any(map(to_ingress, topology.interfaces(self._port))):
            return 0
        mtus = [device.mtu for device in topology.devices(self._port)]
        return max(mtus) + VLAN_ETHERNET_HEADER if mtus else 0

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
            selection=self._selections,
            arrival=self._arrival,
            edit=path.edit(
                topology.vlans(output),
                limit=topology.context.db.vlan_limit,
                snaplen=mirror.cut,
                max_len=self._max_len(interface, device),
                netdev=topology.netdev,
                no_dei=self._no_dei,
            ),
            to_ingress=inward,
            unreserved=path.unreserved,
            match=path.match,
            vlans=None if path.selected == self._all.selected else path.selected,
            ingress_policy=self._ingress_policy,
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
            replace(rule, dedup=rule.group in shared, to_hook=rule.output in hooked)
            for rule in rules
        ]
        for hook, rules in wanted.items()
    }
