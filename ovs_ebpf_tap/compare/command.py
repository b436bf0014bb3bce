"""`compare` as the command line asks for it."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from ovs_ebpf_tap.compare import live, report
from ovs_ebpf_tap.compare.figures import Result
from ovs_ebpf_tap.daemon.runtime import Options
from ovs_ebpf_tap.errors import TapError

# Unless asked for, of a mirror and of the lab.
_SECONDS, _ROUNDS = 5.0, 4
_LAB_SECONDS, _LAB_ROUNDS = 2.0, 3

_PAGE_NEEDS = {"matplotlib": "matplotlib>=3.8", "jinja2": "jinja2>=3.1"}
"""Modules by what to install."""


@dataclass(frozen=True)
class Request:
    """What to compare and how to tell of it: the mirror, or without one the lab's."""

    mirror: str | None
    datapath: str | None
    seconds: float | None
    rounds: int | None
    json: bool
    page: Path | None


def run(options: Options, request: Request) -> None:
    """Compares, and prints what was found. Raises TapError."""
    if request.page is not None:
        _check_page(request.page)
    result = _compare(options, request)
    print(report.as_json(result) if request.json else report.as_table(result))
    if request.page is not None:
        from ovs_ebpf_tap.compare.page import as_page

        request.page.write_text(as_page(result))


def _compare(options: Options, request: Request) -> Result:
    if request.mirror is not None:
        runs = live.LiveRuns(request.mirror, request.seconds or _SECONDS, request.rounds or _ROUNDS)
        return live.compare(options, runs, _tell)
    from ovs_ebpf_tap.compare import lab_runs

    seconds, rounds = request.seconds or _LAB_SECONDS, request.rounds or _LAB_ROUNDS
    return lab_runs.compare(request.datapath, seconds, rounds, _tell)


def _check_page(page: Path) -> None:
    """Raises TapError now rather than after all the runs."""
    missing = [name for name in _PAGE_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        install = " ".join(f"'{_PAGE_NEEDS[name]}'" for name in missing)
        raise TapError(f"--html needs {' and '.join(missing)}: pip install {install}")
    if page.is_dir() or not page.absolute().parent.is_dir():
        raise TapError(f"cannot write {page}: it is to be a file in a directory that is there")


def _tell(line: str) -> None:
    """Says what is under way, to who looks on."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr)
