"""What the maps hold, as `bpf/tap.h` says it: constants and struct layouts.

The header is the one contract between the programs and the sidecar, so it is read, not
repeated. It keeps to a small dialect: `#define TAP_NAME number`, and structs without implicit
padding. Their members are numbers (`__u32`, `__u64`) in native byte order, or bytes: `__be16`,
`__be32`, and arrays as long as a number or a constant defined before says.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_NUMBERS = {"__u32": "I", "__u64": "Q"}
_SIZES = {"__u8": 1, "__be16": 2, "__be32": 4, "__u32": 4, "__u64": 8}

_CONSTANT = re.compile(r"^#define (TAP_\w+) (\w+)$", re.MULTILINE)
_STRUCT = re.compile(r"struct (tap_\w+) \{(.*?)\};", re.DOTALL)
_MEMBER = re.compile(r"(__\w+) (\w+)(?:\[(\w+)\])?;")


def source_dir() -> Path:
    """The folder of the C sources: in an installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent / "bpf"


class Layout:
    """A struct of the header, packed from and unpacked to a mapping of its numbers.

    `places` has every member's bytes, those of other members than numbers included; `offsets`
    those of numbers by name, and of arrays of numbers by names as `member[0]`.
    """

    def __init__(self, body: str, constants: Mapping[str, int]) -> None:
        self.places: dict[str, slice] = {}
        self.offsets: dict[str, int] = {}
        numbers = {}
        layout = "="
        for kind, member, length in _MEMBER.findall(body):
            start, size = struct.calcsize(layout), _SIZES[kind]
            if length:
                size *= constants[length] if length in constants else int(length, 0)
            if kind in _NUMBERS and not length:
                numbers[member] = kind
                layout += _NUMBERS[kind]
            else:
                layout += f"{size}x"
            self.places[member] = slice(start, start + size)
            if kind in _NUMBERS and not length:
                self.offsets[member] = start
            elif kind in _NUMBERS:
                each = range(start, start + size, _SIZES[kind])
                self.offsets |= {f"{member}[{n}]": offset for n, offset in enumerate(each)}
        self.members = tuple(numbers)
        self._struct = struct.Struct(layout)
        self.size = self._struct.size

    def pack(self, **values: int) -> bytes:
        """Packs the numbers; what is not named is 0. Raises KeyError on a number unknown."""
        for name in values:
            if name not in self.members:
                raise KeyError(name)
        return self._struct.pack(*(values.get(name, 0) for name in self.members))

    def unpack(self, data: bytes) -> dict[str, int]:
        """The numbers in `data`, which is `size` bytes long."""
        return dict(zip(self.members, self._struct.unpack(data), strict=True))

    def unpack_many(self, data: bytes) -> list[dict[str, int]]:
        """Consecutive structs, as a per-CPU map's value holds them."""
        return [
            dict(zip(self.members, each, strict=True)) for each in self._struct.iter_unpack(data)
        ]


class Abi:
    """The constants and layouts of a header's text."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        self.constants = {name: int(value, 0) for name, value in _CONSTANT.findall(text)}
        self.layouts = {name: Layout(body, self.constants) for name, body in _STRUCT.findall(text)}


@cache
def _abi() -> Abi:
    return Abi((source_dir() / "tap.h").read_text())


def constant(name: str) -> int:
    """The value of `#define TAP_<name>`. Raises KeyError if the header lacks it."""
    return _abi().constants[f"TAP_{name}"]


def layout(name: str) -> Layout:
    """The layout of `struct tap_<name>`. Raises KeyError if the header lacks it."""
    return _abi().layouts[f"tap_{name}"]
