"""When passes, looks and resyncs are due, and what a failure does to that."""

from __future__ import annotations

import pytest

from ovs_ebpf_tap.daemon.scheduler import FAILURE, LOOK, RESYNC, STATISTICS, Scheduler

NOW = 1000.0
FAULT = ValueError("a fault of ours")


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(NOW)


def test_a_pass_is_due_at_once_and_then_every_second(scheduler: Scheduler) -> None:
    assert scheduler.pass_is_due(NOW)
    scheduler.begin_pass(NOW)
    assert not scheduler.pass_is_due(NOW + STATISTICS / 2)
    assert scheduler.pass_is_due(NOW + STATISTICS)


def test_a_pass_can_be_due_earlier_but_not_later(scheduler: Scheduler) -> None:
    scheduler.begin_pass(NOW)
    scheduler.pass_by(NOW + 0.1)
    scheduler.pass_by(NOW + 10)
    assert not scheduler.pass_is_due(NOW + 0.09)
    assert scheduler.pass_is_due(NOW + 0.1)


def test_looks_and_resyncs_are_taken_once(scheduler: Scheduler) -> None:
    assert scheduler.take_look(NOW)
    assert not scheduler.take_look(NOW)
    assert scheduler.take_look(NOW + LOOK)
    assert not scheduler.take_resync(NOW + RESYNC - 1)
    assert scheduler.take_resync(NOW + RESYNC)
    assert not scheduler.take_resync(NOW + RESYNC)


def test_a_refusal_of_the_system_delays_timed_passes_only(scheduler: Scheduler) -> None:
    for _ in range(5):
        assert scheduler.note_failure(NOW, OSError("no room")) == FAILURE
    assert not scheduler.is_held(NOW)
    assert not scheduler.pass_is_due(NOW)
    assert scheduler.pass_is_due(NOW + FAILURE)


def test_a_fault_of_ours_stops_everything_for_longer_and_longer(scheduler: Scheduler) -> None:
    pauses = [scheduler.note_failure(NOW, FAULT) for _ in range(8)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert scheduler.is_held(NOW + 29)
    assert not scheduler.is_held(NOW + 30)


def test_a_success_ends_that(scheduler: Scheduler) -> None:
    scheduler.note_failure(NOW, FAULT)
    scheduler.note_failure(NOW, FAULT)
    scheduler.note_success()
    assert scheduler.note_failure(NOW, FAULT) == FAILURE
