"""Has the rows' statistics follow what Open vSwitch and the hooks have counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol
from uuid import UUID

import ovs.poller

from ovs_ebpf_tap.daemon.statistics_writer import Statistics
from ovs_ebpf_tap.decide.totals import Totals
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.rows import Mirror

_OVERWRITTEN_GAP = 0.2
"""Least seconds between two writes of statistics that somebody writes over."""

_STATISTICS_GAP = 5.0
"""The same where they are ours, and only older: ovs-vswitchd's `stats-update-interval`."""


class CounterSource(Protocol):
    """Counts the copies of hooks: see `Datapath`."""

    def counters(self) -> Mapping[UUID, Counters]:
        """What was counted for each mirror."""

    def take_ended(self) -> Mapping[UUID, Counters]:
        """The last counts of mirrors that have lost their hooks, each returned once."""


class Writer(Protocol):
    """Writes the rows' statistics: see `StatisticsWriter`."""

    held: Mapping[UUID, Statistics]

    @property
    def holds(self) -> bool:
        """Whether nothing is to be done so that the rows show what they are to show."""

    def run(self) -> Mapping[UUID, Statistics]:
        """What was written over the rows."""

    def hold(self, values: Mapping[UUID, Statistics], stale: set[UUID]) -> None:
        """Has the rows show these."""

    def rest(self) -> None:
        """Writes nothing more."""

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""


class MirrorStatistics:
    """Counts, and writes what is counted."""

    def __init__(self, counted: CounterSource, writer: Writer) -> None:
        self._source = counted
        self._writer = writer
        self._totals = Totals()
        self._counted: tuple[Mapping[UUID, Mirror], Mapping[UUID, Counters]] | None = None
        """The rows and counters that were counted last, if the rows show that."""
        self._last_hold = 0.0
        """When statistics were written last, by the monotonic clock."""
        self.unrecorded = False
        """Whether a row is to have its total on record, which takes a pass."""

    def run(self) -> None:
        """Takes in what ovs-vswitchd has written over ours."""
        for uuid, statistics in self._writer.run().items():
            self._totals.observe(uuid, statistics)
            self._counted = None

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        self._writer.wait(poller)

    @property
    def holds(self) -> bool:
        """Whether the rows show what they are to show, as far as we know: `count` if not."""
        return self._writer.holds

    def rest(self) -> None:
        """Writes nothing while the database is away: another sidecar may write by now."""
        if self._writer.held:
            self._writer.rest()
            self._counted = None

    def count(self, mirrors: Mapping[UUID, Mirror], now: float) -> None:
        """Counts, and has the rows show it; costs little if nothing was copied."""
        counters, ended = self._source.counters(), self._source.take_ended()
        seen = (mirrors, counters)
        if seen == self._counted and not ended and self._writer.holds:
            return
        self._totals.end(ended)
        self._totals.look(mirrors, counters)
        values, held = self._totals.statistics(), self._writer.held
        stale = {
            uuid
            for uuid in values.keys() & held.keys()
            if uuid in mirrors and mirrors[uuid].statistics != held[uuid]
        }
        overwritten = bool(stale) or not self._writer.holds
        gap = _OVERWRITTEN_GAP if overwritten else _STATISTICS_GAP
        due = now >= self._last_hold + gap and (overwritten or values != held)
        if due or values.keys() != held.keys():
            self._last_hold = now
            self._writer.hold(values, stale)
        self.unrecorded = bool(self._totals.unrecorded())
        done = not self.unrecorded and not stale and values == self._writer.held
        self._counted = seen if done else None

    def take_over(self, successors: Mapping[UUID, UUID], lingering: Collection[UUID]) -> None:
        """As `Totals.take_over`; the source counts on for the rows in others' places."""
        self._totals.take_over(successors, lingering)

    def records(self) -> Mapping[UUID, str]:
        """Each mirror's total as its row is to have it on record."""
        return self._totals.records()

    def to_record(self, *, ending: bool) -> set[UUID]:
        """The mirrors whose total is to be put on record; `ending`, all that was counted is."""
        return self._totals.unrecorded(ending=ending)
