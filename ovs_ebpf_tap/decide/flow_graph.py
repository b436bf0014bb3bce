"""A bridge's pipeline as a graph: which flows may hand a packet to a table, and how it is by then.

Priorities, and what flows match in the packet itself, are not looked at: there may be paths that no
packet takes, but none is missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Self

from ovs_ebpf_tap.decide.flow_sites import Site, lookup_of, sites_of, written_by
from ovs_ebpf_tap.decide.known_index import KnownIndex
from ovs_ebpf_tap.model.flow import (
    IN_PORT,
    METADATA_MASK,
    VLAN,
    VLAN_PRESENT,
    Action,
    Actions,
    Clone,
    Flow,
    FlowName,
    Forget,
    Group,
    Known,
    Load,
    Modify,
    Move,
    Output,
    OutputField,
    Pipeline,
    Resubmit,
    Write,
)

_UNTAGGED = Known.of(VLAN, 0, VLAN_PRESENT)

_STEP = 32
"""Flows that are looked at in about a millisecond."""


class FlowGraph:
    """The sites of a pipeline, by what they do."""

    def __init__(
        self,
        names: Mapping[Flow, FlowName],
        outputs: Mapping[int, Sequence[Site]],
        fields: Sequence[Site],
        lookups: Mapping[int, Sequence[Site]],
        flows: Mapping[int, Sequence[Flow]],
        writes: Mapping[int, int],
        *,
        modifies: bool,
        strips: bool,
    ) -> None:
        self.names = names
        """Of the flows as they are here."""
        self.outputs = outputs
        """By port, as `Output.port`."""
        self.fields = fields
        """Those that have the port's number in a field."""
        self.lookups = lookups
        """By table, and by `-1 - N` for group N."""
        self.writes = writes
        """By table: the bits that lookups there may write."""
        self.starts_empty = 0 not in lookups
        """Whether only packets that arrive are looked up in table 0, with empty registers."""
        self._flows = flows
        self._lookups_by_known: dict[int, KnownIndex[Site]] = {}
        self._flows_by_known: dict[int, KnownIndex[Flow]] = {}
        self._exact_by_known: dict[int, KnownIndex[Flow]] = {}
        self.modifies = modifies
        """Whether some flow may change a packet."""
        self.strips = strips
        """Whether some flow may take a VLAN tag off."""

    def lookups_of(self, table: int, known: Known) -> Sequence[Site]:
        """The lookups in a table, or of a group, where metadata may be so, and perhaps others."""
        index = self._lookups_by_known.get(table)
        if index is None:
            sites = self.lookups.get(table, ())
            index = KnownIndex.of((site, site.there) for site in sites)
            self._lookups_by_known[table] = index
        return index.meeting(known)

    def flows_of(self, table: int, known: Known) -> Sequence[Flow]:
        """The flows of a table, or a group, that metadata may match, and perhaps others."""
        index = self._flows_by_known.get(table)
        if index is None:
            index = KnownIndex.of((flow, flow.match) for flow in self._flows.get(table, ()))
            self._flows_by_known[table] = index
        return index.meeting(known)

    def exact_flows_of(self, table: int, known: Known) -> Sequence[Flow]:
        """Those of `flows_of` that match nothing else."""
        index = self._exact_by_known.get(table)
        if index is None:
            flows = (flow for flow in self._flows.get(table, ()) if flow.exact)
            index = KnownIndex.of((flow, flow.match) for flow in flows)
            self._exact_by_known[table] = index
        return index.meeting(known)

    @classmethod
    def of(cls, pipeline: Pipeline) -> Self:
        """The graph of a pipeline."""
        *_, graph = cls.build(pipeline)
        assert graph is not None
        return graph

    @classmethod
    def build(cls, pipeline: Pipeline) -> Iterator[Self | None]:
        """As `of`, step by step of about a millisecond; all but the last give None."""
        named, flows = _as_executed(pipeline)
        writes: Mapping[int, int] = {}
        for found in _writes(flows):
            writes = found
            yield None
        outputs: dict[int, list[Site]] = defaultdict(list)
        fields: list[Site] = []
        lookups: dict[int, list[Site]] = defaultdict(list)
        tables: dict[int, list[Flow]] = defaultdict(list)
        modifies = strips = False
        for number, flow in enumerate(flows):
            if number % _STEP == 0:
                yield None
            modifies = modifies or any(isinstance(each, Modify) for each in _flat(flow.actions))
            strips = strips or any(map(_is_strip, _flat(flow.actions)))
            tables[flow.table].append(flow)
            for site in sites_of(flow, writes):
                if isinstance(site.action, Output):
                    outputs[site.action.port].append(site)
                elif isinstance(site.action, OutputField):
                    fields.append(site)
                else:
                    lookups[site.action.table].append(site)
        yield cls(named, outputs, fields, lookups, tables, writes, modifies=modifies, strips=strips)


def _is_strip(action: Action) -> bool:
    """Whether a tag may be gone afterwards, and the one behind it be the first."""
    if isinstance(action, Move):
        return bool(action.destination.mask & VLAN.mask)
    if isinstance(action, Forget):
        return action.mask & VLAN.mask != 0 and action.mask != METADATA_MASK
    return (
        isinstance(action, Load)
        and _UNTAGGED.mask & ~action.known.mask == 0
        and action.known.meets(_UNTAGGED)
    )


def _as_executed(pipeline: Pipeline) -> tuple[Mapping[Flow, FlowName], list[Flow]]:
    """The flows with their names, and with groups, as OVS executes them.

    In a table that is looked up with another `in_port` than the packet's, flows may match any. What
    is written to the action set is sent in whichever form the packet has in the end; where others
    send it, too, or change it, that may be twice in one form.
    """
    groups = list(_flows_of(pipeline.groups))
    everything = [*pipeline.flows, *groups]
    kinds: set[type[Action]] = set()
    others: set[int] = set()
    changes = False
    for flow in everything:
        for action in _flat(flow.actions):
            kinds.add(type(action))
            if isinstance(action, Resubmit) and action.other_port:
                others.add(action.table)
            elif isinstance(action, Write):
                changes = changes or action.changes
    if not others and Write not in kinds:
        return pipeline.flows, everything
    twice = changes or not kinds.isdisjoint((Modify, Output, OutputField))

    def executed(flow: Flow) -> Flow:
        if flow.table in others and flow.match.mask & IN_PORT.mask:
            flow = replace(flow, match=flow.match.only(~IN_PORT.mask), exact=False)
        actions = tuple(_executed(action, twice=twice) for action in flow.actions)
        return replace(flow, actions=actions)

    named = {executed(flow): name for flow, name in pipeline.flows.items()}
    return named, [*named, *map(executed, groups)]


def _flat(actions: Actions) -> Iterator[Action]:
    for action in actions:
        yield action
        if isinstance(action, Clone):
            yield from _flat(action.actions)


def _executed(action: Action, *, twice: bool) -> Action:
    if not isinstance(action, Write):
        return action
    return Clone((Forget(METADATA_MASK), *((action.final,) * (1 + twice))))


def _flows_of(groups: Mapping[int, Group]) -> Iterator[Flow]:
    """Groups as flows of tables of their own: of several flows, a packet meets one."""
    for number, group in groups.items():
        buckets = tuple(Clone(bucket) for bucket in group.buckets)
        for actions in (buckets,) if group.every else ((bucket,) for bucket in buckets):
            yield Flow(-1 - number, Known(), actions)


def _writes(flows: Sequence[Flow]) -> Iterator[Mapping[int, int]]:
    """By table: the bits that its flows, and those that they look up, may write; the last is it."""
    found: dict[int, int] = defaultdict(int)
    behind: dict[int, set[int]] = defaultdict(set)
    for number, flow in enumerate(flows):
        if number % _STEP == 0:
            yield found
        for action in flow.actions:
            lookup = lookup_of(action)
            if lookup is not None:
                behind[flow.table].add(lookup.table)
            else:
                found[flow.table] |= written_by(action)
    changed = True
    while changed:
        changed = False
        for table, others in behind.items():
            bits = found[table]
            for other in others:
                bits |= found[other]
            if bits != found[table]:
                found[table], changed = bits, True
    yield found
