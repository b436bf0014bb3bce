"""Compiles the programs with bcc. Runs as a short-lived child of its own.

bcc brings LLVM and clang, some 130 MB, which the sidecar does not keep. It also wants a tree
of kernel headers; `bpf/include` stands in for one, since the programs need none.

`python -m ovs_ebpf_tap.ebpf.compile` prints the object (`object.py`), which any kernel
takes. What goes wrong is one line on stderr and exit status 1.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.ebpf.object import MAPS, PROGRAMS, TEMPLATES, Object
from ovs_ebpf_tap.ebpf.template import name_maps, with_exchanges
from ovs_ebpf_tap.errors import TapError

FLAGS = ["-Wall"]

_INCLUDE = re.compile(r'#include "(\w+\.h)"')


def expand(source: Path) -> str:
    """The text of a source with its own headers in place: bcc rewrites maps in one file only.

    A header is put where it is first included.
    """
    return "\n".join(_expanded(source, set()))


def _expanded(source: Path, seen: set[str]) -> Iterator[str]:
    seen.add(source.name)
    yield f'#line 1 "{source.name}"'
    for number, line in enumerate(source.read_text().splitlines(), start=1):
        header = _INCLUDE.match(line)
        if not header:
            yield line
        elif header[1] in seen:
            yield ""
        else:
            yield from _expanded(source.parent / header[1], seen)
            yield f'#line {number + 1} "{source.name}"'


def build(source: str, maps: Sequence[str] = MAPS) -> Object:
    """Compiles a source with these maps; raises TapError."""
    os.environ["BCC_KERNEL_SOURCE"] = str(abi.source_dir())
    try:
        from bcc import BPF
    except ImportError as error:
        raise TapError(f"bcc is missing ({error}): install Debian's python3-bpfcc") from None
    try:
        module = BPF(text=source.encode(), cflags=FLAGS)
        fds = [module[name.encode()].map_fd for name in maps]
        codes = {name: module.dump_func(name.encode()) for name in (*PROGRAMS, *TEMPLATES)}
    except Exception as error:
        raise TapError(f"the programs cannot be built: {error}") from None
    return Object(
        maps={name: bpf.map_layout(fd) for name, fd in zip(maps, fds, strict=True)},
        codes={name: name_maps(with_exchanges(code), fds) for name, code in codes.items()},
    )


def main() -> int:
    """Prints the object."""
    try:
        print(build(expand(abi.source_dir() / "tap.c")).to_json())
    except (TapError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
