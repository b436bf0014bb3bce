"""The programs and maps of one build, loaded and pinned (`pinning`)."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from errno import EACCES, EINVAL, ENOSYS, EPERM
from pathlib import Path
from typing import Self

import structlog

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf, pinning
from ovs_ebpf_tap.ebpf.build import build_id
from ovs_ebpf_tap.ebpf.object import (
    COPY_TAG,
    LATER,
    MAPS,
    NEXT,
    PROGRAMS,
    TEMPLATES,
    XDP,
    Object,
)
from ovs_ebpf_tap.ebpf.object_cache import ensure_object
from ovs_ebpf_tap.ebpf.template import bind_global_constants, bind_program
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS
from ovs_ebpf_tap.util import namespace
from ovs_ebpf_tap.util.probes import probe

_MONOTONIC_COARSE = 6  # CLOCK_MONOTONIC_COARSE, which goes by the kernel's ticks

_COPY_TAG_LAYOUT = bpf.MapLayout(type=2, key_size=4, value_size=8, max_entries=1, flags=0)

_RIGHTS = "run as root, with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
# For BPF_XCHG (5.12), and for BPF_MAP_LOOKUP_BATCH of per-CPU arrays (5.13). Before 5.11, maps
# counted for what a process may lock in memory: too little of that is EPERM.
_KERNEL = "Linux 5.13 or later is needed"
_NEEDED: Mapping[int | None, str] = {
    EPERM: f": {_RIGHTS}; {_KERNEL}",
    EACCES: f": {_RIGHTS}; {_KERNEL}",
    EINVAL: f": {_KERNEL}",
}
_LAST_WORDS = 12
"""Lines of what the verifier says that are logged, once for each program."""

_told: set[str] = set()

log = structlog.get_logger()


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

    def __init__(
        self,
        directory: Path,
        fds: Mapping[str, int],
        maps: Mapping[str, bpf.Map],
        ids: Mapping[str, int],
    ) -> None:
        """`fds` are those of programs, and of the copy tag's map; `ids` of hooks' by direction."""
        self.build = directory.name
        self.directory = directory
        self.maps = maps
        self.ids = ids
        self._fds = fds
        self._templates: dict[str, bytes] = {}

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Raises FileNotFoundError if not all are there that the build's version is to have."""
        fds = _open_pins(directory, PROGRAMS)
        with contextlib.suppress(FileNotFoundError):  # A build of an earlier version has none.
            fds[COPY_TAG] = pinning.open_pin(directory, COPY_TAG)
        maps = {name: bpf.Map(fd) for name, fd in _open_pins(directory, MAPS).items()}
        ids = {way: bpf.program_id(fds[f"tap_{way}"]) for way in (INGRESS, EGRESS)}
        opened = cls(directory, fds, maps, ids)
        probe("programs opened")
        return opened

    def fd(self, direction: str) -> int:
        """The descriptor of the program for the hooks of one direction."""
        return self._fds[f"tap_{direction}"]

    @property
    def untag(self) -> int:
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
        pinning.ensure_bpffs(self.directory.parent)
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
    return {name: pinning.open_pin(directory, name) for name in names}


def open_programs(pin_dir: Path) -> Programs | None:
    """This version's programs if they are pinned, all of them.

    One that was killed as it removed them has left some.
    """
    try:
        return Programs.open(pin_dir / build_id())
    except FileNotFoundError:
        return None


def ensure_programs(pin_dir: Path) -> Programs:
    """This version's programs, loaded now if they are not pinned. Raises TapError."""
    opened = open_programs(pin_dir)
    directory = pin_dir / build_id()
    if opened is None:
        pinning.remove_build(directory)
        try:
            _load_and_pin(ensure_object(), directory)
        except (TapError, OSError) as error:
            with contextlib.suppress(OSError):
                pin_dir.rmdir()
            if isinstance(error, OSError):
                needed = _NEEDED.get(error.errno, "")
                raise TapError(f"the kernel does not take the programs: {error}{needed}") from None
            raise
    return opened or Programs.open(directory)


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
        constants = {"global.copy_tag": copy_tag, **kernel_constants()}
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
        draft = directory.with_name(f"{pinning.DRAFT}{directory.name}")
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
    for directory in pinning.builds(pin_dir):
        try:
            fd = pinning.open_pin(directory, COPY_TAG)
        except FileNotFoundError:
            continue
        try:
            return int.from_bytes(bpf.Map(fd).get(bpf.u32(0)) or b"", sys.byteorder)
        finally:
            os.close(fd)
    return 0


def kernel_constants() -> dict[str, int]:
    """Secrets that no sender knows, and times in the running kernel's ticks."""
    tick = time.clock_getres(_MONOTONIC_COARSE)
    return {
        **{f"global.secret[{n}]": secrets.randbits(64) for n in range(abi.constant("SECRETS"))},
        **{
            f"global.{name}_ticks": math.ceil(abi.constant(f"{name.upper()}_MS") / 1000 / tick)
            for name in ("forget", "race")
        },
    }
