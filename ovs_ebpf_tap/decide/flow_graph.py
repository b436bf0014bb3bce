"""A bridge's pipeline as a graph: which flows may hand a packet to a table, and how it is by then.

Priorities, and what flows match in the packet itself, are not looked at: there may be paths that no
packet takes, but none is missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

from ovs_ebpf_tap.decide.flow_sites import Site, lookup_of, sites_of, written_by
from ovs_ebpf_tap.decide.known_index import KnownIndex
from ovs_ebpf_tap.model.flow import (
    VLAN,
    VLAN_PRESENT,
    Action,
    Actions,
    Clone,
    Flow,
    Group,
    Known,
    Load,
    Modify,
    Output,
    OutputField,
    Pipeline,
)

_UNTAGGED = Known.of(VLAN, 0, VLAN_PRESENT)

_STEP = 32
"""Flows that are looked at in about a millisecond."""


class FlowGraph:
    """The sites of a pipeline, by what they do."""

    def __init__(
        self,
        outputs: Mapping[int, Sequence[Site]],
        fields: Sequence[Site],
        lookups: Mapping[int, Sequence[Site]],
        flows: Mapping[int, Sequence[Flow]],
        writes: Mapping[int, int],
        *,
        modifies: bool,
        strips: bool,
    ) -> None:
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

    @classmethod
    def of(cls, pipeline: Pipeline) -> Self:
        """The graph of a pipeline."""
        *_, graph = cls.build(pipeline)
        assert graph is not None
        return graph

    @classmethod
    def build(cls, pipeline: Pipeline) -> Iterator[Self | None]:
        """As `of`, step by step of about a millisecond; all but the last give None."""
        flows = [*pipeline.flows, *_flows_of(pipeline.groups)]
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
            modifies = modifies or _does(flow.actions, _is_modification)
            strips = strips or _does(flow.actions, _is_strip)
            tables[flow.table].append(flow)
            for site in sites_of(flow, writes):
                if isinstance(site.action, Output):
                    outputs[site.action.port].append(site)
                elif isinstance(site.action, OutputField):
                    fields.append(site)
                else:
                    lookups[site.action.table].append(site)
        yield cls(outputs, fields, lookups, tables, writes, modifies=modifies, strips=strips)


def _does(actions: Actions, what: Callable[[Action], bool]) -> bool:
    return any(
        what(action) or (isinstance(action, Clone) and _does(action.actions, what))
        for action in actions
    )


def _is_modification(action: Action) -> bool:
    return isinstance(action, Modify)


def _is_strip(action: Action) -> bool:
    return (
        isinstance(action, Load)
        and _UNTAGGED.mask & ~action.known.mask == 0
        and action.known.meets(_UNTAGGED)
    )


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
