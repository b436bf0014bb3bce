"""One pass: observe, decide, apply.

A pass changes the kernel at once and starts at most one transaction; the next pass follows when
that has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from uuid import UUID

import structlog

from ovs_ebpf_tap.apply.datapath import Datapath
from ovs_ebpf_tap.daemon.decision_log import DecisionLog
from ovs_ebpf_tap.daemon.observer import Observation, Observer
from ovs_ebpf_tap.daemon.refusals import Refusals
from ovs_ebpf_tap.daemon.statistics import MirrorStatistics
from ovs_ebpf_tap.daemon.transitions import Transitions
from ovs_ebpf_tap.decide.conflicts import Writers
from ovs_ebpf_tap.decide.handover import next_edits
from ovs_ebpf_tap.decide.modes import wanted
from ovs_ebpf_tap.decide.planner import Planner
from ovs_ebpf_tap.decide.recreations import Recreations
from ovs_ebpf_tap.decide.remembered_modes import mode_edits, with_remembered
from ovs_ebpf_tap.model.desired import OFFLOAD, OFFLOADED, OffloadDecision, Plan
from ovs_ebpf_tap.model.rows import MODE_KEY, Database
from ovs_ebpf_tap.model.surroundings import Surroundings
from ovs_ebpf_tap.model.transaction import Transaction
from ovs_ebpf_tap.observe.ovsdb import Ovsdb

_IMPROVE = 0.01
"""Seconds before hooks are given faster programs, and from one look at them to the next."""

log = structlog.get_logger()

_Decisions = Mapping[UUID, OffloadDecision]


class Reconciler:
    """Makes the kernel's hooks and the Mirror rows what the user's rows ask for."""

    def __init__(
        self,
        ovsdb: Ovsdb,
        observer: Observer,
        planner: Planner,
        datapath: Datapath,
        transitions: Transitions,
        statistics: MirrorStatistics,
    ) -> None:
        self._ovsdb = ovsdb
        self._observer = observer
        self._planner = planner
        self._datapath = datapath
        self._transitions = transitions
        self._statistics = statistics
        self._refusals = Refusals()
        self._writers = Writers()
        self._recreations = Recreations()
        self._stale = False
        """Whether the kernel may have other hooks than we know of."""
        self._done: Observation | None = None
        """What the last pass saw, if it left nothing to be done."""
        self.decisions = DecisionLog()
        self.passed = False
        """Whether a pass was made."""
        self.restoring = False
        """Give every mirror back, whatever its mode."""
        self.ending = False
        """Leave on record all that was counted."""

    def forget(self, *, hooks: bool = False) -> None:
        """Has the next pass be a whole one; with `hooks`, it reads the kernel's hooks back."""
        self._done = None
        self._stale |= hooks

    def free(self, ifindexes: Collection[int]) -> bool:
        """Has refused hooks of these devices tried again; returns whether there are any."""
        return self._refusals.forget(ifindexes)

    def retry(self) -> None:
        """Has the next pass plan again what failed by a fault of ours."""
        self._planner.retry()

    def run(self, now: float) -> float:
        """Makes a pass; returns when the next is due, by the monotonic clock. Raises OSError."""
        self._read_back()
        seen = self._observer.observe(now)
        seamless = self._take_over(seen.db, now)
        self._statistics.count(seen.db.mirrors, now)
        if seen == self._done and not self._statistics.unrecorded:
            return self._observer.wake
        self._done = None
        db = self._intended(seen.db, now)
        at_once = wanted(db, seamless)
        if at_once:
            # To plan may take long, and Open vSwitch copies, too.
            self._write(self._next_edits(seen, db, dict.fromkeys(at_once, OFFLOAD)), now)
            return now
        planned = self._with_lingering(db)
        self._transitions.look_for_outputs(db)
        seen = replace(seen, openflow=self._observer.follow_flows(planned))
        plan = self._apply(replace(seen, db=planned), self._held, now)
        self._statistics.count(seen.db.mirrors, now)
        said = self.decisions.report(planned, plan.decisions, now)
        early = self._transitions.early(planned, plan) | self._writers.resting(now)
        decided = {u: d for u, d in plan.decisions.items() if u not in early}
        edits = self._next_edits(seen, db, decided)
        if edits:
            self._write(edits, now)
        if said and not edits and not early and not self._is_waiting(now):
            self._done = seen
        self.passed = True
        improve = now + _IMPROVE if self._datapath.unfinished else float("inf")
        return min(self._observer.wake, self._transitions.wake, self._recreations.wake, improve)

    def follow_devices(self, now: float) -> float:
        """Has the hooks of mirrors that are parked follow their devices while the database is away.

        No mirror is taken over or given back: whether Open vSwitch copies is not to be told.
        Returns as `run` does.
        """
        self._done = None
        self._read_back()
        seen = self._observer.observe(now)
        native = {uuid for uuid, mirror in seen.db.mirrors.items() if not mirror.parked}
        seen = replace(seen, db=_as_native(seen.db, native), reserved={})
        self._apply(seen, self._not_offloaded, now)
        return self._observer.wake

    def _read_back(self) -> None:
        if self._stale:
            self._datapath.ensure_pins()
            self._datapath.read()
            self._stale = False
            self._done = None

    @property
    def waits_for_rows(self) -> bool:
        """Whether hooks stay for rows that are gone, and may come again."""
        return bool(self._recreations.lingering or self._recreations.orphans)

    def _take_over(self, db: Database, now: float) -> set[UUID]:
        """Has new rows go on where those that they are in the place of have ended.

        Returns those that hooks copy for already as they ask.
        """
        successors = self._recreations.look(db, self._datapath.mirrors, now)
        for each in successors:
            self._datapath.hand_over(each.former, each.mirror)
            mirror, bridge = db.mirrors[each.mirror].name, db.bridge_names.get(each.mirror)
            log.info("mirror's row was made anew", mirror=mirror, bridge=bridge)
        self._statistics.take_over(
            {each.former: each.mirror for each in successors}, self._recreations.lingering
        )
        return {each.mirror for each in successors if each.seamless} & self._datapath.mirrors

    def _with_lingering(self, db: Database) -> Database:
        """The rows, and those that are gone, but whose hooks stay."""
        if self.restoring:
            return db
        return self._recreations.with_lingering(db, self._datapath.mirrors)

    def _intended(self, db: Database, now: float) -> Database:
        """The rows, with what we want ourselves, and what other writers have undone."""
        db = with_remembered(db)
        if self.restoring:
            db = _as_native(db, db.mirrors.keys())
        return self._writers.look(db, now)

    def _apply(
        self,
        seen: Observation,
        choose_held: Callable[[Database, _Decisions], set[UUID]],
        now: float,
    ) -> Plan:
        """Plans, and makes the kernel so; what it refuses is planned anew without."""
        self._refusals.expire(now)
        hidden = self._observer.hidden(seen)
        surroundings = Surroundings(seen.others, seen.reserved)
        while True:
            plan = self._planner.plan(
                seen.db,
                seen.devices,
                {**self._refusals.reasons, **hidden},
                seen.openflow,
                surroundings,
                self._refusals.unplaced,
            )
            held = choose_held(seen.db, plan.decisions)
            refused = self._datapath.sync(plan.hooks, held, hw_offload=seen.db.hw_offload)
            if not self._refusals.note(refused, self._datapath.unplaced, now):
                return plan

    def _held(self, db: Database, decisions: _Decisions) -> set[UUID]:
        """The mirrors that are not offloaded, but that OVS may not copy for yet."""
        held = self._transitions.held(
            db,
            decisions,
            self._datapath.mirrors,
            applied=self._ovsdb.applied(db),
            known=self._ovsdb.last_reconfigure != 0,
        )
        return held if self.restoring else held | self._recreations.orphans

    def _not_offloaded(self, db: Database, decisions: _Decisions) -> set[UUID]:
        """The mirrors with a slot in the maps that are not to be offloaded."""
        return {
            uuid
            for uuid in self._datapath.mirrors
            if uuid not in decisions or decisions[uuid].state != OFFLOADED
        }

    def _next_edits(self, seen: Observation, db: Database, decisions: _Decisions) -> Transaction:
        unrecorded = self._statistics.to_record(ending=self.ending)
        edits = next_edits(db, decisions, self._statistics.records(), unrecorded)
        modes = mode_edits(seen.db)
        edits = replace(edits, mirrors=(*modes.mirrors, *edits.mirrors), bridges=modes.bridges)
        return self._transitions.with_request(edits)

    def _write(self, edits: Transaction, now: float) -> None:
        self._writers.note(edits, now)
        self._transitions.note(edits)
        self._ovsdb.commit(edits)

    def _is_waiting(self, now: float) -> bool:
        """Whether there is more to be done though nothing happens."""
        return bool(
            self._transitions.returning
            or self.waits_for_rows
            or self._refusals
            or self._datapath.unfinished
            or self._datapath.stuck
            or self._writers.is_contended(now)
        )


def _as_native(db: Database, chosen: Collection[UUID]) -> Database:
    """The rows as if the user had set the mode of these mirrors to native."""
    mirrors = {
        uuid: replace(mirror, external_ids={**mirror.external_ids, MODE_KEY: "native"})
        if uuid in chosen
        else mirror
        for uuid, mirror in db.mirrors.items()
    }
    return replace(db, mirrors=mirrors)
