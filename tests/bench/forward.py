"""Packets that a switch forwards beside copies: Open vSwitch's, the kernel's own, and eBPF's."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace

from ovs_ebpf_tap.compare import lab_runs
from ovs_ebpf_tap.compare.figures import NATIVE, NONE, OFFLOADED, TC
from ovs_ebpf_tap.compare.report import as_json, as_table
from ovs_ebpf_tap.errors import TapError

_PROGRAM = "scripts/bench forward"
_TITLE = "What copies take of what a switch forwards"


def _options() -> argparse.Namespace:
    about = f"{__doc__} The kernel's own are made by u32 and mirred on clsact, without a mirror."
    parser = argparse.ArgumentParser(prog=_PROGRAM, description=about)
    parser.add_argument("--datapath", choices=("netdev", "system"), help="default: netdev")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="length of each run (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def main() -> int:
    """Measures as the command line says; returns the exit status."""
    options = _options()
    try:
        result = lab_runs.compare(
            options.datapath,
            options.seconds,
            options.rounds,
            lambda line: print(line, file=sys.stderr, flush=True),
            (NONE, NATIVE, TC, OFFLOADED),
        )
    except TapError as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 1
    repeat = " ".join([_PROGRAM, *map(shlex.quote, sys.argv[1:])])
    result = replace(result, title=_TITLE, commands=(repeat,))
    print(as_json(result) if options.json else as_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
