"""Signals that ask the process to end are taken where that is meant, and nowhere else."""

from __future__ import annotations

import signal
import threading
import time

import ovs.poller
import pytest

from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.util.signals import ENDING, EndingSignals, Interrupted, interruptible


def send(number: signal.Signals) -> None:
    """To this thread, whatever others there are."""
    signal.pthread_kill(threading.get_ident(), number)


@pytest.mark.parametrize("number", ENDING)
def test_signals_are_taken_where_it_waits(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # It may be ignored, as of nohup.
    try:
        with EndingSignals() as signals:
            send(number)
            with pytest.raises(TapError, match=f"interrupted by {number.name}"):
                signals.sleep(10)
            # Further ones disturb nothing, and are forgotten.
            send(number)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_without_signals_it_waits() -> None:
    with EndingSignals() as signals:
        begun = time.monotonic()
        signals.sleep(0.02)
        assert time.monotonic() - begun >= 0.02


def test_signals_that_are_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with EndingSignals() as signals:
            send(signal.SIGHUP)
            signals.sleep(0)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_first_signal_is_raised_and_no_other() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def run() -> None:
        with interruptible():
            try:
                send(signal.SIGTERM)
            finally:
                send(signal.SIGINT)

    with pytest.raises(TapError, match="interrupted by SIGTERM"):
        run()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_poller_wakes_up() -> None:
    with EndingSignals(ignored=True) as signals:
        send(signal.SIGTERM)
        poller = ovs.poller.Poller()
        signals.wait(poller)
        poller.timer_wait(10_000)
        begun = time.monotonic()
        poller.block()
        assert time.monotonic() - begun < 5
        assert signals.taken == signal.SIGTERM


def test_one_that_came_before_is_raised_at_once() -> None:
    with EndingSignals(ignored=True) as signals:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        with pytest.raises(Interrupted, match="SIGTERM"), signals.interruptible():
            raise AssertionError("it goes on")
        with pytest.raises(SystemExit), signals.interruptible(lambda n: SystemExit(128 + n)):
            raise AssertionError("it goes on")


def test_those_that_are_ignored_can_be_taken() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with EndingSignals((signal.SIGINT,), ignored=True) as signals:
            send(signal.SIGINT)
            assert signals.taken == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
