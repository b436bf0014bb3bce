"""A bridge's flows, counted by what `model/flow.py` has of them.

Per flow there are only integers here, as thousands of small objects would have the garbage
collector stop everything for long.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TypeVar

from ovs_ebpf_tap.model.flow import Flow, FlowName
from ovs_ebpf_tap.observe.ofp import Does, FlowUpdate

_Key = TypeVar("_Key")

VERSIONS = count()
"""Numbers for what was seen; none is used twice."""

_COOKIE = 64
_PRIORITY = 16
"""Bits of what makes a name: the cookie below the priority, and that below the table."""


class _Alike:
    """Flows that do the same, by their names."""

    __slots__ = "does", "names"

    def __init__(self, does: Does) -> None:
        self.does = does
        self.names: dict[int, int] = {}


class FlowCounts:
    """Flows that are there."""

    def __init__(self) -> None:
        # By a hash of what tells a flow from the others: 64 bits, seeded anew by every process,
        # stand for matches of some hundred bytes.
        self._there: dict[int, _Alike] = {}
        self._names: dict[int, int] = {}
        self._alike: dict[Does, _Alike] = {}
        self._flows: dict[Flow, int] = {}
        self.groups: dict[int, int] = {}
        """How many kinds of flows use a group, by its number."""
        self.version = next(VERSIONS)
        """A higher one whenever other flows are there than before, but for their names."""

    def take(self, update: FlowUpdate) -> None:
        """Takes in a flow, or that it is there no longer."""
        key = hash(update.key)
        before, name_before = self._there.pop(key, None), self._names.pop(key, 0)
        if update.does is not None:
            alike = self._alike.get(update.does)
            if alike is None:
                alike = self._alike[update.does] = _Alike(update.does)
                self._changes(update.does, 1)
            table, priority, _ = update.key
            name = (table << _PRIORITY | priority) << _COOKIE | update.cookie
            alike.names[name] = alike.names.get(name, 0) + 1
            self._there[key], self._names[key] = alike, name
        if before is not None:
            _count(before.names, name_before, -1)
            if not before.names:
                del self._alike[before.does]
                self._changes(before.does, -1)

    def clear(self) -> None:
        """Forgets all."""
        for tables in (self._there, self._names, self._alike, self._flows, self.groups):
            tables.clear()
        self.version = next(VERSIONS)

    @property
    def flows(self) -> dict[Flow, FlowName]:
        """Those that differ, each with the name of one that is there; a copy."""
        found: dict[Flow, FlowName] = {}
        for alike in self._alike.values():
            name = next(iter(alike.names))
            rest, cookie = name >> _COOKIE, name & (1 << _COOKIE) - 1
            named = FlowName(rest >> _PRIORITY, rest & (1 << _PRIORITY) - 1, cookie)
            found.update((flow, named) for flow in alike.does.flows)
        return found

    @property
    def traits(self) -> Iterable[int]:
        """Those of all flows."""
        return {does.traits for does in self._alike}

    def _changes(self, does: Does, step: int) -> None:
        """Counts kinds of flows that came or went."""
        kinds = len(self._flows)
        for flow in does.flows:
            _count(self._flows, flow, step)
        if len(self._flows) != kinds:
            self.version = next(VERSIONS)
        for group in does.groups:
            _count(self.groups, group, step)


def _count(counts: dict[_Key, int], key: _Key, step: int) -> None:
    """Keeps those that are not 0."""
    now = counts.get(key, 0) + step
    if now:
        counts[key] = now
    else:
        del counts[key]
