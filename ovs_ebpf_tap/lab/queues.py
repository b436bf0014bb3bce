"""Deeper socket queues for another process, so that a busy switch drops no frame."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_SYS_PIDFD_GETFD = 438  # The same on every architecture.
_SO_RCVBUFFORCE = 33
# The kernel doubles it for its own overhead.
_DEPTH = 64 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def deepen_queues(pid: int) -> None:
    """Raise the receive buffers of a process's packet and netlink sockets to 64 MiB each.

    The defaults hold some 200 frames. They could be raised for the whole machine only, so this
    reaches into the process; nothing happens if it has ended.
    """
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        pidfd = os.pidfd_open(pid)
        try:
            for theirs in _socket_descriptors(pid):
                _deepen(pidfd, theirs)
        finally:
            os.close(pidfd)


def _socket_descriptors(pid: int) -> Iterator[int]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # Closed meanwhile.
            if os.readlink(entry).startswith("socket:"):
                yield int(entry.name)


def _deepen(pidfd: int, theirs: int) -> None:
    ours = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, theirs, 0)
    if ours < 0:
        return  # Closed meanwhile.
    with socket.socket(fileno=ours) as opened:
        if opened.family not in (socket.AF_PACKET, socket.AF_NETLINK):
            return
        if opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < _DEPTH:
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _DEPTH)
