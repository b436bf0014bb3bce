"""Signals that ask the process to end. The only module that installs handlers."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import Self

import ovs.poller

from ovs_ebpf_tap.errors import TapError

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Interrupted(TapError):  # noqa: N818 - it is no error
    """A signal has asked the process to end."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"interrupted by {number.name}")
        self.number = number


class EndingSignals:
    """While open, notes the first signal that asks the process to end, which goes on.

    None disturbs what has to be done at the end. On exit, signals do what they did before.
    """

    def __init__(self, numbers: Collection[signal.Signals] = ENDING, *, ignored: bool = False):
        """With `ignored`, it takes those signals, too, that the process ignores, as after nohup."""
        self._numbers = numbers
        self._ignored = ignored
        self._raises: Callable[[signal.Signals], BaseException] | None = None
        self.taken: signal.Signals | None = None
        """The signal that came first."""

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        found = {number: signal.getsignal(number) for number in self._numbers}
        self._before = {
            number: handler
            for number, handler in found.items()
            if self._ignored or handler != signal.SIG_IGN
        }
        for number in self._before:
            signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._read)
        os.close(self._write)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        first = self.taken is None
        self.taken = self.taken or signal.Signals(number)
        if self._raises is not None and first:
            for each in self._before:  # The commands that clean up ignore further ones, too.
                signal.signal(each, signal.SIG_IGN)
            raise self._raises(self.taken)

    @contextlib.contextmanager
    def interruptible(
        self, error: Callable[[signal.Signals], BaseException] = Interrupted
    ) -> Iterator[None]:
        """Raises `error` wherever the block is, or before it if a signal has come already."""
        self._raises = error
        try:
            if self.taken is not None:
                raise error(self.taken)
            yield
        finally:
            self._raises = None

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.taken is not None:
            raise Interrupted(self.taken)

    def sleep(self, seconds: float) -> None:
        """Waits. Raises Interrupted when, or as soon as, a signal has come."""
        self.check()
        select.select([self._read], [], [], seconds)
        self.check()

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up for signals."""
        poller.fd_wait(self._read, ovs.poller.POLLIN)


@contextlib.contextmanager
def interruptible(
    error: Callable[[signal.Signals], BaseException] = Interrupted,
) -> Iterator[None]:
    """Has the first of these signals raise `error` wherever we are; further ones do nothing.

    For what cleans up after itself at any point.
    """
    with EndingSignals() as signals, signals.interruptible(error):
        yield
