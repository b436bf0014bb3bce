"""When ovs-vswitchd is to revalidate its flows, and which mirrors these know of by now.

A revalidation is asked for when something has changed that running flows do not know of. It begins
once ovs-vswitchd has taken in a transaction of the sidecar's that is younger than the change, which
`next_cfg` and `cur_cfg` tell; one that moves mirrors is such a transaction, else an empty one is.
So moves may follow each other as fast as they like: whatever ovs-vswitchd sees of them, it
revalidates after the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Protocol
from uuid import UUID

import ovs.poller


class Round(Protocol):
    """A revalidation; see `observe.revalidation`."""

    @property
    def done(self) -> bool:
        """Whether all flows are revalidated."""

    @property
    def lost(self) -> bool:
        """Whether there is no ovs-vswitchd to do it."""

    def run(self) -> None:
        """Takes in what has happened."""

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""

    def close(self) -> None:
        """Gives back what it has taken."""


class Revalidations:
    """Those that are asked for, and those that are under way.

    At first one is due: a sidecar before this one may have ended in the middle of a move.
    """

    def __init__(self) -> None:
        self.asked = False
        """Whether a transaction is to be made, which ovs-vswitchd tells that it has taken in."""
        self._due = True
        """Whether one is to begin, when the last transaction has been taken in."""
        self._first = True
        self._waiting: set[UUID] = set()
        """Mirrors given back to OVS that the transaction to come covers."""
        self._covered: set[UUID] = set()
        """The same of the one that was made."""
        self._returning: dict[UUID, Round] = {}
        """The revalidation after which flows know that a mirror was given back to OVS."""
        self._rounds: list[Round] = []

    def ask(self) -> None:
        """Asks for one, for the sake of what has changed by now."""
        self.asked = True

    def written(self, given_back: Iterable[UUID]) -> None:
        """Notes a transaction that was begun, which gives these mirrors back to OVS."""
        self._covered |= self._waiting.union(given_back)
        self._waiting.clear()
        self.asked, self._due = False, True
        self._first = False

    def look(
        self, returning: Set[UUID], applied: bool, known: bool, begin: Callable[[], Round]
    ) -> set[UUID]:
        """Begins one with `begin` if it is due; returns the mirrors that flows may not know of.

        `returning` are those that OVS is to copy for by their rows, and hooks still do. `applied`
        says whether ovs-vswitchd has taken in the last transaction, and `known` whether it is known
        that that was made.
        """
        if self._due and not self._first and not known:
            self._waiting |= self._covered
            self._covered.clear()
            self.asked, self._due = True, False
        new = returning - self._returning.keys() - self._waiting - self._covered
        if new:
            self._waiting |= new
            self.asked = True
        self._waiting &= returning
        if self._due and applied:
            self._due = self._first = False
            started = begin()
            self._rounds.append(started)
            self._returning.update(dict.fromkeys(self._covered & returning, started))
            self._covered.clear()
        self._returning = {u: each for u, each in self._returning.items() if u in returning}
        return {u for u in returning if u not in self._returning or not self._returning[u].done}

    def run(self) -> bool:
        """Takes in what has happened; returns whether one has ended."""
        for each in self._rounds:
            each.run()
        under_way = [each for each in self._rounds if not each.done]
        ended = len(under_way) < len(self._rounds)
        self._rounds = under_way
        return ended

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        for each in self._rounds:
            each.wait(poller)

    def close(self) -> None:
        """Ends those that are under way."""
        for each in self._rounds:
            each.close()
        self._rounds = []

    @property
    def pending(self) -> bool:
        """Whether one is asked for, due or under way; without ovs-vswitchd none is under way."""
        return self.asked or self._due or any(not each.lost for each in self._rounds)
