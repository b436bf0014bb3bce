"""The command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TypeVar

from ovs_ebpf_tap.commands import release, run
from ovs_ebpf_tap.daemon import control, runtime, status
from ovs_ebpf_tap.decide import policing
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.observe.ovsdb import default_remote
from ovs_ebpf_tap.util import logs
from ovs_ebpf_tap.util.text import printable

FAILED = 1

_Number = TypeVar("_Number", int, float)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ovs-ebpf-tap",
        description="Copies the packets of Open vSwitch's mirrors with eBPF.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="take mirrors over and keep them, in the foreground")
    _add_places(run)
    run.add_argument("--attach", choices=("auto", "tcx", "clsact"), default="auto")
    run.add_argument(
        "--clsact-delay",
        type=_not_negative,
        default=policing.COOL_DOWN,
        metavar="S",
        help="how long a device that is new, or has lost another program's ingress qdisc, is kept "
        "free of clsact, which would exclude another (default: %(default)g; not with TCX)",
    )
    run.add_argument(
        "--on-exit",
        choices=("keep", "restore"),
        default="keep",
        help="keep: mirrors stay offloaded without the process; restore: give them back to OVS",
    )
    run.add_argument(
        "--fast-attach",
        action="store_true",
        help="have the kernel expedite RCU's grace periods while TCX hooks come and go",
    )

    show = commands.add_parser("status", help="show every mirror")
    _add_places(show)
    show.add_argument("--json", action="store_true", help="print JSON")

    give = commands.add_parser("release", help="give mirrors back to Open vSwitch")
    _add_places(give)
    chosen = give.add_mutually_exclusive_group()
    chosen.add_argument("--all", action="store_true", help="all mirrors (default), for good")
    chosen.add_argument("mirrors", nargs="*", metavar="MIRROR", default=[], help="names or UUIDs")

    _add_compare(commands.add_parser("compare", help="measure a mirror both ways, in turn"))
    return parser


def _add_compare(parser: argparse.ArgumentParser) -> None:
    _add_places(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "mirror", nargs="?", metavar="MIRROR", help="a name or UUID; its traffic is left alone"
    )
    what.add_argument("--lab", action="store_true", help="a switch, hosts and traffic of its own")
    parser.add_argument(
        "--datapath", choices=("netdev", "system"), help="the lab's (default: netdev)"
    )
    parser.add_argument(
        "--seconds",
        type=_positive(float),
        metavar="S",
        help="how long each run is (default: 5; 2 in the lab)",
    )
    parser.add_argument(
        "--rounds",
        type=_positive(int),
        metavar="N",
        help="how often each way is measured (default: 4; 3 in the lab)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with every reading")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots, too")


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


_not_negative.__name__ = "number of seconds"  # argparse has it in its message.


def _positive(kind: type[_Number]) -> Callable[[str], _Number]:
    def parse(text: str) -> _Number:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    parse.__name__ = "positive number"  # argparse has it in its message.
    return parse


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ovsdb", default=default_remote(), metavar="unix:PATH")
    parser.add_argument("--run-dir", type=Path, default=control.DEFAULT_RUN_DIR, metavar="DIR")
    parser.add_argument("--pin-dir", type=Path, default=runtime.DEFAULT_PIN_DIR, metavar="DIR")


def _options(arguments: argparse.Namespace) -> runtime.Options:
    return runtime.Options(
        ovsdb=arguments.ovsdb,
        run_dir=arguments.run_dir,
        pin_dir=arguments.pin_dir,
        attach=getattr(arguments, "attach", "auto"),
        clsact_delay=getattr(arguments, "clsact_delay", policing.COOL_DOWN),
        restore_on_exit=getattr(arguments, "on_exit", "keep") == "restore",
        fast_attach=getattr(arguments, "fast_attach", False),
    )


def _command(arguments: argparse.Namespace) -> None:
    options = _options(arguments)
    if arguments.command == "run":
        run.run(options)
    elif arguments.command == "status":
        mirrors = runtime.show_status(options)
        print(status.as_json(mirrors) if arguments.json else status.as_table(mirrors))
    elif arguments.command == "release":
        for line in release.release(options, tuple(arguments.mirrors)):
            print(printable(line))
    else:
        # Not for the sidecar to load.
        from ovs_ebpf_tap.compare import command

        command.run(
            options,
            command.Request(
                mirror=arguments.mirror,
                datapath=arguments.datapath,
                seconds=arguments.seconds,
                rounds=arguments.rounds,
                json=arguments.json,
                page=arguments.html,
            ),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "compare" and arguments.datapath and not arguments.lab:
        parser.error("argument --datapath: it is the lab's, for --lab")
    logs.configure()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Names need not fit the locale.
    try:
        _command(arguments)
    except (TapError, OSError) as error:
        print(f"ovs-ebpf-tap: {printable(str(error))}", file=sys.stderr)
        return FAILED
    return 0
