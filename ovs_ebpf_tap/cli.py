"""The command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ovs_ebpf_tap import control, logs, release, service, session, status
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.ovsdb import default_remote

FAILED = 1


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
        "--on-exit",
        choices=("keep", "restore"),
        default="keep",
        help="keep: mirrors stay offloaded without the process; restore: give them back to OVS",
    )

    show = commands.add_parser("status", help="show every mirror")
    _add_places(show)
    show.add_argument("--json", action="store_true", help="print JSON")

    give = commands.add_parser("release", help="give mirrors back to Open vSwitch")
    _add_places(give)
    chosen = give.add_mutually_exclusive_group()
    chosen.add_argument("--all", action="store_true", help="all mirrors (default), for good")
    chosen.add_argument("mirrors", nargs="*", metavar="MIRROR", default=[], help="names or UUIDs")
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ovsdb", default=default_remote(), metavar="unix:PATH")
    parser.add_argument("--run-dir", type=Path, default=control.DEFAULT_RUN_DIR, metavar="DIR")
    parser.add_argument("--pin-dir", type=Path, default=session.DEFAULT_PIN_DIR, metavar="DIR")


def _options(arguments: argparse.Namespace) -> session.Options:
    return session.Options(
        ovsdb=arguments.ovsdb,
        run_dir=arguments.run_dir,
        pin_dir=arguments.pin_dir,
        attach=getattr(arguments, "attach", "auto"),
        restore_on_exit=getattr(arguments, "on_exit", "keep") == "restore",
    )


def _command(arguments: argparse.Namespace) -> None:
    options = _options(arguments)
    if arguments.command == "run":
        service.run(options)
    elif arguments.command == "status":
        mirrors = session.show_status(options)
        print(status.as_json(mirrors) if arguments.json else status.as_table(mirrors))
    else:
        for line in release.release(options, tuple(arguments.mirrors)):
            print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    logs.configure()
    try:
        _command(arguments)
    except (TapError, OSError) as error:
        print(f"ovs-ebpf-tap: {error}", file=sys.stderr)
        return FAILED
    return 0
