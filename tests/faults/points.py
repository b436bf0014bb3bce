"""Where a sidecar can be killed: it runs as usual, and sends itself a signal at a named point.

    FAULTS_POINT='link made' FAULTS_SIGNAL=SIGKILL FAULTS_ARMED=FILE python -m faults.points run ...

It does so once the file is there, and removes that first, which tells that the point was reached.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovs_ebpf_tap import cli
from ovs_ebpf_tap.model.rows import SELECT_VLAN_KEY
from ovs_ebpf_tap.model.transaction import Transaction
from ovs_ebpf_tap.util import probes

POINT = "FAULTS_POINT"
SIGNAL = "FAULTS_SIGNAL"
ARMED = "FAULTS_ARMED"


def _always(_: object) -> bool:
    return True


class _Calls:
    """Counts what is seen while the file is there; sends the signal at the `nth`."""

    def __init__(self, armed: Path, nth: int) -> None:
        self._armed = armed
        self._left = nth

    def note(self) -> None:
        if self._armed.exists():
            self._left -= 1
            if self._left == 0:
                _signal(self._armed)


@dataclass(frozen=True)
class Probe:
    """The `nth` time that the code reaches `probe(name)`, with a subject that `is_meant`.

    By default it has the point's own name.
    """

    name: str | None = None
    nth: int = 1
    is_meant: Callable[[Any], bool] = _always

    def arm(self, point: str, armed: Path) -> None:
        """Adds the handler."""
        name = self.name or point
        calls = _Calls(armed, self.nth)

        def handle(reached: str, subject: object) -> None:
            if reached == name and self.is_meant(subject):
                calls.note()

        probes.handlers.append(handle)


@dataclass(frozen=True)
class Unlink:
    """After the `nth` file was removed: of a directory that is removed as a whole."""

    nth: int

    def arm(self, _point: str, armed: Path) -> None:
        """Wraps `os.unlink`."""
        unlink = os.unlink
        calls = _Calls(armed, self.nth)

        @functools.wraps(unlink)
        def wrapper(*args: Any, **kwargs: Any) -> None:
            unlink(*args, **kwargs)
            calls.note()

        os.unlink = wrapper


def _signal(armed: Path) -> None:
    armed.unlink()
    os.kill(os.getpid(), signal.Signals[os.environ[SIGNAL]])


def _parks(edits: Transaction) -> bool:
    return any(SELECT_VLAN_KEY in edit.set_ids for edit in edits.mirrors)


def _gives_back(edits: Transaction) -> bool:
    return any(SELECT_VLAN_KEY in edit.delete_ids for edit in edits.mirrors)


POINTS: dict[str, Probe | Unlink] = {
    # Starting.
    "lock taken": Probe(),
    "half of the programs pinned": Probe("program pinned", nth=3),
    "programs pinned under their draft's name": Probe(),
    "programs pinned": Probe(),
    "programs opened": Probe(),
    "hooks read": Probe(),
    "control socket made": Probe(),
    "rows read": Probe(),
    "first pass made": Probe("pass made"),
    # Adopting an older build.
    "older build found": Probe(),
    "older qdisc noted": Probe("qdisc noted"),
    "older hooks taken over": Probe(),
    "older counters taken over": Probe(),
    "older build taken over": Probe(),
    "half of the older build removed": Unlink(nth=3),
    "older build removed": Probe(),
    # Hooks.
    "slots taken": Probe(),
    "grace periods expedited": Probe(),
    "own program loaded": Probe(),
    "link made": Probe(),
    "link's program replaced": Probe(),
    "qdisc noted": Probe(),
    "qdisc made": Probe(),
    "program that untags attached": Probe(),
    "program attached": Probe(),
    "entry written": Probe(),
    "second program attached": Probe("program attached", nth=2),
    "second entry written": Probe("entry written", nth=2),
    "third program attached": Probe("program attached", nth=3),
    "third entry written": Probe("entry written", nth=3),
    "hooks there": Probe(),
    "hooks about to go": Probe(),
    "link detached": Probe(),
    "filter removed": Probe(),
    "hook removed": Probe(),
    "qdisc about to go": Probe(),
    "qdisc removed": Probe(),
    "qdisc forgotten": Probe(),
    "slots about to be freed": Probe(),
    "slots freed": Probe(),
    # Rows.
    "parking about to be sent": Probe("transaction about to be sent", is_meant=_parks),
    "parking sent": Probe("transaction sent", is_meant=_parks),
    "giving back about to be sent": Probe("transaction about to be sent", is_meant=_gives_back),
    "giving back sent": Probe("transaction sent", is_meant=_gives_back),
    "waiting for revalidators": Probe(),
    "flow_mod about to be sent": Probe(),
    # Ending.
    "all given back": Probe(),
    "control socket closed": Probe(),
    "keys about to be forgotten": Probe(),
    "keys forgotten": Probe(),
    "pins about to be removed": Probe(),
    "half of the pins removed": Unlink(nth=8),
    "pins removed": Probe(),
    "command gave all back": Probe(),
    "command about to forget keys": Probe(),
    "leftovers about to be removed": Probe(),
    "leftovers removed": Probe(),
    "lock about to be given back": Probe(),
}


def main() -> int:
    """Runs the command line; returns its exit status if it was not killed."""
    point = os.environ[POINT]
    POINTS[point].arm(point, Path(os.environ[ARMED]))
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
