"""Moments of the monotonic clock, for python-ovs's poll loops."""

from __future__ import annotations

import time

import ovs.poller


def wake_at(poller: ovs.poller.Poller, when: float) -> None:
    """Has the poller wake up at that time of `time.monotonic`, not before: it counts in ms."""
    poller.timer_wait(max(0, int((when - time.monotonic()) * 1000) + 1))
