"""The network namespace of a sidecar's hooks, noted beside their pins.

Ifindexes mean nothing in another one, and filters there are not ours. The note is a symbolic link,
which a bpffs takes: its target is that of `/proc/self/ns/net` and the namespace's cookie, as
`net:[4026531840]@1`. The kernel gives the number of a namespace that has ended to a later one, the
cookie to none (`__sock_cookie`, SO_NETNS_COOKIE, Linux 5.14).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyroute2 import netns

from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.util.text import unescaped

NOTE = "netns"

_PROC = Path("/proc")


_SO_NETNS_COOKIE = 71


def note(pin_dir: Path) -> None:
    """Notes our namespace. Raises OSError."""
    path, ours = pin_dir / NOTE, f"{_current()}@{_cookie()}"
    if _noted(pin_dir) != ours:
        path.unlink(missing_ok=True)
        path.symlink_to(ours)


def check(pin_dir: Path) -> None:
    """Raises TapError if what is pinned there is of another namespace, one that is still there."""
    other = elsewhere(pin_dir)
    if other is not None:
        raise TapError(other)


def elsewhere(pin_dir: Path) -> str | None:
    """Says that what is pinned there is of another namespace, and how to enter it, if it is so."""
    number, _, cookie = (_noted(pin_dir) or "").partition("@")
    if number in ("", _current()):
        return None
    for entrance in _entrances(number):
        if _cookie_of(entrance) in (cookie, ""):
            return (
                f"the hooks of pin directory {pin_dir} are in another network namespace: run "
                f"this there, with nsenter --net={entrance}"
            )
    return None


def _current() -> str:
    return os.readlink("/proc/self/ns/net")


def _cookie() -> str:
    """That of the calling thread's namespace; empty where the kernel does not tell."""
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            return str(opened.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8).hex())
    except OSError:
        return ""


def _cookie_of(entrance: str) -> str:
    """That of another namespace; empty where we may not enter it."""

    def enter() -> str:
        netns.setns(entrance)
        return _cookie()

    try:
        with ThreadPoolExecutor(1) as thread:  # A namespace is entered by a thread, by it alone.
            return thread.submit(enter).result()
    except (OSError, ValueError):  # pyroute2 takes ASCII only.
        return ""


def _noted(pin_dir: Path) -> str | None:
    try:
        return os.readlink(pin_dir / NOTE)
    except OSError:
        return None


def _entrances(namespace: str) -> Iterator[str]:
    """Paths by which a namespace can be entered: where it is mounted, and processes that are in it.

    Those that we may look at.
    """
    with contextlib.suppress(OSError):
        for line in (_PROC / "self/mountinfo").read_text(errors="surrogateescape").splitlines():
            _, _, _, root, place, *_ = line.split()
            if root == namespace:
                yield unescaped(place)
    for process in _PROC.iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and os.readlink(process / "ns/net") == namespace:
                yield f"{process}/ns/net"
