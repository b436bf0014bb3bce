"""Compiles the programs with bcc and pins them. Runs as a short-lived child of its own.

bcc brings LLVM and clang, some 130 MB, which the sidecar does not keep. It also wants a tree
of kernel headers; `bpf/include` stands in for one, since the programs need none.

`python -m ovs_ebpf_tap.compile DIR` pins programs and maps below DIR, which is on a bpffs and
appears whole or not at all. What goes wrong is one line on stderr and exit status 1.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import time
from pathlib import Path

from ovs_ebpf_tap import abi, bpf
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.template import make_template, with_exchanges

# Those that others go on with, and their places in the map of these.
NEXT = {
    "tap_rules": abi.constant("NEXT_RULES"),
    "tap_key": abi.constant("NEXT_EXTRACT"),
    "tap_finish": abi.constant("NEXT_FINISH"),
}
PROGRAMS = ("tap_ingress", "tap_egress", "tap_unmark", *NEXT)
# What is loaded for each hook anew, and the place of its template.
TEMPLATES = {
    "tap_one": abi.constant("TEMPLATE_ONE"),
    "tap_out": abi.constant("TEMPLATE_OUT"),
}
DRAFT = "draft-"
MAPS = (
    "ingress",
    "egress",
    "rules",
    "ports",
    "edits",
    "vlans",
    "matches",
    "next",
    "counters",
    "mirrors",
    "qdiscs",
    "frames",
    "departures",
    "scratch",
    "templates",
)

_MONOTONIC_COARSE = 6  # CLOCK_MONOTONIC_COARSE, which goes by ticks

_INCLUDE = re.compile(r'#include "(\w+\.h)"')


def expand(source: Path) -> str:
    """The text of a source with its own headers in place: bcc rewrites maps in one file only."""
    lines = [f'#line 1 "{source.name}"']
    for number, line in enumerate(source.read_text().splitlines(), start=1):
        header = _INCLUDE.match(line)
        if header:
            lines += [expand(source.parent / header[1]), f'#line {number + 1} "{source.name}"']
        else:
            lines.append(line)
    return "\n".join(lines)


def compiler_flags(seed: int) -> list[str]:
    """What the sources want to be told: the seed of digests, and the running kernel's ticks."""
    ticks = round(1 / time.clock_getres(_MONOTONIC_COARSE))
    return ["-Wall", f"-DTAP_SEED={seed}ULL", f"-DTAP_HZ={ticks}"]


def compile_and_pin(directory: Path) -> None:
    """Leaves the programs and maps pinned below `directory`; raises TapError or OSError."""
    os.environ["BCC_KERNEL_SOURCE"] = str(abi.source_dir())
    try:
        from bcc import BPF
    except ImportError as error:
        raise TapError(f"bcc is missing ({error}): install Debian's python3-bpfcc") from None
    # The seed keeps a sender from choosing frames whose digests collide.
    flags = compiler_flags(secrets.randbits(64))
    try:
        module = BPF(text=expand(abi.source_dir() / "tap.c"), cflags=flags)
        programs = {
            name: bpf.load_classifier(with_exchanges(module.dump_func(name)), name)
            for name in PROGRAMS
        }
        maps = {name: module[name].map_fd for name in MAPS}
        templates = {
            place: make_template(with_exchanges(module.dump_func(name)), list(maps.values()))
            for name, place in TEMPLATES.items()
        }
    except Exception as error:
        raise TapError(f"the programs cannot be built: {error}") from None
    following = bpf.Map(maps["next"])
    for name, place in NEXT.items():
        key = place.to_bytes(following.key_size, sys.byteorder)
        following.set(key, programs[name].to_bytes(following.value_size, sys.byteorder))
    for place, template in templates.items():
        bpf.Map(maps["templates"]).set(place.to_bytes(4, sys.byteorder), template)
    # A bpffs takes no dots in names.
    draft = directory.with_name(f"{DRAFT}{directory.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    for name, fd in {**programs, **maps}.items():
        bpf.pin(fd, draft / name)
    draft.rename(directory)


def main() -> int:
    """Compiles into the directory named on the command line."""
    try:
        compile_and_pin(Path(sys.argv[1]))
    except (TapError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
