"""How packets may come to leave through a port, by a bridge's flows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ovs_ebpf_tap.decide.flow_graph import FlowGraph
from ovs_ebpf_tap.decide.flow_repeats import repeating
from ovs_ebpf_tap.decide.flow_search import (
    ARRIVAL,
    EMPTY,
    Arrivals,
    End,
    Form,
    Search,
    TooManyStatesError,
)
from ovs_ebpf_tap.model.flow import (
    ALL_PORTS,
    ANY_PORT,
    FLOOD,
    IN_PORT,
    IN_PORT_PORT,
    METADATA_MASK,
    NORMAL,
    TABLE,
    VLAN,
    VLAN_PRESENT,
    Flow,
    FlowName,
    Known,
    OutputField,
)
from ovs_ebpf_tap.model.flow_traits import FlowTraits, FollowedPort, PortPaths

_MOST_STATES = 2000
"""States of a packet that are followed back from a port, before less of what flows match counts."""
_MOST_COARSE_STATES = 4000
"""The same then."""

_TAGGED = Known.of(VLAN, VLAN_PRESENT, VLAN_PRESENT)


def port_paths(graph: FlowGraph, port: int, followed: FollowedPort) -> PortPaths:
    """How packets may leave through the port with that OpenFlow number.

    Nothing goes to reserved ports by NORMAL.
    """
    if followed.looped:
        return PortPaths(undecided=True)
    numbered = list(_numbered(graph, port))
    normal = [] if followed.reserved else list(_by_normal(graph))
    try:
        again = _name(graph, _by_table(graph, port, followed))
        if again is not None:
            every = frozenset({Known()})
            return PortPaths(again, again, origins=every, tagged_origins=every)
        found = _search(graph, port, followed, [*numbered, *normal], Form.CHANGED)
        origins = tagged = None
        if followed.vlans:
            tags = [End(end.site, end.known.both(_TAGGED), end.elsewhere) for end in numbered]
            origins = frozenset(_search(graph, port, followed, numbered, Form.OTHER).origins)
            tagged = frozenset(_search(graph, port, followed, tags, Form.OTHER).origins)
    except TooManyStatesError:
        return PortPaths(undecided=True)
    naming = found.ending & {end.site.flow for end in numbered}
    return PortPaths(
        repeats=_name(graph, repeating(graph, port, found.arrivals, found.reaching)),
        numbered=_name(graph, naming),
        origins=origins,
        tagged_origins=tagged,
    )


def traits_of(graph: FlowGraph, ports: Mapping[int, PortPaths]) -> FlowTraits:
    """What is known of a pipeline, with what was found for some ports."""
    return FlowTraits(
        modifies=graph.modifies,
        outputs=bool(graph.fields) or any(port != NORMAL for port in graph.outputs),
        normal=NORMAL in graph.outputs or bool(graph.fields),
        strips=graph.strips,
        ports=ports,
    )


def _numbered(graph: FlowGraph, port: int) -> Iterator[End]:
    """Where flows name the port, or may."""
    for number in (port, FLOOD, ALL_PORTS):
        for site in graph.outputs.get(number, ()):
            yield End(site, Known(), True)
    for site in graph.outputs.get(ANY_PORT, ()):
        yield End(site, Known(), False)
    for site in graph.outputs.get(IN_PORT_PORT, ()):
        yield End(site, Known.of(IN_PORT, port), False)
    for site in graph.fields:
        assert isinstance(site.action, OutputField)
        for number in (port, FLOOD, ALL_PORTS):
            yield End(site, site.action.naming(number), True)
        back = site.action.naming(IN_PORT_PORT)
        from_here = Known.of(IN_PORT, port)
        if back.meets(from_here):
            yield End(site, back.both(from_here), False)


def _by_normal(graph: FlowGraph) -> Iterator[End]:
    """Where packets may go to the port by NORMAL."""
    for site in graph.outputs.get(NORMAL, ()):
        yield End(site, Known(), True)
    for site in graph.fields:
        assert isinstance(site.action, OutputField)
        yield End(site, site.action.naming(NORMAL), True)


def _by_table(graph: FlowGraph, port: int, followed: FollowedPort) -> Iterator[Flow]:
    """Flows that may output to a field that holds OFPP_TABLE: a lookup in the first table.

    The search does not follow such lookups, so no answer holds where there are any.
    """
    ends = []
    for site in graph.fields:
        assert isinstance(site.action, OutputField)
        ends.append(End(site, site.action.naming(TABLE), False))
    if ends and _search(graph, port, followed, ends, Form.OTHER).origins:
        for end in ends:
            if _search(graph, port, followed, [end], Form.OTHER).origins:
                yield end.site.flow


def _search(
    graph: FlowGraph, port: int, followed: FollowedPort, ends: Sequence[End], last: Form
) -> Search:
    """Follows packets back; first by all that flows match, then by what decides at the port."""
    empty = EMPTY if graph.starts_empty else Known()
    one_tag = graph.starts_empty and not followed.two_tags
    arrivals = Arrivals(empty, followed.patches if one_tag else None)
    try:
        found = Search(port, last, METADATA_MASK, _MOST_STATES, arrivals)
        found.run(graph, ends)
    except TooManyStatesError:
        kept = ARRIVAL
        for end in ends:
            kept |= (end.known.mask | end.site.flow.match.mask) & METADATA_MASK
        found = Search(port, last, kept, _MOST_COARSE_STATES, arrivals)
        found.run(graph, ends)
    return found


def _name(graph: FlowGraph, flows: Iterable[Flow]) -> FlowName | None:
    """The name of the first of the flows; instead of a group, that of a flow that uses it."""
    waiting = list(flows)
    seen = set(waiting)
    names = set()
    while waiting:
        flow = waiting.pop()
        if flow in graph.names:
            names.add(graph.names[flow])
            continue
        users = {site.flow for site in graph.lookups.get(flow.table, ())} - seen
        seen |= users
        waiting += users
    return min(names, default=None)
