"""Missing and extra copies, computed from counters that are read while packets flow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edge:
    """One end of a run: copies, then copies due, then, after a pause, copies once more.

    A packet that was due before is copied by the end of the pause.
    """

    early: int
    due: int
    late: int


@dataclass(frozen=True)
class Account:
    """Copies and those due between two edges.

    `missing` and `extra` are sure: the least that explains the counters. `uncertain` copies were
    made while an edge was read, so that as many more may be missing or extra; none if the
    traffic rested then.
    """

    copies: int
    due: int
    missing: int
    extra: int
    uncertain: int

    @property
    def exact(self) -> bool:
        """Whether each copy due was made once, as far as counters tell."""
        return not self.missing and not self.extra


def account(begin: Edge, end: Edge) -> Account:
    """Compares what was copied with what was due.

    Whatever became due in between is copied from `begin.early` to `end.late`, and what was copied
    from `begin.late` to `end.early` became due in between.
    """
    due = end.due - begin.due
    most = end.late - begin.early
    least = max(0, end.early - begin.late)
    return Account(
        copies=end.early - begin.early,
        due=due,
        missing=max(0, due - most),
        extra=max(0, least - due),
        uncertain=most - least,
    )
