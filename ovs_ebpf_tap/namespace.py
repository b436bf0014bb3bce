"""The network namespace of a sidecar's hooks, noted beside their pins.

Ifindexes mean nothing in another one, and filters there are not ours. The note is a symbolic link,
which a bpffs takes: its target is that of `/proc/self/ns/net`, as `net:[4026531840]`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.text import unescaped

NOTE = "netns"

_PROC = Path("/proc")


def note(pin_dir: Path) -> None:
    """Notes our namespace. Raises OSError."""
    path, ours = pin_dir / NOTE, _current()
    if _noted(pin_dir) != ours:
        path.unlink(missing_ok=True)
        path.symlink_to(ours)


def check(pin_dir: Path) -> None:
    """Raises TapError if what is pinned there is of another namespace, one that is still there."""
    noted = _noted(pin_dir)
    if noted is not None and noted != _current():
        for entrance in _entrances(noted):
            raise TapError(
                f"the hooks of pin directory {pin_dir} are in another network namespace: run "
                f"this there, with nsenter --net={entrance}"
            )


def _current() -> str:
    return os.readlink("/proc/self/ns/net")


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
