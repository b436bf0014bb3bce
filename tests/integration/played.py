"""What everyone gets of frames that are sent."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.switch import Host
from ovs_ebpf_tap.lab.tap import TapDevice
from ovs_ebpf_tap.lab.waiting import patience


class FrameSender(Protocol):
    """A Host, for one."""

    def send(self, frames: Iterable[bytes]) -> int:
        """Send each once, in order; returns how many."""


Sent = Sequence[tuple[FrameSender, list[bytes]]]


def play(everyone: list[Host | TapDevice], sent: Sent) -> dict[str, Counter[bytes]]:
    """Sends all, and returns what everyone got."""
    with contextlib.ExitStack() as stack:
        captures = {where.name: stack.enter_context(listen(where)) for where in everyone}
        for where, frames in sent:
            where.send(frames)
            wait_quiet(captures.values(), 0.03)
        wait_quiet(captures.values(), 0.25)
        return {name: capture.multiset() for name, capture in captures.items()}


def wait_quiet(captures: Iterable[Capture | TapDevice], idle: float) -> None:
    """Waits until none has got anything for a while, in seconds."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < patience(idle):
        count = sum(len(capture.frames()) for capture in captures)
        if count != last:
            last, since = count, time.monotonic()
        time.sleep(idle / 5)


@contextlib.contextmanager
def listen(where: Host | TapDevice) -> Iterator[Capture | TapDevice]:
    if isinstance(where, TapDevice):
        where.clear()
        yield where
    else:
        with where.capture() as capture:
            yield capture
