"""The pin directory of a sidecar, on a bpffs: one directory a build, and links.

PIN_DIR/<build>/tap_ingress, tap_egress      programs
PIN_DIR/<build>/ingress, egress, rules, ...  maps
PIN_DIR/<build>/copy_tag                     map with the copy tag, for a later build
PIN_DIR/links/<ifindex>-<direction>          TCX links
PIN_DIR/netns                                whose hooks they are (`namespace`)
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.ebpf.object import FORMER
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.util import namespace
from ovs_ebpf_tap.util.text import unescaped

BPFFS = Path("/sys/fs/bpf")
LINKS = "links"
DRAFT = "draft-"
"""How the directory of a build is named before it is complete; a bpffs takes no dots in names."""

_BPFFS_MAGIC = "bpf"


def owner(pin_dir: Path) -> int:
    """The sidecar with that pin directory, as a number of 32 bits: its filters' handle.

    It is the same when the directory was lost. Its highest bit is set: other handles are small.
    """
    path = os.fsencode(pin_dir.resolve())
    return int.from_bytes(hashlib.sha256(path).digest()[:4], "big") | 1 << 31


def ensure_bpffs(pin_dir: Path) -> None:
    """Makes the pin directory, and mounts the bpffs at its usual place if there is none.

    Raises TapError where the directory is not on a bpffs.
    """
    if pin_dir.is_relative_to(BPFFS) and not _on_bpffs(BPFFS):
        mount = subprocess.run(
            ["mount", "-t", "bpf", "-o", "mode=0700", "bpf", str(BPFFS)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mount.returncode:
            said = (mount.stderr.strip() or "no reason given").splitlines()[0]
            raise TapError(f"no bpffs at {BPFFS}, and mounting one failed: {said}")
    if not _on_bpffs(pin_dir):
        raise TapError(f"pin directory {pin_dir} is not on a bpffs: mount -t bpf bpf DIR")
    try:
        pin_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise TapError(f"cannot make pin directory {pin_dir}: {error.strerror}") from None


def _on_bpffs(path: Path) -> bool:
    """Whether `path` is, or would be made, on a bpffs, by the mount table."""
    real = path.resolve()
    found, kind = Path("/"), ""
    for place, mount_kind in _mounts():
        if real.is_relative_to(place) and len(place.parts) >= len(found.parts):
            found, kind = place, mount_kind
    return kind == _BPFFS_MAGIC


def _mounts() -> Iterator[tuple[Path, str]]:
    """Where file systems are mounted, and their kinds."""
    for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
        _, place, kind, *_ = line.split()
        yield Path(unescaped(place)), kind


def pin_dirs() -> Iterator[Path]:
    """The directories with links in the bpffs that are mounted: sidecars' pin directories."""
    for place, kind in _mounts():
        if kind == _BPFFS_MAGIC:
            for directory, names, _ in os.walk(place):
                if LINKS in names:
                    yield Path(directory)


def builds(pin_dir: Path) -> list[Path]:
    """The directories of all builds that are pinned."""
    if not pin_dir.is_dir():
        return []
    others = (LINKS, namespace.NOTE)
    return [
        path
        for path in pin_dir.iterdir()
        if path.name not in others and not path.name.startswith(DRAFT)
    ]


def remove_build(directory: Path) -> None:
    """Unpins a build."""
    shutil.rmtree(directory, ignore_errors=True)


def open_pin(directory: Path, name: str) -> int:
    """A descriptor of what is pinned under this name, or the one that an earlier version gave it.

    Raises FileNotFoundError.
    """
    try:
        return bpf.get(directory / name)
    except FileNotFoundError:
        if name not in FORMER:
            raise
        return bpf.get(directory / FORMER[name])
