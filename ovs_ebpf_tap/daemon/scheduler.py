"""When the sidecar has something to do though nothing has happened: times of the monotonic clock.

Events come in between, and do not move these times.
"""

from __future__ import annotations

import ovs.poller

from ovs_ebpf_tap.util.timers import next_tick, wake_at

RESYNC = 60.0
"""Seconds between full passes, which read everything back from the kernel."""

STATISTICS = 1.0
"""Seconds between passes without an event, which read the counters."""

LOOK = 0.5
"""Seconds between looks for what somebody removed without a notification."""

FAILURE = 0.5
"""Seconds before a pass that failed, or a hook that lacked something of ours, is tried again."""

_MAX_FAILURE = 30.0
"""The same after a fault of ours that comes again and again."""


class Scheduler:
    """The times at which `Sidecar.step` makes a pass, looks at pins and resyncs."""

    def __init__(self, now: float) -> None:
        self._next_pass = 0.0
        self._next_look = 0.0
        self._next_resync = now + RESYNC
        self._held_until = 0.0
        self._backoff = 0.0
        """Seconds to wait after a fault of ours; 0 if the last pass had none."""

    # What is due; a look and a resync only once each time.

    def is_held(self, now: float) -> bool:
        """Whether nothing at all is to be done, after a fault of ours."""
        return now < self._held_until

    def pass_is_due(self, now: float) -> bool:
        """Whether it is time for a pass."""
        return now >= self._next_pass

    def take_look(self, now: float) -> bool:
        """Whether it is time to look at pins and hooks; the next time is LOOK seconds later."""
        due = now >= self._next_look
        if due:
            self._next_look = next_tick(now, LOOK)
        return due

    def take_resync(self, now: float) -> bool:
        """Whether it is time for a resync; the next time is RESYNC seconds later."""
        due = now >= self._next_resync
        if due:
            self._next_resync = now + RESYNC
        return due

    # What was done.

    def begin_pass(self, now: float) -> None:
        """Notes that a pass is made: the next is due STATISTICS seconds later."""
        self._next_pass = next_tick(now, STATISTICS)

    def pass_by(self, when: float) -> None:
        """Has a pass made at that time, unless one is due before."""
        self._next_pass = min(self._next_pass, when)

    def note_success(self) -> None:
        """Notes that a pass succeeded."""
        self._backoff = 0.0

    def note_failure(self, now: float, error: Exception) -> float:
        """Notes that a pass failed; returns the seconds until the next one.

        What the system refuses, it may grant in a moment. A fault of ours may come again at each
        event: nothing at all is done meanwhile.
        """
        pause = FAILURE
        if not isinstance(error, OSError):
            pause = self._backoff = min(max(FAILURE, 2 * self._backoff), _MAX_FAILURE)
            self._held_until = now + pause
        self._next_pass = now + pause
        return pause

    # Waiting.

    def wait_held(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `is_held` ends."""
        wake_at(poller, self._held_until)

    def wait(self, poller: ovs.poller.Poller, *, may_pass: bool) -> None:
        """Has the poller wake up when something is due; for a pass, only if one may be made."""
        due = [self._next_pass] if may_pass else []
        wake_at(poller, min([self._next_resync, self._next_look, *due]))
