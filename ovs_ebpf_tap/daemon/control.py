"""The run directory: the lock that keeps a second sidecar out, and the control socket.

The socket speaks OVS's unixctl, so `ovs-appctl -t RUN_DIR/ovs-ebpf-tap.ctl help`
works with it as with OVS's own daemons.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import socket
from collections.abc import Callable
from errno import EAGAIN
from pathlib import Path
from typing import Any, Self

import ovs.poller
import ovs.unixctl
import ovs.unixctl.server

from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.observe import rpc
from ovs_ebpf_tap.util import unexpected
from ovs_ebpf_tap.util.probes import probe

DEFAULT_RUN_DIR = Path("/run/ovs-ebpf-tap")
SOCKET = "ovs-ebpf-tap.ctl"
LOCK = "lock"

_ANSWER = 20
"""Seconds for a sidecar that is busy with hundreds of hooks."""

_MAX_REQUESTS = 64 << 10
"""Bytes that a caller may send in all."""

_MAX_CALLERS = 64
"""Connections at a time."""

_MAX_ANSWER = 256 << 20  # bytes

_TRIES = 10
"""How often the lock is tried for while others end, which remove it."""


class LockedError(TapError):
    """Another process holds the run directory's lock."""


class RunDir:
    """The run directory while we hold its lock."""

    def __init__(self, path: Path, lock: int) -> None:
        """`lock` is a descriptor of the lock file, which holds the lock: see `take`."""
        self._path = path
        self._lock = lock

    @classmethod
    def take(cls, path: Path) -> Self:
        """Takes the lock. Raises LockedError, and TapError if the directory is not ours."""
        lock = _lock(path)
        os.ftruncate(lock, 0)
        with contextlib.suppress(OSError):  # For people to read, where there is room for it.
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        probe("lock taken")
        return cls(path, lock)

    def release(self) -> None:
        """Removes what is ours and gives the lock back."""
        probe("lock about to be given back")
        (self._path / SOCKET).unlink(missing_ok=True)
        (self._path / LOCK).unlink(missing_ok=True)
        os.close(self._lock)
        try:
            self._path.rmdir()
        except OSError:
            return  # Something of somebody else's is in it.


def _lock(path: Path) -> int:
    """A descriptor of the directory's lock, held. Raises TapError as `RunDir.take` does."""
    for _ in range(_TRIES):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # Another process has ended, and removed the directory.
        except OSError as error:
            raise TapError(f"cannot use run directory {path}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            break
        if _is_at(lock, path / LOCK):
            return lock
        os.close(lock)  # Another process has ended, and removed the file.
    raise LockedError(f"another ovs-ebpf-tap runs with run directory {path}")


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether that open file is the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


class Server:
    """The control socket of a running sidecar."""

    def __init__(self, server: Any) -> None:
        """`server` is python-ovs's, which listens: see `listen`."""
        self._server = server

    @classmethod
    def listen(cls, run_dir: Path) -> Self:
        """Makes the socket. Raises TapError if it cannot."""
        path = run_dir / SOCKET
        path.unlink(missing_ok=True)
        with contextlib.redirect_stderr(io.StringIO()):  # It has a line of its own for errors.
            error, server = ovs.unixctl.server.UnixctlServer.create(str(path))
        if error:
            raise TapError(f"cannot listen on {path}: {os.strerror(error)}")
        path.chmod(0o600)
        listener = server._listener
        accept = listener.accept

        def accept_bounded() -> tuple[int, Any]:
            error, stream = accept()
            return error, None if error else rpc.BoundedStream(stream, _MAX_REQUESTS)

        listener.accept = accept_bounded
        probe("control socket made")
        return cls(server)

    def register(self, command: str, run: Callable[[], str]) -> None:
        """Answers `command` with what `run` returns, or with its failure."""

        def callback(connection: Any, _arguments: list[str], _aux: Any) -> None:
            try:
                answer = run()
            except OSError as error:
                connection.reply_error(str(error))
            except Exception as error:
                connection.reply_error(unexpected.reason(f"command {command}", error))
            else:
                connection.reply(answer)

        ovs.unixctl.command_register(command, "", 0, 0, callback, None)

    def run(self) -> None:
        """Serves who is waiting; of more connections than `_MAX_CALLERS`, the newest."""
        self._server.run()
        for connection in self._server._conns[:-_MAX_CALLERS]:
            connection._close()
            self._server._conns.remove(connection)

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up for callers."""
        self._server.wait(poller)

    def close(self) -> None:
        """Stops listening."""
        self._server.close()
        probe("control socket closed")


def is_running(run_dir: Path) -> bool:
    """Whether a sidecar listens there, busy or not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as opened:
        return opened.connect_ex(str(run_dir / SOCKET)) in (0, EAGAIN)


def is_settled(run_dir: Path) -> bool:
    """Whether no move is under way: the running sidecar says so, or there is none.

    Hooks of mirrors that are given back go only then. Raises TapError as `call` does.
    """
    return call(run_dir, "settled") != "no"


def call(run_dir: Path, command: str) -> str | None:
    """What a running sidecar answers; None if there is none.

    Raises TapError on its refusal, and if it does not answer.
    """
    path = run_dir / SOCKET
    reply = None
    try:
        client = rpc.Client.open(path, _MAX_ANSWER, _ANSWER)
    except TimeoutError:
        client = None
    except OSError:
        return None
    if client is not None:
        with contextlib.closing(client), contextlib.suppress(OSError):
            reply = client.ask(command, _ANSWER)
    if reply is None and not is_running(run_dir):
        return None
    if reply is None:
        raise TapError(f"the running sidecar did not answer in {_ANSWER} s: end it and try again")
    if reply.error is not None:
        raise TapError(str(reply.error).strip())
    return str(reply.result).removesuffix("\n")  # What python-ovs ends an answer with.
