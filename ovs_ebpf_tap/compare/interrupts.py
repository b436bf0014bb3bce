"""Signals that end a run in order."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Self

from ovs_ebpf_tap.errors import TapError

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Holds the signals back that would end this process, while open, and takes them in `sleep`.

    What has to be done at the end is not disturbed by any then; they are forgotten after it.
    """

    def __enter__(self) -> Self:
        # One that is ignored, as of nohup, would be taken if it were held back.
        self._signals = {each for each in ENDING if signal.getsignal(each) != signal.SIG_IGN}
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        return self

    def __exit__(self, *_: object) -> None:
        while self._take(0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def sleep(self, seconds: float) -> None:
        """Waits. Raises TapError when, or as soon as, a signal has come."""
        taken = self._take(seconds)
        if taken is not None:
            raise TapError(f"interrupted by {taken.name}")

    def _take(self, seconds: float) -> signal.Signals | None:
        taken = signal.sigtimedwait(self._signals, seconds)
        return None if taken is None else signal.Signals(taken.si_signo)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Has the first of these signals raise TapError wherever we are, and further ones do nothing.

    For what cleans up after itself at any point.
    """
    before = {each: signal.getsignal(each) for each in ENDING}

    def end(number: int, _frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise TapError(f"interrupted by {signal.Signals(number).name}")

    for each, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
