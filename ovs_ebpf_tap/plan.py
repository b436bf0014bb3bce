"""Decides which mirrors are offloaded, with which hooks and rules, and why the others are not.

Pure functions from the database and the devices to a `Plan`: a mirror is judged by itself
(`judge`), then beside the others, and those that are left have their `rules`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from uuid import UUID

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.filter import parse
from ovs_ebpf_tap.judge import MAX_NATIVE_MIRRORS, MODES, Judge, mode_of
from ovs_ebpf_tap.links import Device
from ovs_ebpf_tap.model import Bridge, Database, Mirror
from ovs_ebpf_tap.rules import make_rules
from ovs_ebpf_tap.text import printable
from ovs_ebpf_tap.topology import OpenFlow, Topology
from ovs_ebpf_tap.vlan import ACCESS, KEEP, PRIORITY_NEVER, TUNNEL
from ovs_ebpf_tap.vlan import NATIVE as NATIVE_VLAN
from ovs_ebpf_tap.wanted import (
    INVALID,
    NATIVE,
    OFFLOADED,
    Hook,
    NotOffloadedError,
    Plan,
    Rule,
    Verdict,
)

MAX_RULES_PER_HOOK = abi.constant("MAX_RULES_PER_HOOK")
MAX_MIRRORS = abi.constant("MAX_MIRRORS")

NO_OPENFLOW = OpenFlow()


def make_plan(
    db: Database,
    devices: Mapping[str, Device],
    attach: str,
    refused: Mapping[int, str] = MappingProxyType({}),
    openflow: OpenFlow = NO_OPENFLOW,
) -> Plan:
    """The plan for all bridges, with hooks attached as `attach` (`TCX` or `CLSACT`) says.

    `refused` says why the kernel takes no hook on a device, by ifindex; `openflow` is what is
    known of the bridges' flow tables and ports.
    """
    verdicts: dict[UUID, Verdict] = {}
    hooks: dict[Hook, list[Rule]] = defaultdict(list)
    room = MAX_MIRRORS
    for bridge in sorted(db.bridges.values(), key=lambda bridge: bridge.name):
        planner = _BridgePlanner(db, bridge, devices, attach, refused, openflow)
        for hook, rules in planner.rules(room).items():
            hooks[hook].extend(rules)
        verdicts.update(planner.verdicts)
        room -= len(planner.offloaded)
    return Plan(verdicts, {hook: tuple(rules) for hook, rules in hooks.items()})


def bridges_with_work(db: Database) -> set[str]:
    """The bridges with a mirror that is to be offloaded if it can be."""
    return {
        bridge.name
        for bridge in db.bridges.values()
        for uuid in bridge.mirrors
        if uuid in db.mirrors and mode_of(db, bridge, db.mirrors[uuid]) == MODES[0]
    }


class _BridgePlanner:
    """Plans one bridge: judges its mirrors beside each other."""

    def __init__(
        self,
        db: Database,
        bridge: Bridge,
        devices: Mapping[str, Device],
        attach: str,
        refused: Mapping[int, str],
        openflow: OpenFlow,
    ) -> None:
        self._topology = Topology(db, bridge, devices, openflow)
        self._judge = Judge(self._topology, attach, refused)
        self._mirrors = self._topology.mirrors
        self.verdicts: dict[UUID, Verdict] = {}
        for mirror in self._mirrors:
            self._settle(mirror, self._judge.verdict(mirror))

    @property
    def offloaded(self) -> list[Mirror]:
        """The mirrors that are offloaded, in the order of their UUIDs."""
        return [m for m in self._mirrors if self.verdicts[m.uuid].state == OFFLOADED]

    def rules(self, room: int) -> dict[Hook, list[Rule]]:
        """The rules, for `room` mirrors at most; settles the verdicts."""
        for mirror in self.offloaded[max(room, 0) :]:
            self._leave(mirror, f"more than {MAX_MIRRORS} mirrors are offloaded on this host")
        while True:
            self._spread()
            rules = make_rules(self._topology, {mirror.uuid for mirror in self.offloaded})
            reasons = dict(self._obstacles(rules))
            if not reasons:
                return rules
            for mirror in self.offloaded:
                if mirror.uuid in reasons:
                    self._leave(mirror, reasons[mirror.uuid])

    def _settle(self, mirror: Mirror, verdict: Verdict) -> None:
        if verdict.state == NATIVE and self._judge.lacks_room(mirror):
            reason = f"Open vSwitch takes {MAX_NATIVE_MIRRORS} mirrors on a bridge, and not this"
            verdict = Verdict(INVALID, reason)
        self.verdicts[mirror.uuid] = verdict

    def _leave(self, mirror: Mirror, reason: str) -> None:
        self._settle(mirror, Verdict(NATIVE, printable(reason)))

    # Mirrors beside each other.

    def _spread(self) -> None:
        """Leaves to OVS what depends on the copies of a mirror that OVS keeps."""
        changed = True
        while changed:
            changed = False
            native = [m for m in self._mirrors if self.verdicts[m.uuid].state == NATIVE]
            for mirror in self.offloaded:
                reason = self._tie(mirror, native)
                if reason is not None:
                    self._leave(mirror, reason)
                    changed = True

    def _tie(self, mirror: Mirror, native: Iterable[Mirror]) -> str | None:
        outputs = {output.uuid for output in self._topology.outputs(mirror)}
        for other in native:
            if self._same_output(mirror, other):
                return f"it shares its output with mirror {other.name}, which is native"
            if outputs & set(self._topology.destination_uuids(other)):
                return f"mirror {other.name}, which is native, selects its output port"
        for other in self.offloaded:
            if (
                mirror.snaplen != other.snaplen
                and self._same_output(mirror, other)
                and self._meet(mirror, other)
            ):
                return f"it shares output and packets with mirror {other.name}, of another snaplen"
        return self._lost_behind(mirror)

    def _meet(self, mirror: Mirror, other: Mirror) -> bool:
        """Whether a port is a source, or a destination, of both."""
        sides = (self._topology.source_uuids, self._topology.destination_uuids)
        return any(not set(side(mirror)).isdisjoint(side(other)) for side in sides)

    def _same_output(self, mirror: Mirror, other: Mirror) -> bool:
        """As `mirror_update_dups` in `ofproto/ofproto-dpif-mirror.c`."""
        if mirror.output_port is not None or other.output_port is not None:
            return mirror.output_port == other.output_port
        return mirror.output_vlan == other.output_vlan

    def _lost_behind(self, mirror: Mirror) -> str | None:
        """Why copies that the mirror selects can't be followed to it."""
        selected = set(self._topology.destination_uuids(mirror))
        for other in self._mirrors:
            state = self.verdicts[other.uuid].state
            if other is mirror or state == INVALID:
                continue
            if state == NATIVE:
                if not selected.isdisjoint(self._changed_outputs(other)):
                    return f"it selects copies of mirror {other.name}, native and changed"
                continue
            for output in self._topology.outputs(other):
                vlans = self._topology.vlans[output.uuid]
                followed = vlans.mode in (KEEP, ACCESS) and vlans.priority == PRIORITY_NEVER
                if output.uuid not in selected:
                    continue
                if mirror.filter and parse(mirror.filter).on_tags:
                    return f"it selects copies of mirror {other.name}, and its filter VLAN tags"
                if not followed:
                    return (
                        f"mirror {other.name} copies to port {output.name}, "
                        "which it selects, and whose VLAN settings change the copies"
                    )
                if self._minds_lost_tags(mirror):
                    return (
                        f"it selects copies of mirror {other.name}, and tags that those have lost "
                        "are of consequence at its output"
                    )
        return None

    def _changed_outputs(self, mirror: Mirror) -> Iterator[UUID]:
        """Outputs where OVS's copies leave otherwise than the packets did."""
        cut = mirror.snaplen is not None
        for output in self._topology.outputs(mirror):
            if cut or mirror.output_port is None or not self._topology.vlans[output.uuid].plain:
                yield output.uuid

    def _minds_lost_tags(self, mirror: Mirror) -> bool:
        """Whether a tag or priority that a port has taken off makes a difference to its outputs."""
        for output in self._topology.outputs(mirror):
            vlans = self._topology.vlans[output.uuid]
            inner = self._topology.db.vlan_limit > 1 and vlans.out_mode in (NATIVE_VLAN, TUNNEL)
            if inner or vlans.priority != PRIORITY_NEVER:
                return True
        return False

    def _obstacles(self, rules: Mapping[Hook, list[Rule]]) -> Iterator[tuple[UUID, str]]:
        """Why the rules can't be had, by mirror."""
        for each in rules.values():
            for rule in each[MAX_RULES_PER_HOOK:]:
                yield rule.mirror, f"a port of it has more than {MAX_RULES_PER_HOOK} copies made"
            for rule in each:
                if rule.to_vlan and rule.edit.second_tag and rule.edit.out_mode in (ACCESS, TUNNEL):
                    yield (
                        rule.mirror,
                        "a port of its output_vlan takes tags off, and only Open vSwitch knows "
                        "whether there is a second one to be minded",
                    )
        yield from self._unfinished(rules)
        yield from _undecided(rules)

    def _unfinished(self, rules: Mapping[Hook, list[Rule]]) -> Iterator[tuple[UUID, str]]:
        """Mirrors whose copies are to be changed by an output's hook that can't be had."""
        finished: dict[int, set[UUID]] = defaultdict(set)
        for rule in (rule for each in rules.values() for rule in each):
            if rule.finishing_hook is not None:
                finished[rule.output].add(rule.mirror)
        for port in self._topology.ports.values():
            for interface in self._topology.interfaces(port):
                device = self._topology.device(interface)
                if device is None or device.ifindex not in finished:
                    continue
                try:
                    self._judge.check_hook(device.ifindex, interface, f"output port {port.name}")
                except NotOffloadedError as why:
                    yield from ((mirror, str(why)) for mirror in finished[device.ifindex])


def _undecided(rules: Mapping[Hook, list[Rule]]) -> Iterator[tuple[UUID, str]]:
    """Mirrors with one output, where it depends on which comes first how long a copy is."""
    here: dict[int, set[int]] = defaultdict(set)
    mirrors: dict[int, set[UUID]] = defaultdict(set)
    undecided = set()
    for each in rules.values():
        at_hook: dict[int, int] = {}
        for rule in each:
            here[rule.group].add(rule.edit.snaplen)
            mirrors[rule.group].add(rule.mirror)
            if at_hook.setdefault(rule.group, rule.edit.snaplen) != rule.edit.snaplen or rule.once:
                undecided.add(rule.group)
    for group in undecided:
        if len(here[group]) > 1:
            reason = (
                "it shares its output with a mirror of another snaplen that may select the same"
            )
            yield from ((mirror, reason) for mirror in mirrors[group])
