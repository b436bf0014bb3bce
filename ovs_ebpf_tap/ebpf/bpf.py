"""bpf(2): maps, programs, links and their pins. The only module that makes this call.

It goes through the C library's syscall(2), so that the sidecar needs neither bcc nor LLVM in
its memory. Attributes are laid out as `union bpf_attr` in Linux's `include/uapi/linux/bpf.h`.
Every function raises OSError as the kernel says it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
from dataclasses import dataclass
from errno import E2BIG, EACCES, EINVAL, ENODEV, ENOENT, ENOSYS
from pathlib import Path

# Numbers of bpf(2) by machine: Linux, arch/*/entry/syscalls and include/uapi/asm-generic/unistd.h.
_SYSCALLS = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
    "s390x": 351,
}

_NUMBER = _SYSCALLS.get(platform.machine())

# enum bpf_cmd
_MAP_CREATE = 0
_MAP_LOOKUP_ELEM = 1
_MAP_UPDATE_ELEM = 2
_MAP_DELETE_ELEM = 3
_PROG_LOAD = 5
_OBJ_PIN = 6
_OBJ_GET = 7
_PROG_TEST_RUN = 10
_PROG_GET_FD_BY_ID = 13
_OBJ_GET_INFO_BY_FD = 15
_PROG_QUERY = 16
_MAP_LOOKUP_BATCH = 24
_LINK_CREATE = 28
_LINK_UPDATE = 29
_LINK_DETACH = 34

# enum bpf_attach_type
TCX_INGRESS = 46
TCX_EGRESS = 47

_BEFORE = 1 << 3  # BPF_F_BEFORE

_LINK_TYPE_TCX = 11
_PROG_TYPE_SCHED_CLS = 3
_PROG_TYPE_XDP = 6

# `batch` in the union: where to start and to go on, keys, values, how many, map, and two flags.
_BATCH = struct.Struct("=QQQQIIQQ")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _bpf(command: int, attr: bytes, *, size: int = 0) -> tuple[int, bytes]:
    """Makes the call; returns its result and the attributes as the kernel left them."""
    buffer = ctypes.create_string_buffer(attr, max(size, len(attr)))
    return _call(command, buffer), buffer.raw


def _call(command: int, attr: ctypes.Array[ctypes.c_char]) -> int:
    """Makes the call, which leaves what it has to say in the attributes, failing or not."""
    if _NUMBER is None:
        raise OSError(ENOSYS, f"bpf(2)'s number on {platform.machine()} is not known")
    result = _libc.syscall(
        ctypes.c_long(_NUMBER), ctypes.c_int(command), attr, ctypes.c_uint(len(attr))
    )
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(result)


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def u32(number: int) -> bytes:
    """A number as keys and values of maps have it."""
    return number.to_bytes(4, sys.byteorder)


def pin(fd: int, path: Path) -> None:
    """Gives the object a name in a bpffs."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, struct.pack("=QII", _address(name), fd, 0))


def get(path: Path) -> int:
    """A new descriptor of the object pinned at `path`; the caller closes it."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, struct.pack("=QII", _address(name), 0, 0))[0]


def _info(fd: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, size, _address(buffer)))
    return buffer.raw


def program_id(fd: int) -> int:
    """The id of a program."""
    return int(struct.unpack_from("=I", _info(fd, 16), 4)[0])


def program_name(identifier: int) -> str:
    """The name of the program with that id, of at most 15 letters."""
    fd = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", identifier, 0, 0))[0]
    try:
        return _info(fd, 80)[64:].partition(b"\0")[0].decode(errors="replace")
    finally:
        os.close(fd)


def possible_cpus() -> int:
    """How many values a per-CPU map holds for each key."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    last = text.strip().split(",")[-1].split("-")[-1]
    return int(last) + 1


@dataclass(frozen=True)
class TcxLink:
    """A TCX link; `ifindex` is 0 when its device is gone."""

    id: int
    program_id: int
    ifindex: int
    attach_type: int


def tcx_link(fd: int) -> TcxLink:
    """What a link says of itself. Raises OSError (EINVAL) if it is no TCX link."""
    kind, link_id, prog_id, ifindex, attach_type = struct.unpack_from("=IIIxxxxII", _info(fd, 32))
    if kind != _LINK_TYPE_TCX:
        raise OSError(EINVAL, "not a TCX link")
    return TcxLink(link_id, prog_id, ifindex, attach_type)


def create_tcx_link(program_fd: int, ifindex: int, attach_type: int) -> int:
    """Attaches a program before those that are there; returns the link's descriptor.

    Behind one that ends the hook's run it would see nothing.
    """
    attributes = struct.pack("=IIII", program_fd, ifindex, attach_type, _BEFORE)
    return _bpf(_LINK_CREATE, attributes, size=64)[0]


def update_link(link_fd: int, program_fd: int) -> None:
    """Puts another program in the place of a link's, without a gap."""
    _bpf(_LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, 0, 0))


def detach_link(link_fd: int) -> None:
    """Takes a link off its device at once; without it the kernel does that when it comes to it."""
    _bpf(_LINK_DETACH, struct.pack("=I", link_fd))


_MAX_PROGRAMS = 64  # BPF_MPROG_MAX: as many as a TCX hook takes


def attached_tcx(ifindex: int, attach_type: int) -> tuple[tuple[int, int], ...]:
    """The ids of a hook's programs, and of their links, 0 for a program that has none."""
    programs = ctypes.create_string_buffer(4 * _MAX_PROGRAMS)
    links = ctypes.create_string_buffer(4 * _MAX_PROGRAMS)
    attr = struct.pack(
        "=IIIIQIxxxxQQQQ",
        *(ifindex, attach_type, 0, 0, _address(programs), _MAX_PROGRAMS),
        *(0, _address(links), 0, 0),
    )
    count = struct.unpack_from("=I", _bpf(_PROG_QUERY, attr)[1], 24)[0]
    form = struct.Struct(f"={count}I")
    return tuple(zip(form.unpack_from(programs.raw), form.unpack_from(links.raw), strict=True))


def tcx_revision(ifindex: int, attach_type: int) -> int:
    """A number that changes whenever something is attached to a hook, or taken off it."""
    attr = struct.pack("=IIIIQIxxxxQQQQ", ifindex, attach_type, 0, 0, 0, 0, 0, 0, 0, 0)
    return int(struct.unpack_from("=Q", _bpf(_PROG_QUERY, attr)[1], 56)[0])


def is_on_device(link: TcxLink) -> bool:
    """Whether the link is on the device of that ifindex in our network namespace."""
    try:
        return any(link.id == each for _, each in attached_tcx(link.ifindex, link.attach_type))
    except OSError as error:
        if error.errno == ENODEV:
            return False
        raise


def count_tcx(ifindex: int) -> int:
    """How many programs are on the device's TCX hooks, anybody's; 0 where there are none."""
    if not has_tcx(ifindex):
        return 0
    return len(attached_tcx(ifindex, TCX_INGRESS)) + len(attached_tcx(ifindex, TCX_EGRESS))


def has_tcx(ifindex: int) -> bool:
    """Whether the kernel has TCX hooks (Linux 6.6 and later)."""
    try:
        attached_tcx(ifindex, TCX_INGRESS)
    except OSError as error:
        if error.errno == EINVAL:
            return False
        raise
    return True


EMPTY = struct.pack("=BBhiBBhi", 0xB7, 0, 0, -1, 0x95, 0, 0, 0)
"""The code of a classifier that has the packet go on."""


_REFUSALS = (EACCES, EINVAL, E2BIG)
"""How the verifier refuses a program."""

_VERIFIER_LOG = (1 << 24) - 1
"""Bytes for what it says, which before Linux 6.4 ends where there is no more room."""


class RefusedError(OSError):
    """A program was refused; `said` is what the verifier says of it, empty if it was not that."""

    def __init__(self, error: OSError, said: str) -> None:
        super().__init__(error.errno, error.strerror)
        self.said = said


def load_classifier(code: bytes, name: str) -> int:
    """Loads a SCHED_CLS program of at most 15 letters; returns its descriptor.

    Raises RefusedError if the verifier may have refused it.
    """
    return _load_or_tell(_PROG_TYPE_SCHED_CLS, code, name)


def load_xdp(code: bytes, name: str) -> int:
    """As `load_classifier`, an XDP program."""
    return _load_or_tell(_PROG_TYPE_XDP, code, name)


def _load_or_tell(kind: int, code: bytes, name: str) -> int:
    try:
        return _load(kind, code, name)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        said = ctypes.create_string_buffer(_VERIFIER_LOG)
        with contextlib.suppress(OSError):  # Refused again, or its log did not fit.
            os.close(_load(kind, code, name, said))
        raise RefusedError(error, said.value.decode(errors="replace")) from None


def _load(
    kind: int, code: bytes, name: str, said: ctypes.Array[ctypes.c_char] | None = None
) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    log = (0, 0, 0) if said is None else (1, len(said), _address(said))
    attr = struct.pack(
        "=IIQQIIQII16s",
        *(kind, len(code) // 8, _address(instructions), _address(licence)),
        *(*log, 0, 0, name.encode()),
    )
    return _bpf(_PROG_LOAD, attr, size=120)[0]


def run_classifier(program_fd: int, frame: bytes) -> int:
    """Runs a SCHED_CLS program on a frame that is on no device; returns what it returns."""
    data = ctypes.create_string_buffer(frame, len(frame))
    attr = struct.pack("=IIIIQQII", program_fd, 0, len(frame), 0, _address(data), 0, 1, 0)
    return int(struct.unpack_from("=i", _bpf(_PROG_TEST_RUN, attr, size=80)[1], 4)[0])


@dataclass(frozen=True)
class MapLayout:
    """What a map is made with: its type and flags as numbers of `include/uapi/linux/bpf.h`."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


def map_layout(fd: int) -> MapLayout:
    """What the map was made with."""
    kind, _, *others = struct.unpack_from("=IIIIII", _info(fd, 80))
    return MapLayout(kind, *others)


def create_map(layout: MapLayout, name: str) -> int:
    """Makes a map with a name of at most 15 letters; returns its descriptor."""
    attr = struct.pack(
        "=IIIIIII16s",
        *(layout.type, layout.key_size, layout.value_size, layout.max_entries, layout.flags),
        *(0, 0, name.encode()),
    )
    return _bpf(_MAP_CREATE, attr, size=72)[0]


class Map:
    """A map with keys and values of fixed length; `values` of them for each key if per CPU."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        info = struct.unpack_from("=IIIII", _info(fd, 80))
        self.id, self.key_size, self.value_size, self.max_entries = info[1:]
        self._read_size = self.value_size
        if info[0] in (5, 6):  # BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY
            self._read_size = (self.value_size + 7) // 8 * 8 * possible_cpus()

    def close(self) -> None:
        """Closes the descriptor; the map lives on where it is pinned or used."""
        os.close(self.fd)

    def _element(self, command: int, key: bytes, value: int, flags: int = 0) -> None:
        name = ctypes.create_string_buffer(key, self.key_size)
        _bpf(command, struct.pack("=IxxxxQQQ", self.fd, _address(name), value, flags))

    def get(self, key: bytes) -> bytes | None:
        """The value, those of all CPUs one after the other if per CPU; None if there is none."""
        value = ctypes.create_string_buffer(self._read_size)
        try:
            self._element(_MAP_LOOKUP_ELEM, key, _address(value))
        except OSError as error:
            if error.errno == ENOENT:
                return None
            raise
        return value.raw

    def set(self, key: bytes, value: bytes) -> None:
        """Stores the value; a per-CPU map wants those of all CPUs."""
        buffer = ctypes.create_string_buffer(value, self._read_size)
        self._element(_MAP_UPDATE_ELEM, key, _address(buffer))

    def clear(self, key: bytes) -> None:
        """Stores zeroes."""
        self.set(key, bytes(self._read_size))

    def delete(self, key: bytes) -> None:
        """Removes the key, if it is there."""
        try:
            self._element(_MAP_DELETE_ELEM, key, 0)
        except OSError as error:
            if error.errno != ENOENT:
                raise

    def items(self) -> dict[bytes, bytes]:
        """All keys of a hash map with their values."""
        keys, values = self._batch(self.max_entries)
        return dict(zip(keys, values, strict=True))

    def first(self, count: int) -> list[bytes]:
        """The values at the first places of an array map, as `get` has them."""
        return self._batch(count)[1] if count else []

    def _batch(self, count: int) -> tuple[list[bytes], list[bytes]]:
        """As many keys and values as there are, `count` at most."""
        keys = ctypes.create_string_buffer(count * self.key_size)
        values = ctypes.create_string_buffer(count * self._read_size)
        following = ctypes.create_string_buffer(max(4, self.key_size))
        addresses = (0, _address(following), _address(keys), _address(values))
        buffer = ctypes.create_string_buffer(_BATCH.pack(*addresses, count, self.fd, 0, 0))
        try:
            _call(_MAP_LOOKUP_BATCH, buffer)
        except OSError as error:
            if error.errno != ENOENT:  # It says that these are the last ones.
                raise
        found = _BATCH.unpack(buffer.raw[: _BATCH.size])[4]
        return (
            _cut(keys.raw, self.key_size, found),
            _cut(values.raw, self._read_size, found),
        )


def _cut(data: bytes, size: int, count: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, count * size, size)]
