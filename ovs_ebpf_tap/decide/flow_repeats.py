"""Flows that may send a packet to a port twice in one form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ovs_ebpf_tap.decide.flow_graph import FlowGraph
from ovs_ebpf_tap.decide.flow_search import Arrivals, Form, Places, Reaching, is_port
from ovs_ebpf_tap.decide.flow_sites import Prefix, lookup_of, written_by
from ovs_ebpf_tap.decide.flow_walk import FlowWalk
from ovs_ebpf_tap.model.flow import METADATA_MASK, Actions, Clone, Flow, Known, Modify

_MOST_PAIRS = 500
"""Pairs of ways through a flow that are looked at closely."""


def repeating(
    graph: FlowGraph, port: int, arrivals: Arrivals, reaching: Mapping[Flow, Places]
) -> Iterator[Flow]:
    """Those of flows whose sites lead to the port, as `Search.reaching` has them.

    Two ways to a port part at some flow: two of its sites lead there, in the same form.
    """
    for flow, places in reaching.items():
        if len(places) > 1:
            walk = FlowWalk(graph, port, _minded(flow, places))
            if _Parting(graph, port, walk, arrivals, flow, places).repeats(flow.actions, (), []):
                yield flow


def _minded(flow: Flow, places: Places) -> int:
    """The bits that tell the ways through a flow apart, with those of the packet itself."""
    minded = flow.match.mask | ~METADATA_MASK
    for each in places.values():
        for reaching in each:
            minded |= reaching.here.mask
    for action in flow.actions:
        minded |= written_by(action)
    return minded


class _Sent(NamedTuple):
    """A way by which the packet was sent."""

    place: tuple[int, ...]
    reaching: Reaching


@dataclass
class _Parting:
    """A flow where ways to the port may part."""

    graph: FlowGraph
    port: int
    walk: FlowWalk
    arrivals: Arrivals
    flow: Flow
    places: Places
    looked_at: int = 0

    def repeats(self, actions: Actions, place: tuple[int, ...], sent: list[_Sent]) -> bool:
        """Whether actions may send what was sent already; adds to `sent` what they do send.

        `sent` has each way by which the packet was sent in the form that it has now.
        """
        for index, action in enumerate(actions):
            here = (*place, index)
            if isinstance(action, Modify):
                if action.always:
                    sent.clear()
            elif isinstance(action, Clone):
                if self.repeats(action.actions, here, list(sent)):
                    return True
                sent += self._sent_unchanged(action.actions, here)
            elif here in self.places:
                ways = [_Sent(here, each) for each in self.places[here]]
                again = [way for way in ways if way.reaching.form is Form.SAME]
                if any(self._is_pair(first, second) for second in again for first in sent):
                    return True
                sent += [way for way in ways if way.reaching.form is not Form.OTHER]
        return False

    def _sent_unchanged(self, actions: Actions, place: tuple[int, ...]) -> Iterator[_Sent]:
        """What a clone sends in the form that it begins with."""
        for index, action in enumerate(actions):
            here = (*place, index)
            if isinstance(action, Modify) and action.always:
                return
            if isinstance(action, Clone):
                yield from self._sent_unchanged(action.actions, here)
            for each in self.places.get(here, ()):
                if each.form is Form.SAME:
                    yield _Sent(here, each)

    def _is_pair(self, first: _Sent, second: _Sent) -> bool:
        """Whether one packet may go both ways."""
        one, other = first.reaching, second.reaching
        if not one.known.meets(other.known):
            return False
        both = one.known.both(other.known)
        if (one.elsewhere or other.elsewhere) and is_port(both, self.port):
            return False
        self.looked_at += 1
        nested = len(first.place) > 1 or len(second.place) > 1
        if nested or first.reaching.form is not Form.SAME or self.looked_at > _MOST_PAIRS:
            return True
        (at,), (later,) = first.place, second.place
        actions = self.flow.actions
        known = self._known_before(actions[:at])
        needed = _prefix(actions[at:later], self.graph).before(second.reaching.here)
        if known is None or needed is None or not known.meets(first.reaching.here):
            return False
        known = known.both(first.reaching.here)
        if not known.meets(needed):
            return False
        known = known.both(needed)
        if not self._arrives(at, known):
            return False
        lookup = lookup_of(actions[at])
        left = known.only(~self.walk.written(lookup, known)) if lookup is not None else known
        rest = _prefix(actions[at + 1 : later], self.graph)
        needed = rest.before(second.reaching.here)
        if needed is None or not left.meets(needed):
            return False
        then = rest.after(left.both(needed))
        there = second.reaching.here
        return then.meets(there) and self._arrives(later, then.both(there))

    def _known_before(self, first: Actions) -> Known | None:
        """What is known of the packet behind the flow's first actions; None: it can't be there."""
        known = self.flow.match
        if self.flow.table == 0:
            if not self.arrivals.meets(known):
                return None
            known = self.arrivals.both(known)
        if any(isinstance(each, Modify) or lookup_of(each) is not None for each in first):
            known = known.only(METADATA_MASK)
        return _prefix(first, self.graph).after(known)

    def _arrives(self, index: int, known: Known) -> bool:
        """Whether an action of the flow sends the packet to the port, if that is known of it."""
        lookup = lookup_of(self.flow.actions[index])
        return lookup is None or self.walk.arrives(lookup, known)


def _prefix(actions: Actions, graph: FlowGraph) -> Prefix:
    prefix = Prefix()
    for action in actions:
        prefix = prefix.then(action, graph.writes)
    return prefix
