"""The programs and maps of one build, as they are pinned below the pin directory.

    PIN_DIR/<build>/tap_ingress, tap_egress      programs
    PIN_DIR/<build>/ingress, egress, rules, ...  maps
    PIN_DIR/links/<ifindex>-<direction>          TCX links

A build is named by a digest of its sources, so unchanged sources are not compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from errno import EACCES, ENOSYS, EPERM
from functools import cache
from pathlib import Path

from ovs_ebpf_tap import abi, bpf
from ovs_ebpf_tap.compile import DRAFT, MAPS, PROGRAMS, TEMPLATES
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.netlink import EGRESS, INGRESS
from ovs_ebpf_tap.template import fill

BPFFS = Path("/sys/fs/bpf")
LINKS = "links"

_BPFFS_MAGIC = "bpf"
_COMPILE_TIMEOUT = 300  # seconds: emulated machines are slow


@cache
def build_id() -> str:
    """The name of the build that this version's sources make."""
    digest = hashlib.sha256()
    for path in sorted(abi.source_dir().rglob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{abi.constant('ABI')}-{digest.hexdigest()[:16]}"


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
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, mount_kind, *_ = line.split()
        place = Path(mount_point.encode().decode("unicode_escape"))
        if real.is_relative_to(place) and len(place.parts) >= len(found.parts):
            found, kind = place, mount_kind
    return kind == _BPFFS_MAGIC


def check_kernel() -> None:
    """Raises TapError with what to do if the kernel takes no TC programs from us."""
    try:
        os.close(bpf.load_classifier(bpf.EMPTY, "tap_empty"))
    except OSError as error:
        if error.errno in (EPERM, EACCES):
            raise TapError("not allowed to load BPF programs: run as root") from None
        if error.errno == ENOSYS:
            raise TapError("this kernel has no bpf(2): CONFIG_BPF_SYSCALL is needed") from None
        raise TapError(f"this kernel takes no TC BPF programs: {error.strerror}") from None


class Programs:
    """Open descriptors of a build's pinned programs and maps."""

    def __init__(self, directory: Path) -> None:
        self.build = directory.name
        self.directory = directory
        self._fds = {name: bpf.get(directory / name) for name in PROGRAMS}
        self.maps = {name: bpf.Map(bpf.get(directory / name)) for name in MAPS}
        self._templates: dict[str, bytes] = {}
        self.ids = {
            direction: bpf.program_id(self.fd(direction)) for direction in (INGRESS, EGRESS)
        }

    def fd(self, direction: str) -> int:
        """The descriptor of the program for the hooks of one direction."""
        return self._fds[f"tap_{direction}"]

    @property
    def unmark(self) -> int:
        """The descriptor of the program that runs behind an action."""
        return self._fds["tap_unmark"]

    def load_own(self, name: str, constants: Mapping[int, int]) -> int:
        """Loads a hook's own program, `tap_one` or `tap_out`; the caller closes the descriptor.

        Raises OSError as the kernel says it.
        """
        if name not in self._templates:
            place = TEMPLATES[name].to_bytes(4, sys.byteorder)
            self._templates[name] = self.maps["templates"].get(place) or b""
        fds = [each.fd for each in self.maps.values()]
        return bpf.load_classifier(fill(self._templates[name], constants, fds), name)

    def close(self) -> None:
        """Closes the descriptors; what is pinned or attached lives on."""
        for fd in self._fds.values():
            os.close(fd)
        for each in self.maps.values():
            each.close()


def builds(pin_dir: Path) -> list[Path]:
    """The directories of all builds that are pinned."""
    if not pin_dir.is_dir():
        return []
    return [
        path for path in pin_dir.iterdir() if path.name != LINKS and not path.name.startswith(DRAFT)
    ]


def open_programs(pin_dir: Path) -> Programs | None:
    """This version's programs if they are pinned."""
    directory = pin_dir / build_id()
    return Programs(directory) if directory.is_dir() else None


def ensure_programs(pin_dir: Path) -> Programs:
    """This version's programs, compiled now if they are not pinned. Raises TapError."""
    directory = pin_dir / build_id()
    if not directory.is_dir():
        try:
            _compile(directory)
        except TapError:
            with contextlib.suppress(OSError):
                pin_dir.rmdir()
            raise
    return Programs(directory)


def _compile(directory: Path) -> None:
    # The child is to be of this very package, whatever lies in the working directory.
    home = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "ovs_ebpf_tap.compile", str(directory)],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            check=False,
            timeout=_COMPILE_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise TapError(f"compiling the programs took over {_COMPILE_TIMEOUT} s") from None
    if child.returncode:
        lines = (child.stderr + child.stdout).strip().splitlines()
        errors = [line for line in lines if "error:" in line] or lines[-1:] or ["killed"]
        raise TapError(f"compiling the programs failed: {errors[0]}")


def remove_build(directory: Path) -> None:
    """Unpins a build."""
    shutil.rmtree(directory, ignore_errors=True)
