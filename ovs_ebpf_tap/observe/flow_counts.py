"""A bridge's flows, counted by what `model/flow.py` has of them.

Per flow there are only integers here, as thousands of small objects would have the garbage
collector stop everything for long.
"""

from __future__ import annotations

from itertools import count
from typing import TypeVar

from ovs_ebpf_tap.model.flow import Flow, FlowName, names_twice
from ovs_ebpf_tap.observe.ofp import Does, FlowUpdate

_Key = TypeVar("_Key")

VERSIONS = count()
"""Numbers for what was seen; none is used twice."""

_COOKIE = 64
_PRIORITY = 16
"""Bits of what makes a name: the cookie below the priority, and that below the table."""


class _Kind:
    """Flows that are the same to `model/flow.py`."""

    __slots__ = "flow", "name", "users"

    def __init__(self, flow: Flow, name: int) -> None:
        self.flow = flow
        self.name = name
        self.users = 0


class _Alike:
    """Flows that do the same, by their names."""

    __slots__ = "does", "kinds", "names"

    def __init__(self, does: Does) -> None:
        self.does = does
        self.kinds: tuple[_Kind, ...] = ()
        self.names: dict[int, int] = {}


class FlowCounts:
    """Flows that are there."""

    def __init__(self) -> None:
        # By a hash of what tells a flow from the others: 64 bits, seeded anew by every process,
        # stand for matches of some hundred bytes.
        self._there: dict[int, _Alike] = {}
        self._names: dict[int, int] = {}
        self._alike: dict[Does, _Alike] = {}
        self._kinds: dict[Flow, _Kind] = {}
        self._names_are_old = False
        self.groups: dict[int, int] = {}
        """How many kinds of flows use a group, by its number."""
        self.version = next(VERSIONS)
        """A higher one whenever other flows are there than before, but for their names."""
        self.repeating = self.version
        """The version of the last flow that names a port in two outputs."""

    def take(self, update: FlowUpdate) -> None:
        """Takes in a flow, or that it is there no longer."""
        key = hash(update.key)
        before, name_before = self._there.pop(key, None), self._names.pop(key, 0)
        if update.does is not None:
            self._there[key], self._names[key] = self._add(update.does, _packed(update))
        if before is not None:
            self._drop(before, name_before)

    def clear(self) -> None:
        """Forgets all."""
        for tables in (self._there, self._names, self._alike, self._kinds):
            tables.clear()
        self.groups.clear()
        self.version = self.repeating = next(VERSIONS)

    @property
    def flows(self) -> dict[Flow, FlowName]:
        """Those that differ, each with the name of one that is there; a copy."""
        if self._names_are_old:
            self._names_are_old = False
            for alike in self._alike.values():
                _name(alike)
        return {flow: _unpacked(kind.name) for flow, kind in self._kinds.items()}

    def _add(self, does: Does, name: int) -> tuple[_Alike, int]:
        made = _Alike(does)
        alike = self._alike.setdefault(does, made)  # Hashing it is the expensive part.
        if alike is made:
            alike.kinds = tuple(self._use(flow, name) for flow in does.flows)
            for group in does.groups:
                _count(self.groups, group, 1)
        alike.names[name] = alike.names.get(name, 0) + 1
        return alike, name

    def _use(self, flow: Flow, name: int) -> _Kind:
        made = _Kind(flow, name)
        kind = self._kinds.setdefault(flow, made)
        if kind is made:
            self.version = next(VERSIONS)
            if names_twice(flow.actions):
                self.repeating = self.version
        kind.users += 1
        return kind

    def _drop(self, alike: _Alike, name: int) -> None:
        _count(alike.names, name, -1)
        if alike.names:
            if name not in alike.names:
                _name(alike)
            return
        del self._alike[alike.does]
        for group in alike.does.groups:
            _count(self.groups, group, -1)
        for kind in alike.kinds:
            kind.users -= 1
            if kind.users:
                self._names_are_old = True
            else:
                del self._kinds[kind.flow]
                self.version = next(VERSIONS)


def _name(alike: _Alike) -> None:
    """Gives flows the name of one that is there."""
    name = next(iter(alike.names))
    for kind in alike.kinds:
        kind.name = name


def _packed(update: FlowUpdate) -> int:
    table, priority, _ = update.key
    return (table << _PRIORITY | priority) << _COOKIE | update.cookie


def _unpacked(name: int) -> FlowName:
    rest, cookie = name >> _COOKIE, name & (1 << _COOKIE) - 1
    return FlowName(rest >> _PRIORITY, rest & (1 << _PRIORITY) - 1, cookie)


def _count(counts: dict[_Key, int], key: _Key, step: int) -> None:
    """Keeps those that are not 0."""
    now = counts.get(key, 0) + step
    if now:
        counts[key] = now
    else:
        del counts[key]
