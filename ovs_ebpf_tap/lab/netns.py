"""Network namespaces that clean up after themselves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from ovs_ebpf_tap.lab.names import PREFIX, is_leftover, unique_name
from ovs_ebpf_tap.lab.processes import kill_and_wait
from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.waiting import patience

T = TypeVar("T")
Redirect = int | IO[Any] | None

NETNS_DIRECTORY = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Netns(Resource):
    """A network namespace of its own name, with lo up, without IPv6 and ICMP errors.

    Only the network is separate: what runs in it sees the caller's mounts, /sys/fs/bpf included.
    (`ip netns exec` works too, but mounts another /sys.)
    """

    def __init__(self, label: str = "ns", prefix: str = PREFIX) -> None:
        self.name = unique_name(label, prefix)
        self.path = NETNS_DIRECTORY / self.name
        self._children: list[subprocess.Popen[str]] = []

    def __repr__(self) -> str:
        return f"Netns({self.name})"

    def open(self) -> None:
        """Create the namespace."""
        _ip("netns", "add", self.name)
        try:
            self.call(_silence)
            self.run("ip", "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End every process in the namespace and remove it. Closing again does nothing."""
        for child in self._children:
            _end(child)
        self._children.clear()
        _remove(self.path)

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in a thread inside the namespace; return or raise what it does.

        Sockets that it opens, and processes that it starts, stay in the namespace.
        """
        visit = _Visit(self.path, function)
        thread = threading.Thread(target=visit.run, name=f"in-{self.name}", daemon=True)
        thread.start()
        thread.join()
        return visit.result()

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that lives in the namespace, for any thread to use."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def popen(
        self,
        *argv: str,
        stdin: Redirect = subprocess.DEVNULL,
        stdout: Redirect = None,
        stderr: Redirect = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program in the namespace, which ends with the namespace at the latest.

        `env` adds to this process's environment.
        """
        child = self._spawn(argv, stdin, stdout, stderr, env)
        self._children = [c for c in self._children if c.poll() is None]
        self._children.append(child)
        return child

    def run(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 30.0,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace to its end, with its output captured.

        `stdin` is the text it reads; `timeout` is in seconds, `patience` is applied to it. Raises
        CommandError unless it exits with 0 or `check` is off, subprocess.TimeoutExpired when late.
        """
        child = self._spawn(argv, subprocess.PIPE, subprocess.PIPE, subprocess.PIPE, env)
        try:
            stdout, stderr = child.communicate(stdin, patience(timeout))
        except BaseException:
            _end(child)
            raise
        done = subprocess.CompletedProcess(argv, child.returncode, stdout, stderr)
        if check and done.returncode != 0:
            raise CommandError(done)
        return done

    def _spawn(
        self,
        argv: tuple[str, ...],
        stdin: Redirect,
        stdout: Redirect,
        stderr: Redirect,
        env: Mapping[str, str] | None,
    ) -> subprocess.Popen[str]:
        environment = None if env is None else {**os.environ, **env}
        return self.call(
            lambda: subprocess.Popen(
                argv, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, text=True
            )
        )


class CommandError(RuntimeError):
    """A program exited with another status than 0; the message holds what it said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        said = (done.stderr or done.stdout or "").strip()
        super().__init__(f"{' '.join(done.args)}: exit status {done.returncode}: {said}")
        self.done = done


def reap(prefix: str = PREFIX) -> list[str]:
    """Remove the namespaces, processes and directories of earlier runs that died.

    Returns the names of what was removed; what a living process made is left alone.
    """
    reaped = []
    for path in _listing(NETNS_DIRECTORY):
        if is_leftover(path.name, prefix):
            _remove(path)
            reaped.append(path.name)
    for path in _listing(Path(tempfile.gettempdir())):
        if is_leftover(path.name, prefix):
            shutil.rmtree(path, ignore_errors=True)
            reaped.append(path.name)
    return reaped


class _Visit(Generic[T]):
    """One function's run inside a namespace, and how it ended."""

    def __init__(self, path: Path, function: Callable[[], T]) -> None:
        self._path = path
        self._function = function
        self._values: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        # The thread ends here, so there is no way back to make.
        try:
            _enter(self._path)
            self._values.append(self._function())
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._values[0]


def _enter(path: Path) -> None:
    """Move the calling thread, and no other, into the namespace at `path`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(path))
    finally:
        os.close(descriptor)


def _silence() -> None:
    """Keep what nobody asked for out of captures, where this kernel has the settings."""
    settings = {
        "ipv6/conf/all/disable_ipv6": 1,  # Router solicitations and the like.
        "ipv6/conf/default/disable_ipv6": 1,
        "ipv4/icmp_ratelimit": 2**31 - 1,  # Errors, e.g. that nobody listens for our frames.
    }
    for name, value in settings.items():
        with contextlib.suppress(FileNotFoundError):
            Path(f"/proc/sys/net/{name}").write_text(str(value))


def _remove(path: Path) -> None:
    if not path.exists():
        return
    # Twice, because a process may have started another one meanwhile.
    for _ in range(2):
        for pid in list(_inhabitants(path)):
            kill_and_wait(pid)
    try:
        _ip("netns", "delete", path.name)
    except CommandError:
        if path.exists():  # Else another test run has removed it.
            raise


def _inhabitants(path: Path) -> Iterator[int]:
    """The processes in the namespace at `path`, other than this one; none if it is gone."""
    try:
        inode = path.stat().st_ino
    except FileNotFoundError:
        return
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # It ended meanwhile.
            if os.stat(f"/proc/{entry}/ns/net").st_ino == inode:
                yield int(entry)


def _end(child: subprocess.Popen[str]) -> None:
    """Kill a child and collect it, so that it is not left as a zombie."""
    if child.poll() is None:
        child.kill()
        child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):  # Unwritten input has nowhere to go.
                stream.close()


def _listing(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _ip(*argv: str) -> None:
    done = subprocess.run(("ip", *argv), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(done)
