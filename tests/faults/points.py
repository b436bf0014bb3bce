"""Where a sidecar can be killed: it runs as ever, and sends itself a signal at a named point.

    FAULTS_POINT='link made' FAULTS_SIGNAL=SIGKILL FAULTS_ARMED=FILE python -m faults.points run ...

It does so once the file is there, and removes that first, which tells that the point was reached.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovs_ebpf_tap import cli
from ovs_ebpf_tap.apply import datapath, leftovers
from ovs_ebpf_tap.commands import release
from ovs_ebpf_tap.daemon import control, runtime, sidecar
from ovs_ebpf_tap.ebpf import bpf, programs
from ovs_ebpf_tap.model import transaction
from ovs_ebpf_tap.model.rows import SELECT_VLAN_KEY
from ovs_ebpf_tap.observe import netlink, ofp, ovsdb, vswitchd

POINT = "FAULTS_POINT"
SIGNAL = "FAULTS_SIGNAL"
ARMED = "FAULTS_ARMED"

_Call = Callable[..., bool]


def _always(*_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Point:
    """Before or after the `nth` call of a function that `is_meant`; after, if it did not fail."""

    owner: Any
    name: str
    after: bool
    is_meant: _Call = _always
    nth: int = 1

    def arm(self, armed: Path) -> None:
        """Wraps the function."""
        function = getattr(self.owner, self.name)
        calls = 0

        def count(args: tuple[Any, ...]) -> None:
            nonlocal calls
            if armed.exists() and self.is_meant(*args):
                calls += 1
                if calls == self.nth:
                    _signal(armed)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self.after:
                count(args)
            result = function(*args, **kwargs)
            if self.after:
                count(args)
            return result

        setattr(self.owner, self.name, wrapper)


def _signal(armed: Path) -> None:
    armed.unlink()
    os.kill(os.getpid(), signal.Signals[os.environ[SIGNAL]])


def _before(owner: Any, name: str, is_meant: _Call = _always, nth: int = 1) -> Point:
    return Point(owner, name, False, is_meant, nth)


def _after(owner: Any, name: str, is_meant: _Call = _always, nth: int = 1) -> Point:
    return Point(owner, name, True, is_meant, nth)


def _parks(_: Any, edits: transaction.Transaction) -> bool:
    return any(SELECT_VLAN_KEY in edit.set_ids for edit in edits.mirrors)


def _gives_back(_: Any, edits: transaction.Transaction) -> bool:
    return any(SELECT_VLAN_KEY in edit.delete_ids for edit in edits.mirrors)


def _has_hooks(_: datapath.Datapath, wanted: Collection[Any]) -> bool:
    return bool(wanted)


def _has_none(each: datapath.Datapath, *_: Any) -> bool:
    """Every pass comes by; this is the one that has removed the last hook."""
    return not each.attached


POINTS = {
    # Starting.
    "lock taken": _after(control.RunDir, "__init__"),
    "half of the programs pinned": _after(bpf, "pin", nth=3),
    "programs pinned under their draft's name": _before(Path, "rename"),
    "programs pinned": _after(Path, "rename"),
    "programs opened": _after(programs.Programs, "__init__"),
    "hooks read": _after(datapath.Datapath, "__init__"),
    "control socket made": _after(control.Server, "__init__"),
    "rows read": _after(ovsdb.Ovsdb, "snapshot"),
    "first pass made": _after(sidecar.Sidecar, "_pass"),
    # Adopting an older build.
    "older build found": _after(runtime, "older_builds"),
    "older qdisc noted": _after(datapath.Datapath, "_note_qdisc"),
    "older hooks taken over": _after(datapath.Datapath, "_ensure", _has_hooks),
    "older counters taken over": _after(datapath.Datapath, "_take_count"),
    "older build taken over": _after(datapath.Datapath, "adopt"),
    "half of the older build removed": _after(os, "unlink", nth=3),
    "older build removed": _after(programs, "remove_build"),
    # Hooks.
    "slots taken": _after(datapath.Datapath, "_ensure_slots", _has_hooks),
    "grace periods expedited": _before(datapath.Datapath, "_ensure", _has_hooks),
    "own program loaded": _after(programs.Programs, "load_own"),
    "link made": _after(bpf, "create_tcx_link"),
    "link's program replaced": _after(bpf, "update_link"),
    "qdisc noted": _after(datapath.Datapath, "_note_qdisc"),
    "qdisc made": _after(netlink.Netlink, "ensure_clsact"),
    "program that unmarks attached": _after(netlink.Netlink, "ensure_unmark"),
    "program attached": _after(datapath.Datapath, "_attach_program"),
    "entry written": _after(datapath.Datapath, "_publish"),
    "second program attached": _after(datapath.Datapath, "_attach_program", nth=2),
    "second entry written": _after(datapath.Datapath, "_publish", nth=2),
    # Programs of their own come after shared ones.
    "third program attached": _after(datapath.Datapath, "_attach_program", nth=3),
    "third entry written": _after(datapath.Datapath, "_publish", nth=3),
    "hooks there": _after(datapath.Datapath, "_ensure", _has_hooks),
    "hooks about to go": _before(datapath.Datapath, "_remove"),
    "link detached": _after(bpf, "detach_link"),
    "filter removed": _after(netlink.Netlink, "remove_filter"),
    "hook removed": _after(datapath.Datapath, "_remove"),
    "qdisc about to go": _before(netlink.Netlink, "remove_clsact"),
    "qdisc removed": _after(netlink.Netlink, "remove_clsact"),
    "qdisc forgotten": _after(datapath.Datapath, "_remove_qdiscs", _has_none),
    "slots about to be freed": _before(datapath.Datapath, "_free_slots", _has_none),
    "slots freed": _after(datapath.Datapath, "_free_slots", _has_none),
    # Rows.
    "parking about to be sent": _before(ovsdb.Ovsdb, "commit", _parks),
    "parking sent": _after(ovsdb.Ovsdb, "commit", _parks),
    "giving back about to be sent": _before(ovsdb.Ovsdb, "commit", _gives_back),
    "giving back sent": _after(ovsdb.Ovsdb, "commit", _gives_back),
    "waiting for revalidators": _after(vswitchd.Revalidation, "_start"),
    "flow_mod about to be sent": _before(ofp, "delete_none"),
    # Ending.
    "all given back": _after(runtime.Runtime, "give_back"),
    "control socket closed": _after(control.Server, "close"),
    "keys about to be forgotten": _before(runtime, "forget_edits"),
    "keys forgotten": _after(runtime.Runtime, "forget"),
    "pins about to be removed": _before(runtime.Runtime, "remove_all"),
    "half of the pins removed": _after(os, "unlink", nth=8),
    "pins removed": _after(runtime.Runtime, "remove_all"),
    "command gave all back": _after(release, "_give_back"),
    "command about to forget keys": _before(release, "forget_edits"),
    "leftovers about to be removed": _before(leftovers, "remove"),
    "leftovers removed": _after(leftovers, "remove"),
    "lock about to be given back": _before(control.RunDir, "release"),
}


def main() -> int:
    """Runs the command line; returns its exit status if it was not killed."""
    POINTS[os.environ[POINT]].arm(Path(os.environ[ARMED]))
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
