"""The command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TypeVar

from ovs_ebpf_tap.commands import release, run
from ovs_ebpf_tap.commands.status import show_status
from ovs_ebpf_tap.daemon import control, mirror_status, runtime
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
        description="Copies the packets of Open vSwitch's port mirrors with eBPF programs.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser(
        "run",
        help="offload mirrors, in the foreground",
        description="Offloads the mirrors of a database to eBPF, in the foreground, until SIGTERM "
        "or SIGINT. Logs go to standard error; the event `ready` follows the first full pass.",
    )
    _add_places(run)
    run.add_argument(
        "--attach",
        choices=("auto", "tcx", "clsact"),
        default="auto",
        help="kind of hooks: TCX links need Linux 6.6 or later, clsact filters work before; auto "
        "takes TCX where the kernel has it (default: %(default)s)",
    )
    run.add_argument(
        "--clsact-delay",
        type=_not_negative,
        default=policing.COOL_DOWN,
        metavar="S",
        help="seconds for which a device that is new, or has lost another program's ingress "
        "qdisc, is left free of clsact, so that the program can add an ingress qdisc (default: "
        "%(default)g; not for TCX)",
    )
    run.add_argument(
        "--on-exit",
        choices=("keep", "restore"),
        default="keep",
        help="keep: mirrors stay offloaded after the sidecar has ended; restore: give them back to "
        "Open vSwitch first (default: %(default)s)",
    )
    run.add_argument(
        "--log-format",
        choices=logs.FORMATS,
        default=logs.LOGFMT,
        help="format of the log: key=value pairs, a JSON object a line, or columns for people "
        "(default: %(default)s)",
    )
    run.add_argument(
        "--fast-attach",
        action="store_true",
        help="expedite the kernel's RCU grace periods while TCX hooks are attached or removed: "
        "faster, but interrupts each busy CPU briefly for each hook",
    )

    show = commands.add_parser(
        "status",
        help="show every mirror",
        description="Shows for every mirror: bridge, name, state, output, copied packets and "
        "bytes, drops, hooks, and why it is not offloaded. Reads the database and the kernel, so "
        "it works with and without a running sidecar.",
    )
    _add_places(show)
    show.add_argument("--json", action="store_true", help="print JSON")

    give = commands.add_parser(
        "release",
        help="give mirrors back to Open vSwitch",
        description="Gives mirrors back to Open vSwitch and sets their mode to native, with or "
        "without a running sidecar. Without names: all mirrors; a running sidecar then ends, and "
        "everything of this pin directory is removed from the kernel.",
    )
    _add_places(give)
    chosen = give.add_mutually_exclusive_group()
    chosen.add_argument("--all", action="store_true", help="all mirrors (the default)")
    chosen.add_argument("mirrors", nargs="*", metavar="MIRROR", default=[], help="name or UUID")

    _add_compare(
        commands.add_parser(
            "compare",
            help="compare native and eBPF copies of a mirror",
            description="Compares Open vSwitch's copies and eBPF's: packets, copies, missing and "
            "extra copies, drops and CPU time. MIRROR is moved between native and offloaded, round "
            "by round, beside the running sidecar; its mode is restored at the end.",
        )
    )
    return parser


def _add_compare(parser: argparse.ArgumentParser) -> None:
    _add_places(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "mirror",
        nargs="?",
        metavar="MIRROR",
        help="name or UUID of a mirror of this host",
    )
    what.add_argument("--lab", action="store_true", help="use a private switch, hosts and traffic")
    parser.add_argument(
        "--datapath",
        choices=("netdev", "system"),
        help="datapath of --lab (default: netdev, userspace)",
    )
    parser.add_argument(
        "--seconds",
        type=_positive(float),
        metavar="S",
        help="length of each run in seconds (default: 5; with --lab: 2)",
    )
    parser.add_argument(
        "--rounds",
        type=_positive(int),
        metavar="N",
        help="how often each way is measured (default: 4; with --lab: 3)",
    )
    parser.add_argument("--json", action="store_true", help="print all readings as JSON")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="also write a page with plots; needs pip install '.[html]'",
    )


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
    parser.add_argument(
        "--ovsdb",
        default=default_remote(),
        metavar="unix:PATH",
        help="socket of Open vSwitch's database (default: %(default)s)",
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=control.DEFAULT_RUN_DIR,
        metavar="DIR",
        help="directory of the control socket and the lock (default: %(default)s)",
    )
    parser.add_argument(
        "--pin-dir",
        type=Path,
        default=runtime.DEFAULT_PIN_DIR,
        metavar="DIR",
        help="directory of pinned programs, maps and links, under a bpffs (default: %(default)s)",
    )


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
        mirrors = show_status(options)
        print(mirror_status.as_json(mirrors) if arguments.json else mirror_status.as_table(mirrors))
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
    logs.configure(getattr(arguments, "log_format", logs.LOGFMT))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Names need not fit the locale.
    try:
        _command(arguments)
    except (TapError, OSError) as error:
        print(f"ovs-ebpf-tap: {printable(str(error))}", file=sys.stderr)
        return FAILED
    return 0
