"""The programs and maps of one build, as they are pinned below the pin directory.

    PIN_DIR/<build>/tap_ingress, tap_egress      programs
    PIN_DIR/<build>/ingress, egress, rules, ...  maps
    PIN_DIR/<build>/copy_tag                     map with the copy tag, for a later build
    PIN_DIR/links/<ifindex>-<direction>          TCX links
    PIN_DIR/netns                                whose hooks they are (`namespace`)

A build is named by digests of its sources and of its compiler. What that has made of them is kept
in CACHE, so unchanged sources are not compiled again, not after a reboot either.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from errno import EACCES, EINVAL, ENOSYS, EPERM
from functools import cache
from pathlib import Path

import structlog

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.ebpf.object import (
    COPY_TAG,
    FORMER,
    LATER,
    MAPS,
    NEXT,
    PROGRAMS,
    TEMPLATES,
    XDP,
    Object,
)
from ovs_ebpf_tap.ebpf.template import bind_global_constants, bind_program
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS
from ovs_ebpf_tap.util import namespace
from ovs_ebpf_tap.util.probes import probe
from ovs_ebpf_tap.util.text import unescaped

BPFFS = Path("/sys/fs/bpf")
# A supervisor that makes the directory names it so (systemd's CacheDirectory=).
CACHE = Path(os.environ.get("CACHE_DIRECTORY", "/var/cache/ovs-ebpf-tap")) / "programs"
LINKS = "links"
DRAFT = "draft-"

_MONOTONIC_COARSE = 6  # CLOCK_MONOTONIC_COARSE, which goes by the kernel's ticks

_COPY_TAG_LAYOUT = bpf.MapLayout(type=2, key_size=4, value_size=8, max_entries=1, flags=0)

_BPFFS_MAGIC = "bpf"
_RIGHTS = "run as root, with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
# For BPF_XCHG (5.12), and for BPF_MAP_LOOKUP_BATCH of per-CPU arrays (5.13). Before 5.11, maps
# counted for what a process may lock in memory: too little of that is EPERM.
_KERNEL = "Linux 5.13 or later is needed"
_NEEDED: Mapping[int | None, str] = {
    EPERM: f": {_RIGHTS}; {_KERNEL}",
    EACCES: f": {_RIGHTS}; {_KERNEL}",
    EINVAL: f": {_KERNEL}",
}
_MAKERS = ("compile.py", "object.py", "template.py")
"""What of this package makes programs of the C sources."""

_COMPILER = ("libbcc.so", "libLLVM", "libclang-cpp")
_LIBRARIES = [
    f"{prefix}/{name}"
    for prefix in ("/usr/lib", "/usr/local/lib")
    for name in (sysconfig.get_config_var("MULTIARCH") or "", "", "../lib64")
]
"""Where the dynamic linker looks."""

_LAST_WORDS = 12
"""Lines of what the verifier says that are logged, once for each program."""

_told: set[str] = set()

COMPILE_TIMEOUT = 300  # seconds: emulated machines are slow


log = structlog.get_logger()


@cache
def build_id() -> str:
    """The name of the build that this version's sources and this machine's compiler make.

    Where there is no compiler, one that was kept of these sources will do.
    """
    digest = hashlib.sha256()
    home = Path(__file__).parent
    for path in (*sorted(abi.source_dir().rglob("*.[ch]")), *(home / name for name in _MAKERS)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    sources = f"{abi.constant('ABI')}-{digest.hexdigest()[:16]}"
    compiler = _compiler_id()
    kept = [] if compiler else sorted(CACHE.glob(f"{sources}-*.json"))
    return kept[0].stem if kept else f"{sources}-{compiler or 'none'}"


def _compiler_id() -> str | None:
    """A digest of the libraries that compile, by their sizes and times; None if there are none.

    bcc itself would take a second to ask, and 130 MB.
    """
    found = set()
    for directory in _LIBRARIES:
        with contextlib.suppress(OSError):
            for entry in os.scandir(directory):
                if entry.name.startswith(_COMPILER):
                    about = entry.stat()
                    found.add(f"{entry.name} {about.st_size} {int(about.st_mtime)}")
    if not any(each.startswith(_COMPILER[0]) for each in found):
        return None
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:8]


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


def check_kernel() -> None:
    """Raises TapError with what to do if the kernel takes no TC programs from us."""
    try:
        os.close(bpf.load_classifier(bpf.EMPTY, "tap_empty"))
    except OSError as error:
        if error.errno in (EPERM, EACCES):
            raise TapError(f"not allowed to load BPF programs: {_RIGHTS}") from None
        if error.errno == ENOSYS:
            raise TapError("this kernel has no bpf(2): CONFIG_BPF_SYSCALL is needed") from None
        raise TapError(f"this kernel takes no TC BPF programs: {error.strerror}") from None


class Programs:
    """Open descriptors of a build's pinned programs and maps."""

    def __init__(self, directory: Path) -> None:
        """Raises FileNotFoundError if not all are there that the build's version is to have."""
        self.build = directory.name
        self.directory = directory
        self._fds = _open_pins(directory, PROGRAMS)
        with contextlib.suppress(FileNotFoundError):  # A build of an earlier version has none.
            self._fds[COPY_TAG] = _open_pin(directory, COPY_TAG)
        self.maps = {name: bpf.Map(fd) for name, fd in _open_pins(directory, MAPS).items()}
        self._templates: dict[str, bytes] = {}
        self.ids = {
            direction: bpf.program_id(self.fd(direction)) for direction in (INGRESS, EGRESS)
        }
        probe("programs opened")

    def fd(self, direction: str) -> int:
        """The descriptor of the program for the hooks of one direction."""
        return self._fds[f"tap_{direction}"]

    @property
    def unmark(self) -> int:
        """The descriptor of the program that runs behind an action."""
        return self._fds["tap_untag"]

    @property
    def shorten(self) -> int:
        """The descriptor of the cutter's XDP program."""
        return self._fds[XDP]

    @property
    def deliver(self) -> int:
        """The descriptor of the program of the cutter's ingress hook."""
        return self._fds["tap_deliver"]

    def load_own(self, name: str, constants: Mapping[str, int]) -> int:
        """Loads `tap_specialized` or `tap_output` for a hook; the caller closes the descriptor.

        Raises OSError as the kernel says it.
        """
        if name not in self._templates:
            index = bpf.u32(TEMPLATES[name])
            self._templates[name] = self.maps["templates"].get(index) or b""
        fds = [each.fd for each in self.maps.values()]
        program = _load(bind_program(self._templates[name], constants, fds), name)
        probe("own program loaded")
        return program

    def pin_again(self) -> None:
        """Pins what is not pinned any more. Raises OSError, and TapError without a bpffs."""
        ensure_bpffs(self.directory.parent)
        namespace.note(self.directory.parent)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        fds = {**self._fds, **{name: each.fd for name, each in self.maps.items()}}
        for name in fds.keys() - {pin.name for pin in self.directory.iterdir()}:
            bpf.pin(fds[name], self.directory / name)

    def close(self) -> None:
        """Closes the descriptors; what is pinned or attached lives on."""
        for fd in self._fds.values():
            os.close(fd)
        for each in self.maps.values():
            each.close()


def _open_pins(directory: Path, names: Iterable[str]) -> dict[str, int]:
    """Descriptors of what is pinned under these names; of other versions, without what is later."""
    if directory.name != build_id():
        names = [name for name in names if name not in LATER or (directory / name).exists()]
    return {name: _open_pin(directory, name) for name in names}


def _open_pin(directory: Path, name: str) -> int:
    """A descriptor of what is pinned under this name, or the one that an earlier version gave it.

    Raises FileNotFoundError.
    """
    try:
        return bpf.get(directory / name)
    except FileNotFoundError:
        if name not in FORMER:
            raise
        return bpf.get(directory / FORMER[name])


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


def open_programs(pin_dir: Path) -> Programs | None:
    """This version's programs if they are pinned, all of them.

    One that was killed as it removed them has left some.
    """
    try:
        return Programs(pin_dir / build_id())
    except FileNotFoundError:
        return None


def ensure_programs(pin_dir: Path) -> Programs:
    """This version's programs, loaded now if they are not pinned. Raises TapError."""
    opened = open_programs(pin_dir)
    directory = pin_dir / build_id()
    if opened is None:
        remove_build(directory)
        try:
            _load_and_pin(_ensure_object(), directory)
        except (TapError, OSError) as error:
            with contextlib.suppress(OSError):
                pin_dir.rmdir()
            if isinstance(error, OSError):
                needed = _NEEDED.get(error.errno, "")
                raise TapError(f"the kernel does not take the programs: {error}{needed}") from None
            raise
    return opened or Programs(directory)


# From sources to what is kept.


def _ensure_object() -> Object:
    kept = CACHE / f"{build_id()}.json"
    try:
        return Object.from_json(kept.read_text())
    except (OSError, ValueError):
        text = _compile()
    try:
        made = Object.from_json(text)
    except ValueError as error:
        raise TapError(f"compiling the programs failed: {error}") from None
    with contextlib.suppress(OSError):  # Then it is compiled again next time.
        _keep(kept, text)
    return made


def _keep(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as draft:
        try:
            draft.write(text)
            draft.close()
            os.replace(draft.name, path)
        except BaseException:
            os.unlink(draft.name)
            raise


def _compile() -> str:
    # The child is to be of this very package, whatever lies in the working directory.
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "ovs_ebpf_tap.ebpf.compile"],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            check=False,
            timeout=COMPILE_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise TapError(f"compiling the programs took over {COMPILE_TIMEOUT} s") from None
    if child.returncode:
        lines = (child.stderr + child.stdout).strip().splitlines()
        errors = [line for line in lines if "error:" in line] or lines[-1:] or ["killed"]
        raise TapError(f"compiling the programs failed: {errors[0]}")
    return child.stdout


# From what is kept to the kernel.


def _load_and_pin(made: Object, directory: Path) -> None:
    """Leaves programs and maps pinned below the directory, which appears whole or not at all."""
    with contextlib.ExitStack() as stack:

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        maps = {name: opened(bpf.create_map(layout, name)) for name, layout in made.maps.items()}
        copy_tag = _copy_tag_of_builds(directory.parent) or secrets.randbits(64) or 1
        kept = opened(bpf.create_map(_COPY_TAG_LAYOUT, COPY_TAG))
        bpf.Map(kept).set(bpf.u32(0), copy_tag.to_bytes(8, sys.byteorder))
        constants = {"global.copy_tag": copy_tag, **_kernel_constants()}
        fds = list(maps.values())
        programs = {
            name: opened(_load(bind_program(made.codes[name], constants, fds), name))
            for name in PROGRAMS
        }
        for name, index in NEXT.items():
            bpf.Map(maps["next"]).set(bpf.u32(index), bpf.u32(programs[name]))
        templates = bpf.Map(maps["templates"])
        for name, index in TEMPLATES.items():
            code = bind_global_constants(made.codes[name], constants)
            templates.set(bpf.u32(index), code.ljust(templates.value_size, b"\0"))
        # A bpffs takes no dots in names.
        draft = directory.with_name(f"{DRAFT}{directory.name}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        for name, fd in {**programs, **maps, COPY_TAG: kept}.items():
            bpf.pin(fd, draft / name)
            probe("program pinned")
        probe("programs pinned under their draft's name")
        draft.rename(directory)
        probe("programs pinned")


def _load(code: bytes, name: str) -> int:
    """As `bpf.load_classifier`; logs the verifier's last words on a program that it refuses."""
    try:
        return bpf.load_xdp(code, name) if name == XDP else bpf.load_classifier(code, name)
    except bpf.RefusedError as error:
        if name not in _told:
            _told.add(name)
            for line in error.said.splitlines()[-_LAST_WORDS:]:
                log.error("verifier", program=name, line=line)
        raise


def _copy_tag_of_builds(pin_dir: Path) -> int:
    """The copy tag of the builds there; 0 if there is none.

    While one build replaces another, copies go from hooks of the one to hooks of the other.
    """
    for directory in builds(pin_dir):
        try:
            fd = _open_pin(directory, COPY_TAG)
        except FileNotFoundError:
            continue
        try:
            return int.from_bytes(bpf.Map(fd).get(bpf.u32(0)) or b"", sys.byteorder)
        finally:
            os.close(fd)
    return 0


def _kernel_constants() -> dict[str, int]:
    """Secrets that no sender knows, and times in the running kernel's ticks."""
    tick = time.clock_getres(_MONOTONIC_COARSE)
    return {
        **{f"global.secret[{n}]": secrets.randbits(64) for n in range(abi.constant("SECRETS"))},
        **{
            f"global.{name}_ticks": math.ceil(abi.constant(f"{name.upper()}_MS") / 1000 / tick)
            for name in ("forget", "race")
        },
    }


def remove_build(directory: Path) -> None:
    """Unpins a build."""
    shutil.rmtree(directory, ignore_errors=True)
