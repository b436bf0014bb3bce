"""Follows packets back from where they leave through a port, flow by flow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import reduce
from typing import NamedTuple

from ovs_ebpf_tap.decide.flow_graph import FlowGraph
from ovs_ebpf_tap.decide.flow_sites import Site
from ovs_ebpf_tap.model.flow import IN_PORT, METADATA, SECOND_VLAN, VLAN, Flow, Known, register

ARRIVAL = IN_PORT.mask | VLAN.mask
"""The metadata that a packet has when it arrives."""

EMPTY = reduce(Known.both, (Known.of(bits, 0) for bits in (METADATA, *map(register, range(16)))))
"""What registers are when a packet arrives."""
_ONE_TAG = Known.of(SECOND_VLAN, 0)
"""Packets have no second tag when they arrive, as far as OVS looks at them: `vlan-limit` is 1."""


class Arrivals(NamedTuple):
    """What is known of packets that arrive."""

    empty: Known
    two_tagged: tuple[int, ...] | None
    """The ports where they may have a second tag that OVS knows; None for all ports."""

    def meets(self, known: Known) -> bool:
        """Whether a packet may arrive of which that is known."""
        return known.meets(self.empty) and (known.meets(_ONE_TAG) or self._may_have_two(known))

    def both(self, known: Known) -> Known:
        """What is known then of one that arrives."""
        known = known.both(self.empty)
        return known if self._may_have_two(known) else known.both(_ONE_TAG)

    def by_port(self, known: Known) -> Iterator[Known]:
        """The same; of a packet with two tags, once for each port where it may have arrived."""
        if self.two_tagged is None or known.meets(_ONE_TAG):
            yield known
        else:
            ports = (Known.of(IN_PORT, port) for port in self.two_tagged)
            yield from (known.both(port) for port in ports if known.meets(port))

    def _may_have_two(self, known: Known) -> bool:
        if self.two_tagged is None:
            return True
        return any(known.meets(Known.of(IN_PORT, port)) for port in self.two_tagged)


class Form(IntEnum):
    """How the packet that leaves differs from the one that was there before."""

    SAME = 0
    CHANGED = 1
    """It is changed, and stays so behind the actions looked at."""
    OTHER = 2
    """It is changed for a while only, as a clone."""


class End(NamedTuple):
    """Where packets leave through the port."""

    site: Site
    known: Known
    """What is to be known of the metadata there."""
    elsewhere: bool
    """Whether the packet must have arrived on another port: OVS sends none back where it came from,
    unless it is told to."""


class State(NamedTuple):
    """A packet in a table, from where it may leave through the port."""

    table: int
    known: Known
    elsewhere: bool
    """Both as of `End`."""
    form: Form


class Reaching(NamedTuple):
    """What has to be known for a site of a flow to lead to the port."""

    known: Known
    """At the beginning of the flow."""
    form: Form
    here: Known
    """At the site."""
    elsewhere: bool
    """As of `End`, at the beginning of the flow."""


Places = dict[tuple[int, ...], set[Reaching]]
"""By `Site.place`: how sites of a flow lead to the port."""


class TooManyStatesError(Exception):
    """Packets may come to the port in too many ways."""


@dataclass
class Search:
    """What is found of the ways that lead to a port."""

    port: int
    last: Form
    """Packets of later forms are not followed."""
    kept: int
    """The bits of metadata that flows match, as far as they count."""
    limit: int
    """How many states are followed."""
    arrivals: Arrivals
    reaching: dict[Flow, Places] = field(default_factory=lambda: defaultdict(_no_places))
    ending: set[Flow] = field(default_factory=set)
    """The flows that packets leave by."""
    origins: set[Known] = field(default_factory=set)
    """As `PortPaths.origins`."""
    _seen: dict[tuple[int, bool, Form], dict[int, set[int]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    """By what else a state has: by the bits known, what they are."""
    _count: int = 0
    _waiting: list[State] = field(default_factory=list)

    def run(self, graph: FlowGraph, ends: Iterable[End]) -> None:
        """Follows packets back from there. Raises TooManyStatesError."""
        for site, known, elsewhere in ends:
            if self._back(site, State(0, known, elsewhere, Form.SAME)):
                self.ending.add(site.flow)
        while self._waiting:
            state = self._waiting.pop()
            for site in graph.lookups_of(state.table, state.known):
                self._back(site, state)

    def _back(self, site: Site, state: State) -> bool:
        """Follows a packet back from a site to the beginning of its flow, if it can be."""
        known, elsewhere, form = state.known, state.elsewhere, state.form
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
        if not known.meets(flow.match) or (elsewhere and is_port(flow.match, self.port)):
            return False
        known = known.both(flow.match.only(self.kept))
        if flow.table == 0 and not self.arrivals.meets(known):
            return False
        self.reaching[flow][site.place].add(Reaching(known, state.form, state.known, elsewhere))
        self._add(State(flow.table, known, elsewhere, form))
        return True

    def _add(self, state: State) -> None:
        if state.form > self.last or self._is_seen(state):
            return
        if self._count >= self.limit:
            raise TooManyStatesError
        self._count += 1
        self._waiting.append(state)
        if state.table == 0:
            self.origins |= {known.only(ARRIVAL) for known in self.arrivals.by_port(state.known)}

    def _is_seen(self, state: State) -> bool:
        """Whether this state, or one of which less is to be known, was followed."""
        table, known, elsewhere, form = state
        seen = self._seen[table, elsewhere, form]
        if any(
            mask & ~known.mask == 0 and known.value & mask in values
            for mask, values in seen.items()
        ):
            return True
        seen[known.mask].add(known.value)
        return False


def _no_places() -> Places:
    return defaultdict(set)


def is_port(known: Known, port: int) -> bool:
    """Whether the packet is known to have arrived on the port."""
    return known.mask & IN_PORT.mask == IN_PORT.mask and known.meets(Known.of(IN_PORT, port))
