"""Machines behind ports, and what arrives there."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.tap import TapDevice
from ovs_ebpf_tap.lab.traffic import send
from ovs_ebpf_tap.lab.waiting import patience

_LATE = 2.0
"""Seconds that are given to frames that another run has had."""

Frames = dict[str, Counter[bytes]]
"""What arrived behind each port."""


@dataclass(frozen=True)
class Machine:
    """A device in a namespace, and what is sent and received there."""

    ns: Netns
    device: str

    def send(self, frames: Iterable[bytes]) -> int:
        """See `traffic.send`."""
        return send(self, frames)


class PlaceListeners:
    """Captures behind ports, several of which may be one place."""

    def __init__(self) -> None:
        self._listeners: list[tuple[str, Capture | TapDevice]] = []

    @contextlib.contextmanager
    def over(self, place: str, machine: Machine | TapDevice) -> Iterator[None]:
        """Watches a machine as well, while the with-block runs."""
        if isinstance(machine, TapDevice):
            self._listeners.append((place, machine))
            yield
        else:
            with Capture.of(machine) as capture:
                self._listeners.append((place, capture))
                yield

    def clear(self) -> None:
        """Forget what was captured so far."""
        for _, listener in self._listeners:
            listener.clear()

    def frames(self) -> Frames:
        """What was captured since."""
        found: Frames = {place: Counter() for place, _ in self._listeners}
        for place, listener in self._listeners:
            found[place] += listener.multiset()
        return found

    def wait_quiet(self, idle: float, at_least: Frames | None = None) -> None:
        """Wait until nothing came for `patience(idle)`; frames that are due may take longer."""
        due = sum(frames.total() for frames in (at_least or {}).values())
        places = set(at_least or {})
        last, since = -1, time.monotonic()
        while True:
            counts = [(place, len(listener.frames())) for place, listener in self._listeners]
            total = sum(count for _, count in counts)
            now = time.monotonic()
            if total != last:
                last, since = total, now
            missing = sum(count for place, count in counts if place in places) < due
            if now - since >= patience(_LATE if missing else idle):
                return
            time.sleep(idle / 4)
