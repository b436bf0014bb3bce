"""Why the rules that mirrors would have can't be had."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from ovs_ebpf_tap.decide.checks.port_hooks import check_hook
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.model.desired import Hook, NotOffloadedError, Rule
from ovs_ebpf_tap.model.frame_rewrite import ACCESS, TUNNEL
from ovs_ebpf_tap.model.limits import MAX_RULES_PER_HOOK
from ovs_ebpf_tap.model.reasons import packet_reasons, row_reasons

Rules = Mapping[Hook, Sequence[Rule]]


def find_obstacles(topology: Topology, rules: Rules) -> Iterator[tuple[UUID, str]]:
    """Mirrors of which some rule can't be had, and why; the last reason of a mirror counts."""
    for each in rules.values():
        for rule in each[MAX_RULES_PER_HOOK:]:
            yield rule.mirror, row_reasons.RULES_PER_HOOK.told(limit=MAX_RULES_PER_HOOK)
        for rule in each:
            if (
                rule.to_vlan
                and rule.rewrite.second_tag
                and rule.rewrite.out_mode in (ACCESS, TUNNEL)
            ):
                yield rule.mirror, packet_reasons.SECOND_TAG.told()
    yield from _unfinished(topology, rules)
    yield from _undecided_snaplens(rules)


def _unfinished(topology: Topology, rules: Rules) -> Iterator[tuple[UUID, str]]:
    """Mirrors whose copies are to be changed by an output's hook that can't be had."""
    finished: dict[int, set[UUID]] = defaultdict(set)
    for rule in (rule for each in rules.values() for rule in each):
        if rule.finishing_hook is not None:
            finished[rule.output].add(rule.mirror)
    for port in topology.ports if finished else ():
        for interface in topology.interfaces(port):
            device = topology.device(interface)
            if device is None or device.ifindex not in finished:
                continue
            try:
                check_hook(topology.context, device.ifindex, interface, f"output port {port.name}")
            except NotOffloadedError as why:
                yield from ((mirror, str(why)) for mirror in finished[device.ifindex])


def _undecided_snaplens(rules: Rules) -> Iterator[tuple[UUID, str]]:
    """Mirrors with one output, where it depends on which comes first how long a copy is."""
    here: dict[int, set[int]] = defaultdict(set)
    mirrors: dict[int, set[UUID]] = defaultdict(set)
    undecided = set()
    for each in rules.values():
        at_hook: dict[int, int] = {}
        for rule in each:
            snaplen = rule.rewrite.snaplen
            here[rule.group].add(snaplen)
            mirrors[rule.group].add(rule.mirror)
            if at_hook.setdefault(rule.group, snaplen) != snaplen or rule.dedup:
                undecided.add(rule.group)
    for group in undecided:
        if len(here[group]) > 1:
            reason = packet_reasons.UNDECIDED_SNAPLEN.told()
            yield from ((mirror, reason) for mirror in mirrors[group])
