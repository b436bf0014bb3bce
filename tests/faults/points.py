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
from ovs_ebpf_tap.apply import attacher
from ovs_ebpf_tap.model import transaction
from ovs_ebpf_tap.model.rows import SELECT_VLAN_KEY
from ovs_ebpf_tap.observe import ofp, ovsdb
from ovs_ebpf_tap.observe.revalidation import Revalidation
from ovs_ebpf_tap.util import probes

POINT = "FAULTS_POINT"
SIGNAL = "FAULTS_SIGNAL"
ARMED = "FAULTS_ARMED"

_Call = Callable[..., bool]


def _always(*_: Any) -> bool:
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
    """The `nth` time that the code reaches `probe(name)`; by default the point's own name.

    With `specialized_later` hooks are attached twice, as where there are many of them.
    """

    name: str | None = None
    nth: int = 1
    specialized_later: bool = False

    def arm(self, point: str, armed: Path) -> None:
        """Adds the handler."""
        name = self.name or point
        calls = _Calls(armed, self.nth)
        if self.specialized_later:
            attacher.AT_ONCE = 0.0
        probes.handlers.append(lambda reached: calls.note() if reached == name else None)


@dataclass(frozen=True)
class Patch:
    """Before or after the `nth` call of a function that `is_meant`; after, if it did not fail."""

    owner: Any
    name: str
    after: bool
    is_meant: _Call = _always
    nth: int = 1

    def arm(self, _point: str, armed: Path) -> None:
        """Wraps the function."""
        function = getattr(self.owner, self.name)
        calls = _Calls(armed, self.nth)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self.after and self.is_meant(*args):
                calls.note()
            result = function(*args, **kwargs)
            if self.after and self.is_meant(*args):
                calls.note()
            return result

        setattr(self.owner, self.name, wrapper)


def _signal(armed: Path) -> None:
    armed.unlink()
    os.kill(os.getpid(), signal.Signals[os.environ[SIGNAL]])


def _before(owner: Any, name: str, is_meant: _Call = _always, nth: int = 1) -> Patch:
    return Patch(owner, name, False, is_meant, nth)


def _after(owner: Any, name: str, is_meant: _Call = _always, nth: int = 1) -> Patch:
    return Patch(owner, name, True, is_meant, nth)


def _parks(_: Any, edits: transaction.Transaction) -> bool:
    return any(SELECT_VLAN_KEY in edit.set_ids for edit in edits.mirrors)


def _gives_back(_: Any, edits: transaction.Transaction) -> bool:
    return any(SELECT_VLAN_KEY in edit.delete_ids for edit in edits.mirrors)


POINTS: dict[str, Probe | Patch] = {
    # Starting.
    "lock taken": Probe(),
    "half of the programs pinned": Probe("program pinned", nth=3),
    "programs pinned under their draft's name": Probe(),
    "programs pinned": Probe(),
    "programs opened": Probe(),
    "hooks read": Probe(),
    "control socket made": Probe(),
    "rows read": _after(ovsdb.Ovsdb, "snapshot"),
    "first pass made": Probe("pass made"),
    # Adopting an older build.
    "older build found": Probe(),
    "older qdisc noted": Probe("qdisc noted"),
    "older hooks taken over": Probe(),
    "older counters taken over": Probe(),
    "older build taken over": Probe(),
    "half of the older build removed": _after(os, "unlink", nth=3),
    "older build removed": Probe(),
    # Hooks.
    "slots taken": Probe(),
    "grace periods expedited": Probe(),
    "own program loaded": Probe(),
    "link made": Probe(),
    "link's program replaced": Probe(),
    "qdisc noted": Probe(),
    "qdisc made": Probe(),
    "program that unmarks attached": Probe(),
    "program attached": Probe(),
    "entry written": Probe(),
    "second program attached": Probe("program attached", nth=2),
    "second entry written": Probe("entry written", nth=2),
    "third program attached": Probe("program attached", nth=3, specialized_later=True),
    "third entry written": Probe("entry written", nth=3, specialized_later=True),
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
    "parking about to be sent": _before(ovsdb.Ovsdb, "commit", _parks),
    "parking sent": _after(ovsdb.Ovsdb, "commit", _parks),
    "giving back about to be sent": _before(ovsdb.Ovsdb, "commit", _gives_back),
    "giving back sent": _after(ovsdb.Ovsdb, "commit", _gives_back),
    "waiting for revalidators": _after(Revalidation, "_start"),
    "flow_mod about to be sent": _before(ofp, "delete_none"),
    # Ending.
    "all given back": Probe(),
    "control socket closed": Probe(),
    "keys about to be forgotten": Probe(),
    "keys forgotten": Probe(),
    "pins about to be removed": Probe(),
    "half of the pins removed": _after(os, "unlink", nth=8),
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
