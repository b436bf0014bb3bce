"""The loop: observe, decide, apply, on every event and every few seconds.

Events give speed; a full pass every `RESYNC` seconds gives truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import ovs.poller

from ovs_ebpf_tap.apply.datapath import Datapath
from ovs_ebpf_tap.daemon.observer import Observer
from ovs_ebpf_tap.daemon.reconciler import Reconciler
from ovs_ebpf_tap.daemon.scheduler import Scheduler
from ovs_ebpf_tap.daemon.statistics import MirrorStatistics
from ovs_ebpf_tap.daemon.statistics_writer import StatisticsWriter
from ovs_ebpf_tap.daemon.transitions import Transitions
from ovs_ebpf_tap.decide.planner import Planner
from ovs_ebpf_tap.decide.policing import CoolDown
from ovs_ebpf_tap.model.desired import CLSACT
from ovs_ebpf_tap.observe.devices import DeviceMonitor
from ovs_ebpf_tap.observe.ovsdb import Ovsdb
from ovs_ebpf_tap.observe.revalidation import Revalidation
from ovs_ebpf_tap.util.probes import probe
from ovs_ebpf_tap.util.reserve_fd import ReserveFd


class Sidecar:
    """Keeps the kernel's hooks and the Mirror rows as the user's rows want them.

    It never blocks; drive it with `step` and `wait`.
    """

    def __init__(
        self,
        ovsdb: Ovsdb,
        observer: Observer,
        datapath: Datapath,
        transitions: Transitions,
        statistics: MirrorStatistics,
        reconciler: Reconciler,
    ) -> None:
        """See `make`."""
        self._ovsdb = ovsdb
        self._observer = observer
        self._datapath = datapath
        self._transitions = transitions
        self._statistics = statistics
        self._reconciler = reconciler
        self._scheduler = Scheduler(time.monotonic())
        self._dirty = True
        """Whether there is something that calls for a pass."""
        self._failed = False
        """Whether the last pass failed."""
        self.on_first_pass: Callable[[], None] = lambda: None

    @classmethod
    def make(
        cls,
        ovsdb: Ovsdb,
        monitor: DeviceMonitor,
        datapath: Datapath,
        attach: str,
        ovs_run_dir: Path,
        writer: StatisticsWriter,
        reserve: ReserveFd,
        clsact_delay: float = 0.0,
    ) -> Self:
        """Puts the parts together; all that is given stays the caller's.

        `reserve` is lent to revalidations; `clsact_delay` is that of `CoolDown`, in seconds.
        """
        cool_down = CoolDown(clsact_delay if attach == CLSACT else 0.0)
        observer = Observer(ovsdb, monitor, ovs_run_dir, cool_down)
        transitions = Transitions(lambda bridges: Revalidation.begin(ovs_run_dir, bridges, reserve))
        statistics = MirrorStatistics(datapath, writer)
        reconciler = Reconciler(ovsdb, observer, Planner(attach), datapath, transitions, statistics)
        return cls(ovsdb, observer, datapath, transitions, statistics, reconciler)

    def step(self) -> None:
        """Takes in what happened and does what there is to do. Raises whatever goes wrong."""
        if self._scheduler.is_held(time.monotonic()):
            return
        seen, devices, hooks, freed = self._observer.run()
        self._dirty |= seen
        self._dirty |= self._reconciler.free(freed)
        now = time.monotonic()
        self._follow_statistics(now)
        due = self._scheduler.pass_is_due(now)
        if self._scheduler.take_look(now):
            hooks |= self._datapath.has_drifted()
        if hooks:
            self._reconciler.forget(hooks=True)
        self._dirty |= devices or hooks
        self._dirty |= self._transitions.run()
        if self._scheduler.take_resync(now):
            self._resync()
        if (self._dirty or due) and self._may_pass:
            self._dirty = False
            self._scheduler.begin_pass(now)
            self._pass(now)
        elif (devices or hooks or due) and self._ovsdb.away:
            self._scheduler.begin_pass(now)
            self._scheduler.pass_by(self._reconciler.follow_devices(now))

    def _resync(self) -> None:
        self._observer.refresh()
        self._reconciler.retry()
        self._reconciler.forget(hooks=True)
        self._dirty = True

    def _pass(self, now: float) -> None:
        first = not self._reconciler.passed
        self._scheduler.pass_by(self._reconciler.run(now))
        if first:
            self.on_first_pass()
        self._failed = False
        self._scheduler.note_success()
        probe("pass made")

    def _follow_statistics(self, now: float) -> None:
        """Takes in what ovs-vswitchd has written over ours, and counts on at once."""
        self._statistics.run()
        if not self._ovsdb.connected:
            self._statistics.rest()
        elif self._reconciler.passed and not self._statistics.holds:
            self._statistics.count(self._ovsdb.snapshot().mirrors, now)

    @property
    def _may_pass(self) -> bool:
        return self._ovsdb.connected and not self._ovsdb.busy

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `step` has something to do."""
        if self._scheduler.is_held(time.monotonic()):
            self._scheduler.wait_held(poller)
            return
        self._observer.wait(poller)
        self._statistics.wait(poller)
        self._transitions.wait(poller)
        # Where none may be made, the database wakes it up.
        self._scheduler.wait(poller, may_pass=self._may_pass)
        if self._dirty and self._may_pass:
            poller.immediate_wake()

    def close(self) -> None:
        """Closes the connections to Open vSwitch."""
        self._observer.close()
        self._transitions.close()

    # What is asked of it.

    def give_back_all(self) -> None:
        """Gives every mirror back from now on, whatever its mode."""
        self._reconciler.restoring = True
        self._wake()

    def record_all(self) -> None:
        """Leaves on record all that is counted from now on."""
        self._reconciler.ending = True
        self._wake()

    def _wake(self) -> None:
        """Has the next `step` make a whole pass."""
        self._dirty = True
        self._reconciler.forget()

    def pause(self, error: Exception) -> float:
        """After a failure: tries again with a full pass, in as many seconds as it returns."""
        self._reconciler.forget(hooks=True)
        self._dirty, self._failed = False, True
        return self._scheduler.note_failure(time.monotonic(), error)

    # What it says of itself.

    @property
    def moving(self) -> bool:
        """Whether a mirror is on its way to or from OVS, or a transaction is under way."""
        return self._transitions.under_way or self._reconciler.waits_for_rows or self._ovsdb.busy

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, nor to be done."""
        return self._reconciler.passed and not self._dirty and not self.moving

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
        decisions = self._reconciler.decisions
        return f"{decisions.offloaded} of {len(decisions)} mirrors offloaded"
