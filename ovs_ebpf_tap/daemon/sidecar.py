"""The loop: observe, decide, apply, on every event and every few seconds.

Events give speed; a full pass every `RESYNC` seconds gives truth. A pass changes the kernel at
once and starts at most one transaction; the next pass follows when that has ended. What is seen
comes as the same objects while it is the same, so that a pass that finds nothing new costs little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from errno import EMFILE, ENFILE, ENOMEM
from functools import partial
from operator import is_
from pathlib import Path
from typing import Self
from uuid import UUID

import ovs.poller
import structlog

from ovs_ebpf_tap.apply import datapath as dp
from ovs_ebpf_tap.daemon.revalidations import Revalidations
from ovs_ebpf_tap.daemon.statistics_writer import StatisticsWriter
from ovs_ebpf_tap.decide import handover
from ovs_ebpf_tap.decide.conflicts import Writers
from ovs_ebpf_tap.decide.planner import Planner, bridges_with_work
from ovs_ebpf_tap.decide.policing import CoolDown
from ovs_ebpf_tap.decide.topology import OpenFlow
from ovs_ebpf_tap.decide.totals import Totals
from ovs_ebpf_tap.model.desired import CLSACT, OFFLOAD, OFFLOADED, OffloadDecision, Plan
from ovs_ebpf_tap.model.reasons.packets import FLOWS_UNKNOWN
from ovs_ebpf_tap.model.reasons.ports import HOOK_REFUSED
from ovs_ebpf_tap.model.rows import MODE_KEY, SELECT_VLAN_KEY, Database, bridges_of_datapaths
from ovs_ebpf_tap.model.surroundings import Surroundings
from ovs_ebpf_tap.model.transaction import Transaction
from ovs_ebpf_tap.observe.departures import Departures
from ovs_ebpf_tap.observe.devices import DeviceMonitor
from ovs_ebpf_tap.observe.flow_tables import FlowTables
from ovs_ebpf_tap.observe.hw_offload import HwOffload
from ovs_ebpf_tap.observe.openings import Openings
from ovs_ebpf_tap.observe.ovsdb import Ovsdb
from ovs_ebpf_tap.observe.packet_sockets import SocketDrain
from ovs_ebpf_tap.observe.revalidation import Revalidation
from ovs_ebpf_tap.observe.vswitchd import seconds_since_start
from ovs_ebpf_tap.util.probes import probe
from ovs_ebpf_tap.util.reserve_fd import ReserveFd
from ovs_ebpf_tap.util.timers import next_tick, wake_at

RESYNC = 60.0
"""Seconds between full passes, which read everything back from the kernel."""

STATISTICS = 1.0
"""Seconds between looks at the counters."""

LOOK = 0.5
"""Seconds between looks for what somebody removed without a notification."""

_REFUSAL = 5.0
"""Seconds after which a hook that the kernel refused is tried again."""

_FAILURE = 0.5
"""Seconds before a pass that failed, or a hook that lacked something of ours, is tried again."""

_MAX_FAILURE = 30.0
"""The same after a fault of ours that comes again and again."""

_OUR_OWN = (EMFILE, ENFILE, ENOMEM)
"""Errors that tell nothing of the device."""

_FLOW_TABLES = 1.0
"""Seconds before it is said that a bridge's flow tables are not known."""

_IMPROVE = 0.01
"""Seconds before hooks are given faster programs, and from one look at them to the next."""

_OVERWRITTEN_GAP = 0.2
"""Least seconds between two writes of statistics that somebody writes over."""

_STATISTICS_GAP = 5.0
"""The same where they are ours, and only older: ovs-vswitchd's `stats-update-interval`."""

log = structlog.get_logger()


@dataclass(frozen=True)
class _Refusal:
    reason: str
    until: float

    @classmethod
    def of(cls, error: OSError, now: float) -> Self:
        pause = _FAILURE if error.errno in _OUR_OWN else _REFUSAL
        return cls(HOOK_REFUSED.told(error=error.strerror), now + pause)


class Sidecar:
    """Keeps the kernel's hooks and the Mirror rows as the user's rows want them."""

    def __init__(
        self,
        ovsdb: Ovsdb,
        monitor: DeviceMonitor,
        datapath: dp.Datapath,
        attach: str,
        ovs_run_dir: Path,
        statistics: StatisticsWriter,
        clsact_delay: float = 0.0,
    ) -> None:
        """`clsact_delay` is that of `CoolDown`, in seconds."""
        self._ovsdb = ovsdb
        self._statistics = statistics
        self._monitor = monitor
        self._datapath = datapath
        self._planner = Planner(attach)
        self._ovs_run_dir = ovs_run_dir
        self._flow_tables = FlowTables(ovs_run_dir)
        self._openflow = OpenFlow()
        self._hw_offload = HwOffload(ovs_run_dir)
        self._departures = Departures(ovs_run_dir)
        self._openings = Openings(partial(seconds_since_start, ovs_run_dir))
        self._cooling = CoolDown(clsact_delay if attach == CLSACT else 0.0)
        self._ports: tuple[tuple[object, ...], frozenset[int]] = ((), frozenset())
        """The devices of ports, by ifindex, and what they were found in."""
        self._refused: dict[int, _Refusal] = {}
        self._unplaced: dict[UUID, float] = {}
        """The mirrors that found no place in the maps, and until when none is looked for."""
        self._states: dict[UUID, OffloadDecision] = {}
        self._offloaded = 0
        self._unknown: dict[UUID, float] = {}
        self._revalidations = Revalidations()
        self._outputs: Mapping[UUID, UUID | None] = {}
        """The output ports of the mirrors that were parked."""
        self._spare = ReserveFd()
        self._spare.keep()
        self._settling = False
        self._writers = Writers()
        self._stale = False
        self._dirty = True
        self._next_resync = time.monotonic() + RESYNC
        self._next_look = 0.0
        self._next_statistics = 0.0
        self._totals = Totals()
        self._counted: tuple[object, ...] | None = None
        """What was counted last, if the rows show it."""
        self._last_hold = 0.0
        """When statistics were written last."""
        self._draining: dict[UUID, SocketDrain] = {}
        self._done: tuple[object, ...] = ()
        """What the last pass saw, if it left nothing to be done."""
        self.restoring = False
        """Give every mirror back, whatever its mode."""
        self.ending = False
        """Leave on record all that was counted."""
        self.on_first_pass: Callable[[], None] = lambda: None
        self._passed = False
        self._failed = False
        """Since the last pass."""
        self._backoff = 0.0
        """Seconds to wait after a fault of ours; 0 if the last pass had none."""
        self._retry_at = 0.0

    def step(self) -> None:
        """Takes in what happened and does what there is to do; never blocks."""
        if time.monotonic() < self._retry_at:
            return
        self._dirty |= self._ovsdb.run()
        if self._flow_tables.run():
            self._openflow = OpenFlow(self._flow_tables.traits, self._flow_tables.port_flags)
            self._dirty = True
        others = self._monitor.others
        changes = self._monitor.run()
        if changes.left:
            self._departures.note(changes.left, self._ovsdb.snapshot())
        for ifindex in changes.freed & self._refused.keys():
            del self._refused[ifindex]
            self._dirty = True
        now = time.monotonic()
        self._take_statistics(now)
        self._cooling.begin(changes.appeared, "is new", now)
        self._cooling.begin(changes.freed, "has lost its ingress qdisc", now)
        self._dirty |= others is not self._monitor.others
        due = now >= self._next_statistics
        hooks = changes.hooks
        if now >= self._next_look:
            self._next_look = next_tick(now, LOOK)
            hooks |= self._datapath.is_disturbed()
        self._dirty |= changes.devices or hooks
        self._stale |= hooks
        self._dirty |= self._revalidations.run()
        if now >= self._next_resync:
            self._monitor.refresh()
            self._hw_offload.refresh()
            self._planner.retry()
            self._departures.refresh()
            self._openings.refresh()
            self._stale = self._dirty = True
            self._next_resync = now + RESYNC
        if (self._dirty or due) and self._may_pass:
            self._dirty = False
            self._next_statistics = next_tick(now, STATISTICS)
            self._pass(now)
            probe("pass made")
            self._failed = False
            self._backoff = 0.0
        elif (changes.devices or hooks or due) and self._ovsdb.away:
            self._next_statistics = next_tick(now, STATISTICS)
            self._follow_devices(now)

    @property
    def _may_pass(self) -> bool:
        return self._ovsdb.connected and not self._ovsdb.busy

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `step` has something to do."""
        if time.monotonic() < self._retry_at:
            wake_at(poller, self._retry_at)
            return
        self._ovsdb.wait(poller)
        self._statistics.wait(poller)
        self._flow_tables.wait(poller)
        poller.fd_wait(self._monitor.fileno(), ovs.poller.POLLIN)
        self._revalidations.wait(poller)
        # Else the database wakes it up.
        due = [self._next_statistics] if self._may_pass else []
        wake_at(poller, min([self._next_resync, self._next_look, *due]))
        if self._dirty and self._may_pass:
            poller.immediate_wake()

    def close(self) -> None:
        """Closes the connections to Open vSwitch."""
        self._flow_tables.close()
        self._revalidations.close()
        self._spare.lend()

    def wake(self) -> None:
        """Has the next `step` make a whole pass."""
        self._dirty = True
        self._done = ()

    def pause(self, error: Exception) -> float:
        """After a failure: tries again with a full pass, in as many seconds as it returns.

        What the system refuses, it may grant in a moment. A fault of ours may come again at each
        event: nothing is done meanwhile.
        """
        now = time.monotonic()
        self._stale, self._dirty, self._failed = True, False, True
        self._done = ()
        pause = _FAILURE
        if not isinstance(error, OSError):
            pause = self._backoff = min(max(_FAILURE, 2 * self._backoff), _MAX_FAILURE)
            self._retry_at = now + pause
        self._next_statistics = now + pause
        return pause

    @property
    def moving(self) -> bool:
        """Whether a mirror is on its way to or from OVS, or a transaction is under way."""
        return self._settling or bool(self._draining) or self._ovsdb.busy

    @property
    def healthy(self) -> bool:
        """Whether passes succeed, or it is the database's fault that there are none."""
        return not self._failed or not self._ovsdb.connected

    @property
    def summary(self) -> str:
        """What it does, in a few words for people."""
        if self._ovsdb.locked_out:
            return "another ovs-ebpf-tap has the database's lock: waiting for it"
        if not self._ovsdb.connected:
            return "waiting for the database"
        if self._failed:
            return "the last pass failed: see the log"
        return f"{self._offloaded} of {len(self._states)} mirrors offloaded"

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, nor to be done."""
        return self._passed and not self._dirty and not self.moving

    # One pass.

    def _pass(self, now: float) -> None:
        db = self._ovsdb.snapshot()
        self._read_back()
        in_force = self._look(db)
        self._monitor.follow(self._followed(in_force))
        reserved = self._cooling.reserved(now)
        misnamed = self._openings.misnamed
        seen = (db, self._monitor.devices, misnamed, self._openflow, self._monitor.others, reserved)
        self._count(db, now)
        if list(map(id, seen)) == list(map(id, self._done)):
            return
        db = in_force
        if self.restoring:
            db = _as_native(db, db.mirrors.keys())
        db = self._writers.look(db, now)
        self._look_for_outputs(db)
        plan = self._apply(db, now, self._held, reserved)
        if self._datapath.unfinished:
            self._next_statistics = min(self._next_statistics, now + _IMPROVE)
        self._flow_tables.watch(bridges_with_work(db))
        self._count(db, now)
        said = self._report(db, plan, now)
        early = self._early(db, plan) | self._writers.resting(now)
        decisions = {uuid: each for uuid, each in plan.decisions.items() if uuid not in early}
        edits = self._next_edits(db, decisions)
        if edits:
            self._write(edits, now)
        waiting = (
            early
            or self._settling
            or self._refused
            or self._unplaced
            or self._datapath.unfinished
            or self._datapath.stuck
            or self._writers.is_contended(now)
        )
        if said and not waiting and not edits:
            self._done = seen
        if not self._passed:
            self._passed = True
            self.on_first_pass()

    def _look(self, db: Database) -> Database:
        """The rows, with what they do not say of Open vSwitch."""
        devices = self._monitor.devices
        db = self._openings.look(self._hw_offload.look(db), devices)
        self._next_statistics = min(self._next_statistics, self._openings.wake)
        return self._departures.look(db, devices)

    def _followed(self, db: Database) -> frozenset[int]:
        """The devices where others' filters matter: those of ports.

        With hw-offload, Open vSwitch's own flows are there, thousands of them.
        """
        if db.hw_offload:
            return frozenset()
        devices = self._monitor.devices
        seen, found = self._ports
        if list(map(id, seen)) != [id(db.interfaces), id(devices)]:
            rows = db.interfaces.values()
            found = frozenset(devices[row.name].ifindex for row in rows if row.name in devices)
            found |= {row.bound for row in rows if row.bound}
            self._ports = ((db.interfaces, devices), found)
        return found

    def _take_statistics(self, now: float) -> None:
        """Takes in what ovs-vswitchd has written over ours, and counts on at once."""
        overwritten = self._statistics.run()
        if not self._ovsdb.connected and self._statistics.held:
            self._statistics.rest()  # Another sidecar may write them by now.
            self._counted = None
        for uuid, statistics in overwritten.items():
            self._totals.observe(uuid, statistics)
            self._counted = None
        if self._passed and self._ovsdb.connected and not self._statistics.holds:
            self._count(self._ovsdb.snapshot(), now)

    def _count(self, db: Database, now: float) -> None:
        """Has the rows' statistics follow what is counted."""
        counters, ended = self._datapath.counters(), self._datapath.take_ended()
        seen = (db.mirrors, counters)
        same = self._counted is not None and all(map(is_, self._counted, seen))
        if same and not ended and self._statistics.holds:
            return
        self._totals.end(ended)
        self._totals.look(db.mirrors, counters)
        values, held = self._totals.statistics(), self._statistics.held
        stale = {
            uuid
            for uuid in values.keys() & held.keys()
            if uuid in db.mirrors and db.mirrors[uuid].statistics != held[uuid]
        }
        overwritten = bool(stale) or not self._statistics.holds
        gap = _OVERWRITTEN_GAP if overwritten else _STATISTICS_GAP
        due = now >= self._last_hold + gap and (overwritten or values != held)
        if due or values.keys() != held.keys():
            self._last_hold = now
            self._statistics.hold(values, stale)
        unrecorded = self._totals.unrecorded()
        if unrecorded:
            self._done = ()
        done = not unrecorded and not stale and values == self._statistics.held
        self._counted = seen if done else None

    def _next_edits(self, db: Database, decisions: Mapping[UUID, OffloadDecision]) -> Transaction:
        records, unrecorded = self._totals.records(), self._totals.unrecorded(ending=self.ending)
        edits = handover.next_edits(db, decisions, records, unrecorded)
        return replace(edits, reconfigure=True) if self._revalidations.asked else edits

    def _write(self, edits: Transaction, now: float) -> None:
        self._writers.note(edits, now)
        if edits.reconfigure:
            self._revalidations.written(edit.mirror for edit in edits.mirrors if edit.gives_back)
        self._ovsdb.commit(edits)

    def _look_for_outputs(self, db: Database) -> None:
        """Running flows do not know which ports are reserved for copies now."""
        rows = db.mirrors
        if any(u not in rows or rows[u].output_port != port for u, port in self._outputs.items()):
            self._revalidations.ask()
        self._outputs = {u: mirror.output_port for u, mirror in rows.items() if mirror.parked}

    def _read_back(self) -> None:
        if self._stale:
            self._datapath.ensure_pins()
            self._datapath.read()
            self._stale = False
            self._done = ()

    def _follow_devices(self, now: float) -> None:
        """Has the hooks of mirrors that are parked follow their devices while the database is away.

        No mirror is taken over or given back: whether Open vSwitch copies is not to be told.
        """
        self._read_back()
        self._done = ()
        db = self._look(self._ovsdb.snapshot())
        native = {uuid for uuid, mirror in db.mirrors.items() if not mirror.parked}
        self._apply(_as_native(db, native), now, self._not_offloaded, {})

    def _not_offloaded(self, db: Database, decisions: Mapping[UUID, OffloadDecision]) -> set[UUID]:
        """The mirrors with a place in the maps that are not to be offloaded."""
        return {
            uuid
            for uuid in self._datapath.mirrors
            if uuid not in decisions or decisions[uuid].state != OFFLOADED
        }

    def _early(self, db: Database, plan: Plan) -> set[UUID]:
        """The mirrors that are to be parked, but not yet: OVS has yet to copy what waits for it."""
        parking = {
            uuid
            for uuid, decision in plan.decisions.items()
            if decision.state == OFFLOADED and not db.mirrors[uuid].parked
        }
        new = parking - self._draining.keys()
        if new:
            self._draining.update(dict.fromkeys(new, SocketDrain.begin(_arrivals(plan, new))))
        self._draining = {uuid: self._draining[uuid] for uuid in parking}
        waits = set(self._draining.values())
        for each in waits:
            each.run()
        wakes = [each.wake for each in waits if not each.done]
        self._next_statistics = min([self._next_statistics, *wakes])
        return {uuid for uuid, each in self._draining.items() if not each.done}

    def _apply(
        self,
        db: Database,
        now: float,
        choose_held: Callable[[Database, Mapping[UUID, OffloadDecision]], set[UUID]],
        reserved: Mapping[int, str],
    ) -> Plan:
        """Plans, and makes the kernel so; what it refuses is planned anew without."""
        self._refused = {i: r for i, r in self._refused.items() if r.until > now}
        self._unplaced = {uuid: until for uuid, until in self._unplaced.items() if until > now}
        devices = self._monitor.devices
        hidden = self._hw_offload.hidden(devices) if db.hw_offload else {}
        surroundings = Surroundings(self._monitor.others, reserved)
        while True:
            refusals = {ifindex: refusal.reason for ifindex, refusal in self._refused.items()}
            reasons = {**refusals, **hidden}
            unplaced = frozenset(self._unplaced)
            plan = self._planner.plan(db, devices, reasons, self._openflow, surroundings, unplaced)
            held = choose_held(db, plan.decisions)
            refused = self._datapath.sync(plan.hooks, held, hw_offload=db.hw_offload)
            new = refused.keys() - self._refused.keys()
            for ifindex in new:
                self._refused[ifindex] = _Refusal.of(refused[ifindex], now)
            no_place = self._datapath.unplaced - unplaced
            self._unplaced |= dict.fromkeys(no_place, now + _FAILURE)
            if not new and not no_place:
                return plan

    def _held(self, db: Database, decisions: Mapping[UUID, OffloadDecision]) -> set[UUID]:
        """The mirrors that are not offloaded, but that OVS may not copy for yet."""
        rows = {
            uuid: db.mirrors[uuid]
            for uuid in self._datapath.mirrors & decisions.keys() & db.mirrors.keys()
            if decisions[uuid].state != OFFLOADED
        }
        parked = {
            uuid for uuid, row in rows.items() if row.parked or SELECT_VLAN_KEY in row.external_ids
        }
        held = parked | self._revalidations.look(
            rows.keys() - parked,
            self._ovsdb.applied(db),
            self._ovsdb.last_reconfigure != 0,
            lambda: Revalidation.begin(self._ovs_run_dir, bridges_of_datapaths(db), self._spare),
        )
        self._settling = bool(held) or self._revalidations.pending
        return held

    def _report(self, db: Database, plan: Plan, now: float) -> bool:
        """Logs what changed of each mirror's state; returns whether all is said."""
        reason = FLOWS_UNKNOWN.told()
        unknown = {uuid for uuid, each in plan.decisions.items() if each.reason == reason}
        self._unknown = {uuid: self._unknown.get(uuid, now) for uuid in unknown}
        states = {}
        for uuid, decision in plan.decisions.items():
            if self._unknown.get(uuid, 0.0) + _FLOW_TABLES > now:
                continue  # Hardly seen, and mostly no news in a moment.
            states[uuid] = decision
            if self._states.get(uuid) != decision:
                name = db.mirrors[uuid].name
                if decision == OFFLOAD:
                    log.info("mirror offloaded", mirror=name)
                elif decision.state == OFFLOADED:
                    log.warning(
                        "mirror offloaded, but copies nothing", mirror=name, reason=decision.reason
                    )
                else:
                    log.warning("mirror not offloaded", mirror=name, reason=decision.reason)
        self._states = states
        self._offloaded = sum(decision.state == OFFLOADED for decision in states.values())
        return len(states) == len(plan.decisions)


def _arrivals(plan: Plan, mirrors: set[UUID]) -> set[int]:
    """The devices whose hooks copy for these mirrors what arrives."""
    return {
        hook.ifindex
        for hook, rules in plan.hooks.items()
        if any(rule.arrival and rule.mirror in mirrors for rule in rules)
    }


def _as_native(db: Database, chosen: Collection[UUID]) -> Database:
    """The rows as if the user had set the mode of these mirrors to native."""
    mirrors = {
        uuid: replace(mirror, external_ids={**mirror.external_ids, MODE_KEY: "native"})
        if uuid in chosen
        else mirror
        for uuid, mirror in db.mirrors.items()
    }
    return replace(db, mirrors=mirrors)
