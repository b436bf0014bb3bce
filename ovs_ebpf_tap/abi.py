"""What the maps hold, as `bpf/tap.h` says it: constants and struct layouts.

The header is the one contract between the programs and the sidecar, so it is read, not
repeated. It keeps to a small dialect: `#define TAP_NAME number`, and structs of `__u32` and
`__u64` members in native byte order without padding.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_FORMATS = {"__u32": "I", "__u64": "Q"}


def source_dir() -> Path:
    """The folder of the C sources: in an installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent / "bpf"


class Layout:
    """A struct of the header, packed from and unpacked to a mapping of its members."""

    def __init__(self, members: Mapping[str, str]) -> None:
        self.members = tuple(members)
        self._struct = struct.Struct("=" + "".join(_FORMATS[kind] for kind in members.values()))
        self.size = self._struct.size

    def pack(self, **values: int) -> bytes:
        """Packs the members; those not named are 0. Raises KeyError on a member unknown."""
        for name in values:
            if name not in self.members:
                raise KeyError(name)
        return self._struct.pack(*(values.get(name, 0) for name in self.members))

    def unpack(self, data: bytes) -> dict[str, int]:
        """The members in `data`, which is `size` bytes long."""
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
        self.constants = {
            name: int(value, 0)
            for name, value in re.findall(r"^#define (TAP_\w+) (\w+)$", text, flags=re.MULTILINE)
        }
        self.layouts = {
            name: Layout({member: kind for kind, member in re.findall(r"(__u\d+) (\w+);", body)})
            for name, body in re.findall(r"struct (tap_\w+) \{(.*?)\};", text, flags=re.DOTALL)
        }


@cache
def _abi() -> Abi:
    return Abi((source_dir() / "tap.h").read_text())


def constant(name: str) -> int:
    """The value of `#define TAP_<name>`. Raises KeyError if the header lacks it."""
    return _abi().constants[f"TAP_{name}"]


def layout(name: str) -> Layout:
    """The layout of `struct tap_<name>`. Raises KeyError if the header lacks it."""
    return _abi().layouts[f"tap_{name}"]
