"""Moments of the monotonic clock, for python-ovs's poll loops."""

from __future__ import annotations

import time

import ovs.poller


def next_tick(now: float, period: float) -> float:
    """The next of the moments that come with that period; those of periods that divide another are
    among the other's, so that one wakes up for all of them at once."""
    return (now // period + 1) * period


def wake_at(poller: ovs.poller.Poller, when: float) -> None:
    """Has the poller wake up at that time of `time.monotonic`, not before: it counts in ms."""
    poller.timer_wait(max(0, int((when - time.monotonic()) * 1000) + 1))
