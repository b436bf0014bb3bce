"""Ending processes, children or not, and waiting for their end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator

from ovs_ebpf_tap.lab.waiting import patience


def kill_and_wait(pid: int, sig: signal.Signals = signal.SIGKILL, seconds: float = 10.0) -> None:
    """Send `sig` to process `pid` and wait for its end; nothing happens if it is gone.

    Raises TimeoutError if it is still there after `patience(seconds)`.
    """
    with _process(pid) as pidfd:
        if pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, sig)
            _await_end(pidfd, pid, seconds)


def wait_gone(pid: int, seconds: float = 10.0) -> None:
    """Wait for the end of process `pid`; TimeoutError as for `kill_and_wait`."""
    with _process(pid) as pidfd:
        if pidfd is not None:
            _await_end(pidfd, pid, seconds)


@contextlib.contextmanager
def _process(pid: int) -> Iterator[int | None]:
    """A pidfd for process `pid`, None if there is no such process."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _await_end(pidfd: int, pid: int, seconds: float) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(patience(seconds) * 1000):
        raise TimeoutError(f"process {pid} did not end within {patience(seconds):g} s")
