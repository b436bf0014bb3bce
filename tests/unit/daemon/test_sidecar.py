"""The loop: which events and times lead to a pass, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest
from builders import Clock, World, switch
from fake_sidecar import FakeDatapath, FakeObserver, FakeOvsdb, FakeRevalidation, FakeWriter

from ovs_ebpf_tap.apply.datapath import Datapath
from ovs_ebpf_tap.daemon import sidecar as module
from ovs_ebpf_tap.daemon.decision_log import DecisionLog
from ovs_ebpf_tap.daemon.observer import Events, Observer
from ovs_ebpf_tap.daemon.reconciler import Reconciler
from ovs_ebpf_tap.daemon.sidecar import Sidecar
from ovs_ebpf_tap.daemon.statistics import MirrorStatistics
from ovs_ebpf_tap.daemon.transitions import Transitions
from ovs_ebpf_tap.observe.ovsdb import Ovsdb


@dataclass
class FakeReconciler:
    """Notes its passes, and fails if it is told to."""

    passed: bool = False
    restoring: bool = False
    ending: bool = False
    waits_for_rows: bool = False
    decisions: DecisionLog = field(default_factory=DecisionLog)
    error: Exception | None = None
    runs: int = 0
    followed: int = 0
    forgotten: list[bool] = field(default_factory=list)
    wake: float = float("inf")

    def run(self, now: float) -> float:
        self.runs += 1
        if self.error is not None:
            raise self.error
        self.passed = True
        return self.wake

    def follow_devices(self, now: float) -> float:
        self.followed += 1
        return self.wake

    def forget(self, *, hooks: bool = False) -> None:
        self.forgotten.append(hooks)

    def free(self, ifindexes: frozenset[int]) -> bool:
        return bool(ifindexes)

    def retry(self) -> None:
        pass


class SidecarBench:
    """A sidecar without anything around it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world: World = switch()
        self.clock = Clock()
        monkeypatch.setattr(module, "time", self.clock)
        self.ovsdb = FakeOvsdb(world)
        self.observer = FakeObserver(world)
        self.datapath = FakeDatapath()
        self.reconciler = FakeReconciler()
        self.firsts = 0
        self.sidecar = Sidecar(
            cast(Ovsdb, self.ovsdb),
            cast(Observer, self.observer),
            cast(Datapath, self.datapath),
            Transitions(lambda _: FakeRevalidation()),
            MirrorStatistics(self.datapath, FakeWriter()),
            cast(Reconciler, self.reconciler),
        )
        self.sidecar.on_first_pass = self._count_first
        self.sidecar.step()

    def _count_first(self) -> None:
        self.firsts += 1

    def runs(self, seconds: float = 0.0, events: Events | None = None) -> int:
        """How many passes a step makes, so much later and with these events."""
        self.clock.now += seconds
        if events is not None:
            self.observer.events = events
        before = self.reconciler.runs
        self.sidecar.step()
        return self.reconciler.runs - before


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SidecarBench:
    return SidecarBench(monkeypatch)


def test_the_first_pass_is_told_of_once(bench: SidecarBench) -> None:
    assert (bench.reconciler.runs, bench.firsts) == (1, 1)
    assert bench.sidecar.idle
    bench.runs(1)
    assert (bench.reconciler.runs, bench.firsts) == (2, 1)


def test_without_events_there_is_a_pass_a_second(bench: SidecarBench) -> None:
    assert [bench.runs(0.25) for _ in range(9)] == [0, 0, 0, 1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    "events",
    [
        Events(True, False, False, frozenset()),
        Events(False, True, False, frozenset()),
        Events(False, False, True, frozenset()),
        Events(False, False, False, frozenset({7})),
    ],
)
def test_each_event_makes_a_pass(bench: SidecarBench, events: Events) -> None:
    assert bench.runs(0.1) == 0
    assert bench.runs(0.1, events) == 1
    assert bench.reconciler.forgotten == [True] * events.hooks


def test_what_somebody_removed_is_found(bench: SidecarBench) -> None:
    bench.datapath.disturbed = True
    assert bench.runs(0.1) == 0
    assert bench.runs(0.4) == 1
    assert bench.reconciler.forgotten == [True]


def test_everything_is_read_anew_every_minute(bench: SidecarBench) -> None:
    bench.runs(59)
    assert bench.observer.refreshed == 0
    bench.runs(1)
    assert bench.observer.refreshed == 1
    assert bench.reconciler.forgotten == [True]


def test_a_pass_waits_for_the_transaction(bench: SidecarBench) -> None:
    bench.ovsdb.busy = True
    assert bench.runs(2) == 0
    assert bench.sidecar.moving
    bench.ovsdb.busy = False
    assert bench.runs() == 1


def test_devices_are_followed_while_the_database_is_away(bench: SidecarBench) -> None:
    bench.ovsdb.connected, bench.ovsdb.away = False, True
    assert bench.runs(0.1, Events(False, True, False, frozenset())) == 0
    assert bench.reconciler.followed == 1
    assert bench.sidecar.summary == "waiting for the database"
    bench.ovsdb.locked_out = True
    assert "lock" in bench.sidecar.summary


def test_a_failed_pass_is_made_again(bench: SidecarBench) -> None:
    bench.reconciler.error = OSError("no room")
    with pytest.raises(OSError, match="no room"):
        bench.runs(1)
    assert bench.sidecar.pause(bench.reconciler.error) == 0.5
    assert not bench.sidecar.healthy
    assert bench.sidecar.summary == "the last pass failed: see the log"
    bench.reconciler.error = None
    assert bench.runs(0.4) == 0
    assert bench.runs(0.1) == 1
    assert bench.sidecar.healthy
    assert bench.sidecar.summary == "0 of 0 mirrors offloaded"


def test_after_a_fault_of_ours_events_wait_too(bench: SidecarBench) -> None:
    fault = KeyError("ours")
    bench.sidecar.pause(fault)
    bench.sidecar.pause(fault)
    seen = Events(True, False, False, frozenset())
    assert bench.runs(0.9, seen) == 0
    assert bench.observer.events == seen
    assert bench.runs(0.1) == 1


def test_what_it_is_asked_for_makes_a_pass(bench: SidecarBench) -> None:
    bench.sidecar.give_back_all()
    assert bench.reconciler.restoring
    assert not bench.sidecar.idle
    assert bench.runs(0.1) == 1
    bench.sidecar.record_all()
    assert bench.reconciler.ending
    assert bench.runs(0.1) == 1


def test_a_pass_can_ask_for_the_next(bench: SidecarBench) -> None:
    bench.reconciler.wake = bench.clock.now + 1.3
    assert bench.runs(1) == 1
    bench.reconciler.wake = float("inf")
    assert [bench.runs(0.1) for _ in range(4)] == [0, 0, 1, 0]
