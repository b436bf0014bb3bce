"""How packets may come to leave through a port, followed back from the port through the flows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from ovs_ebpf_tap.decide.flow_graph import FlowGraph, Site
from ovs_ebpf_tap.model.flow import (
    ALL_PORTS,
    ANY_PORT,
    FLOOD,
    IN_PORT,
    IN_PORT_PORT,
    NORMAL,
    VLAN,
    VLAN_PRESENT,
    Actions,
    Clone,
    Flow,
    FlowName,
    Known,
    Modify,
    Output,
    OutputField,
    Pipeline,
    Resubmit,
)
from ovs_ebpf_tap.model.flow_traits import PortPaths

_MOST_STATES = 4000
"""States of a packet that are followed back from a port, before less of what flows match counts."""
_MOST_COARSE_STATES = 20000
"""The same then."""

_ARRIVAL = IN_PORT.mask | VLAN.mask
"""What a packet has when it arrives."""


class Form(IntEnum):
    """How the packet that leaves differs from the one that was there before."""

    SAME = 0
    CHANGED = 1
    """It is changed, and stays so behind the actions looked at."""
    OTHER = 2
    """It is changed for a while only, as a clone."""


class State(NamedTuple):
    """A packet in a table, from where it may leave through the port."""

    table: int
    known: Known
    """What is to be known of its metadata for that."""
    elsewhere: bool
    """Whether it must have arrived on another port: OVS sends no packet back where it came from,
    unless it is told to."""
    form: Form
    numbered: bool
    """Whether it leaves because a flow names the port, not by NORMAL."""


class _TooManyStatesError(Exception):
    pass


def port_paths(pipeline: Pipeline, graph: FlowGraph, port: int, *, reserved: bool) -> PortPaths:
    """How packets may leave through the port with that OpenFlow number.

    `graph` is the pipeline's; nothing goes to `reserved` ports by NORMAL.
    """
    try:
        found = _explore(graph, port, reserved=reserved)
        tagged = _explore(graph, port, reserved=True, present=VLAN_PRESENT)
    except _TooManyStatesError:
        return PortPaths(undecided=True)
    return PortPaths(
        repeats=_name(pipeline, graph, found.repeating()),
        numbered=_name(pipeline, graph, found.naming),
        origins=frozenset(found.origins),
        tagged_origins=frozenset(tagged.origins),
    )


def _name(pipeline: Pipeline, graph: FlowGraph, flows: Iterable[Flow]) -> FlowName | None:
    """The name of the first of the flows; instead of a group, that of a flow that uses it."""
    names = set()
    for flow in flows:
        while flow not in pipeline.flows:
            users = graph.lookups.get(flow.table, ())
            if not users:
                break
            flow = users[0].flow
        else:
            names.add(pipeline.flows[flow])
    return min(names, default=None)


def _explore(
    graph: FlowGraph, port: int, *, reserved: bool, present: int | None = None
) -> _Exploration:
    """Follows packets back; first by all that flows match, then by what decides at the port."""
    try:
        return _Exploration(port, -1, _MOST_STATES).follow(graph, reserved, present)
    except _TooManyStatesError:
        sites = (site for site, _, _ in _last_sites(graph, port, reserved=reserved))
        kept = _ARRIVAL
        for site in sites:
            kept |= site.flow.match.mask
        return _Exploration(port, kept, _MOST_COARSE_STATES).follow(graph, reserved, present)


def _last_sites(
    graph: FlowGraph, port: int, *, reserved: bool
) -> Iterator[tuple[Site, Known, bool]]:
    """The outputs to the port, what is to be known there, and `State.elsewhere`."""
    for number in (port, FLOOD, ALL_PORTS):
        for site in graph.outputs.get(number, ()):
            yield site, Known(), True
    for site in graph.outputs.get(ANY_PORT, ()):
        yield site, Known(), False
    for site in graph.outputs.get(IN_PORT_PORT, ()):
        yield site, Known.of(IN_PORT, port), False
    for site in graph.fields:
        assert isinstance(site.action, OutputField)
        yield site, Known.of(site.action.source, port), True
    for site in () if reserved else graph.outputs.get(NORMAL, ()):
        yield site, Known(), True


class _Reaching(NamedTuple):
    """What has to be known at the beginning of a flow for a site of it to lead to the port."""

    known: Known
    form: Form


@dataclass
class _Exploration:
    port: int
    kept: int
    """The bits of metadata that flows match, as far as they count."""
    limit: int
    seen: set[State] = field(default_factory=set)
    reaching: dict[Flow, dict[tuple[int, ...], set[_Reaching]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    """By flow and place: how its sites lead to the port."""
    naming: set[Flow] = field(default_factory=set)
    """The flows that name the port."""
    origins: set[Known] = field(default_factory=set)
    """As `PortPaths.origins`."""
    waiting: list[State] = field(default_factory=list)

    def follow(self, graph: FlowGraph, reserved: bool, present: int | None) -> _Exploration:
        for site, known, elsewhere in _last_sites(graph, self.port, reserved=reserved):
            assert isinstance(site.action, Output | OutputField)
            numbered = not (isinstance(site.action, Output) and site.action.port == NORMAL)
            if present is not None:
                known = known.both(Known.of(VLAN, present, VLAN_PRESENT))
            state = State(0, known, elsewhere, Form.SAME, numbered)
            if self._back(site, state) and numbered:
                self.naming.add(site.flow)
        while self.waiting:
            state = self.waiting.pop()
            for site in graph.lookups.get(state.table, ()):
                self._back(site, state)
        return self

    def _back(self, site: Site, state: State) -> bool:
        """Follows a packet back from a site to the beginning of its flow, if it can be."""
        before = self._before_lookup(site, state)
        if before is None:
            return False
        known, elsewhere = before
        form = state.form
        for index, prefix in enumerate(site.prefixes):
            if index and form is Form.CHANGED:
                form = Form.OTHER
            earlier = prefix.before(known)
            if earlier is None:
                return False
            if elsewhere and prefix.in_port is not None:
                if prefix.in_port == self.port:
                    return False
                elsewhere = False
            known = earlier
            if prefix.modifies and form is Form.SAME:
                form = Form.CHANGED
        flow = site.flow
        if not known.meets(flow.match) or (elsewhere and _is_port(flow.match, self.port)):
            return False
        known = known.both(flow.match.only(self.kept))
        self.reaching[flow][site.place].add(_Reaching(known, state.form))
        self._add(State(flow.table, known, elsewhere, form, state.numbered))
        return True

    def _before_lookup(self, site: Site, state: State) -> tuple[Known, bool] | None:
        """What is to be known before the site's own action is executed."""
        action = site.action
        if not isinstance(action, Resubmit) or action.in_port is None:
            return state.known, state.elsewhere
        there = Known.of(IN_PORT, action.in_port)
        if not state.known.meets(there) or (state.elsewhere and action.in_port == self.port):
            return None
        return state.known.only(~IN_PORT.mask), False

    def _add(self, state: State) -> None:
        if state in self.seen:
            return
        if len(self.seen) >= self.limit:
            raise _TooManyStatesError
        self.seen.add(state)
        self.waiting.append(state)
        if state.table == 0 and state.numbered:
            self.origins.add(state.known.only(_ARRIVAL))

    def repeating(self) -> Iterator[Flow]:
        """The flows that may send a packet to the port twice in one form."""
        for flow, sites in self.reaching.items():
            if len(sites) > 1 and self._repeats(flow.actions, sites, (), []):
                yield flow

    def _repeats(
        self,
        actions: Actions,
        sites: Mapping[tuple[int, ...], set[_Reaching]],
        place: tuple[int, ...],
        sent: list[Known],
    ) -> bool:
        """Whether actions may send what was sent already; adds to `sent` what they do send.

        `sent` has, of each time that the packet was sent in the form that it has now, what was
        known at the beginning of the flow.
        """
        for index, action in enumerate(actions):
            here = (*place, index)
            if isinstance(action, Modify):
                if action.always:
                    sent.clear()
            elif isinstance(action, Clone):
                if self._repeats(action.actions, sites, here, list(sent)):
                    return True
                sent += self._sent_unchanged(action.actions, sites, here)
            else:
                reaching = sites.get(here, ())
                if any(
                    each.form is Form.SAME and each.known.meets(other)
                    for each in reaching
                    for other in sent
                ):
                    return True
                sent += [each.known for each in reaching if each.form is not Form.OTHER]
        return False

    def _sent_unchanged(
        self,
        actions: Actions,
        sites: Mapping[tuple[int, ...], set[_Reaching]],
        place: tuple[int, ...],
    ) -> Iterator[Known]:
        """What a clone sends in the form that it begins with."""
        for index, action in enumerate(actions):
            if isinstance(action, Modify) and action.always:
                return
            if isinstance(action, Clone):
                yield from self._sent_unchanged(action.actions, sites, (*place, index))
            for each in sites.get((*place, index), ()):
                if each.form is Form.SAME:
                    yield each.known


def _is_port(known: Known, port: int) -> bool:
    """Whether the packet is known to have arrived on the port."""
    return known.mask & IN_PORT.mask == IN_PORT.mask and known.meets(Known.of(IN_PORT, port))
