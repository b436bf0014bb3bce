"""Follows a packet of which much is known forward, flow by flow, by priority."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ovs_ebpf_tap.decide.flow_graph import FlowGraph
from ovs_ebpf_tap.decide.flow_sites import Prefix, lookup_of, written_by
from ovs_ebpf_tap.model.flow import (
    ALL_PORTS,
    ANY_PORT,
    FLOOD,
    IN_PORT_PORT,
    METADATA_MASK,
    NORMAL,
    Actions,
    Clone,
    Flow,
    Forget,
    Known,
    Load,
    Modify,
    Move,
    Output,
    OutputField,
    Resubmit,
)

_SEVERAL = (ANY_PORT, IN_PORT_PORT, NORMAL, FLOOD, ALL_PORTS)

_MOST_FLOWS = 20000
"""Flows that are looked at before anything is taken to be possible."""

_DEEPEST = 64
"""Lookups within lookups that are followed; OVS itself does so many (`MAX_DEPTH`)."""

_Key = tuple[int, Known]
"""A table, and what is known of a packet that is looked up there."""


class _Step(NamedTuple):
    """What becomes of such a packet in the table."""

    sent: bool
    """Whether it may be sent to the port as it is."""
    behind: frozenset[_Key]
    """Where it may be looked up from there, as it is."""


@dataclass
class _Passing:
    """A step while it is found."""

    sent: bool = False
    behind: set[_Key] = field(default_factory=set)


class FlowWalk:
    """Follows packets of which much is known, flow by flow, by priority.

    Unlike the search back from a port, this looks at priorities, as far as flows of higher priority
    match nothing but what is known.
    """

    def __init__(self, graph: FlowGraph, port: int, minded: int) -> None:
        """Of the packets, only what is known of the `minded` bits is followed."""
        self._graph = graph
        self._minded = minded
        self._numbers = (port, *_SEVERAL)
        self._steps: dict[_Key, _Step] = {}
        self._written: dict[_Key, int] = {}
        self._left = _MOST_FLOWS
        self._depth = 0

    def arrives(self, lookup: Resubmit, known: Known) -> bool:
        """Whether a packet of which that is known where it is looked up may come to the port as it
        is."""
        self.written(lookup, known)
        waiting = [self._key(lookup, known)]
        seen = set(waiting)
        while waiting:
            step = self._steps.get(waiting.pop())
            if step is None or step.sent or self._left < 0:
                return True
            waiting += step.behind - seen
            seen |= step.behind
        return False

    def written(self, lookup: Resubmit, known: Known) -> int:
        """The bits of metadata that may be others when it comes back from there."""
        key = self._key(lookup, known)
        if key not in self._written:
            # Until more is known: where tables look up each other.
            self._written[key] = self._graph.writes.get(lookup.table, 0)
            if self._depth < _DEEPEST:
                self._depth += 1
                self._written[key] = self._look_up(key)
                self._depth -= 1
        return self._written[key]

    def _key(self, lookup: Resubmit, known: Known) -> _Key:
        return lookup.table, known.only(self._minded)

    def _look_up(self, key: _Key) -> int:
        table, known = key
        written, passing = 0, _Passing()
        for flow in self._graph.flows_of(table, known):
            self._left -= 1
            if self._left < 0:
                return METADATA_MASK
            if known.meets(flow.match) and flow.actions:
                here = known.both(flow.match)
                if not self._is_hidden(flow, here):
                    written |= self._execute(flow.actions, here, passing)
        self._steps[key] = _Step(passing.sent, frozenset(passing.behind))
        return written

    def _is_hidden(self, flow: Flow, known: Known) -> bool:
        """Whether flows of higher priority match all such packets."""
        others = self._graph.exact_flows_of(flow.table, known)
        self._left -= len(others) // 8
        return any(
            other.priority > flow.priority and known.implies(other.match) for other in others
        )

    def _execute(self, actions: Actions, before: Known, passing: _Passing) -> int:
        """Returns the bits that may be others afterwards."""
        known, touched, changed = before, 0, False
        for action in actions:
            lookup = lookup_of(action)
            if isinstance(action, Modify):
                changed = changed or action.always
            elif isinstance(action, Clone):
                if not changed:
                    self._execute(action.actions, known, passing)
            elif isinstance(action, Output | OutputField):
                passing.sent |= not changed and self._may_be_sent(action, known)
            elif lookup is not None:
                lost = self._graph.writes.get(lookup.table, 0)
                if not changed:
                    passing.behind.add(self._key(lookup, known))
                    lost = self.written(lookup, known)
                known, touched = known.only(~lost), touched | lost
            elif isinstance(action, Load | Move | Forget):
                known = Prefix().then(action, {}).after(known)
                touched |= written_by(action)
        same = before.mask & known.mask & ~(before.value ^ known.value)
        return touched & ~same

    def _may_be_sent(self, action: Output | OutputField, known: Known) -> bool:
        if isinstance(action, Output):
            return action.port in self._numbers
        return any(known.meets(action.naming(number)) for number in self._numbers)
