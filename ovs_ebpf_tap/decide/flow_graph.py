"""A bridge's pipeline as a graph: which flows may hand a packet to a table, and how it is by then.

Priorities, and what flows match in the packet itself, are not looked at: there may be paths that no
packet takes, but none is missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

from ovs_ebpf_tap.decide.flow_sites import Site, lookup_of, sites_of
from ovs_ebpf_tap.decide.site_index import SiteIndex
from ovs_ebpf_tap.model.flow import (
    VLAN,
    VLAN_PRESENT,
    Action,
    Actions,
    Clone,
    Flow,
    Forget,
    Group,
    Known,
    Load,
    Modify,
    Move,
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
        self._indices: dict[int, SiteIndex] = {}
        self.modifies = modifies
        """Whether some flow may change a packet."""
        self.strips = strips
        """Whether some flow may take a VLAN tag off."""

    def lookups_of(self, table: int, known: Known) -> Sequence[Site]:
        """The lookups in a table, or of a group, where metadata may be so, and perhaps others."""
        if table not in self._indices:
            self._indices[table] = SiteIndex.of(self.lookups.get(table, ()))
        return self._indices[table].meeting(known)

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
        modifies = strips = False
        for number, flow in enumerate(flows):
            if number % _STEP == 0:
                yield None
            modifies = modifies or _does(flow.actions, _is_modification)
            strips = strips or _does(flow.actions, _is_strip)
            for site in sites_of(flow, writes):
                if isinstance(site.action, Output):
                    outputs[site.action.port].append(site)
                elif isinstance(site.action, OutputField):
                    fields.append(site)
                else:
                    lookups[site.action.table].append(site)
        yield cls(outputs, fields, lookups, modifies=modifies, strips=strips)


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
                found[flow.table] |= _written(action)
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


def _written(action: Action) -> int:
    if isinstance(action, Load):
        return action.known.mask
    if isinstance(action, Forget):
        return action.mask
    return action.destination.mask if isinstance(action, Move) else 0
