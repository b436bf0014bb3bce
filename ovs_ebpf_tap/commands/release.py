"""`release`: gives mirrors back to Open vSwitch, with or without a running sidecar."""

from __future__ import annotations

import contextlib
import operator
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar
from uuid import UUID

import ovs.poller
import tenacity

from ovs_ebpf_tap.apply import leftovers
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.daemon import control
from ovs_ebpf_tap.daemon.runtime import (
    ANSWER,
    PATIENCE,
    Options,
    check_kernel,
    connect,
    lock,
    open_runtime,
    pinned_counters,
    require_root,
    transact,
    wait_db,
)
from ovs_ebpf_tap.decide.handover import forget_edits, next_edits
from ovs_ebpf_tap.decide.remembered_modes import remember
from ovs_ebpf_tap.decide.totals import Totals
from ovs_ebpf_tap.ebpf import pinning
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.desired import OFFLOADED
from ovs_ebpf_tap.model.reasons.row_reasons import MODE_NATIVE
from ovs_ebpf_tap.model.rows import MODE_KEY, STATE_KEY, Database, Mirror, bridges_of_datapaths
from ovs_ebpf_tap.model.transaction import MirrorEdit, Transaction
from ovs_ebpf_tap.observe import vswitchd
from ovs_ebpf_tap.observe.ovsdb import Ovsdb, ovs_run_dir
from ovs_ebpf_tap.observe.revalidation import Revalidation
from ovs_ebpf_tap.observe.schema import fetch_schema
from ovs_ebpf_tap.util import namespace
from ovs_ebpf_tap.util.probes import probe
from ovs_ebpf_tap.util.text import printable

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LOOK = 0.02
"""Seconds from one look at the running sidecar to the next."""


def release(options: Options, names: tuple[str, ...]) -> list[str]:
    """Gives the named mirrors, or all, back to OVS; returns a line for each, and for what is left.

    Raises TapError if a name is unknown, or OVS does not take the mirrors back.
    """
    require_root()
    if not control.is_running(options.run_dir):
        namespace.check(options.pin_dir)
    ovsdb = connect(options.ovsdb)
    left: list[str] = []
    try:
        db = ovsdb.snapshot()
        chosen = _choose(db, names)
        edits = [
            MirrorEdit(mirror.uuid, set_ids={MODE_KEY: "native"})
            for mirror in chosen
            if mirror.external_ids.get(MODE_KEY) != "native"
        ]
        modes: dict[UUID, str | None] = {mirror.uuid: "native" for mirror in chosen}
        settings = Transaction(tuple(edits), bridges=remember(db, modes))
        if settings:
            transact(ovsdb, settings)
        if names:
            _release_some(options, ovsdb, {mirror.uuid for mirror in chosen})
        else:
            left = _release_all(options, ovsdb)
    finally:
        ovsdb.close()
    return [f"{_described(mirror, db)}: native" for mirror in chosen] + left


def _every_moment(
    seconds: float, again: tenacity.retry_base
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Has a function called again until that is not needed. Raises RetryError after `seconds`."""
    return tenacity.retry(
        retry=again, wait=tenacity.wait_fixed(_LOOK), stop=tenacity.stop_after_delay(seconds)
    )


def _choose(db: Database, names: tuple[str, ...]) -> list[Mirror]:
    mirrors = sorted(db.mirrors.values(), key=lambda mirror: mirror.name)
    for name in names:
        if not any(_is_called(mirror, name) for mirror in mirrors):
            raise TapError(f"no mirror {name}: see ovs-vsctl list Mirror")
    return [m for m in mirrors if not names or any(_is_called(m, name) for name in names)]


def _described(mirror: Mirror, db: Database) -> str:
    """Its name, and where another mirror has it, too, its bridges."""
    name = printable(mirror.name)
    if sum(other.name == mirror.name for other in db.mirrors.values()) == 1:
        return name
    bridges = sorted(b.name for b in db.bridges.values() if mirror.uuid in b.mirrors)
    return f"{name} of {' and '.join(map(printable, bridges)) or 'no bridge'}"


def _is_called(mirror: Mirror, name: str) -> bool:
    return name in (mirror.name, str(mirror.uuid))


def _release_all(options: Options, ovsdb: Ovsdb) -> list[str]:
    """A running sidecar does it and ends; else it is done here. Returns what is left, in lines."""
    asked = False

    @_every_moment(2 * PATIENCE, tenacity.retry_if_exception_type(control.LockedError))
    def take() -> control.RunDir:
        nonlocal asked
        # It may not listen yet, or be killed before it has done it.
        asked = asked or control.call(options.run_dir, "release") is not None
        return control.RunDir.take(options.run_dir)

    try:
        run_dir = take()
    except tenacity.RetryError:
        raise TapError("the running sidecar did not give the mirrors back: see its log") from None
    try:
        if not asked or options.pin_dir.exists():
            _release_all_alone(options, ovsdb)
    finally:
        run_dir.release()
    owner = pinning.owner(options.pin_dir)
    with contextlib.closing(TrafficControl.open(owner)) as traffic_control:
        return leftovers.others(options.pin_dir, traffic_control)


def _release_all_alone(options: Options, ovsdb: Ovsdb) -> None:
    """Needs no programs: it has to work where there can be none. The caller holds the lock."""
    namespace.check(options.pin_dir)
    _give_back(options, ovsdb, set(ovsdb.snapshot().mirrors))
    db = ovsdb.snapshot()
    probe("command about to forget keys")
    edits = forget_edits(db)
    if edits:
        transact(ovsdb, edits)
    try:
        owner = pinning.owner(options.pin_dir)
        with contextlib.closing(TrafficControl.open(owner)) as traffic_control:
            leftovers.remove(options.pin_dir, traffic_control, hw_offload=db.hw_offload)
    except OSError as error:
        raise TapError(f"OVS copies, but so may hooks that are left: {error}") from None


def _give_back(options: Options, ovsdb: Ovsdb, mirrors: set[UUID]) -> None:
    """Has OVS select with these mirrors again, for the flows that are running, too.

    Raises TapError if ovs-vswitchd runs and does not take them.
    """
    run_dir = ovs_run_dir(options.ovsdb)
    runs = vswitchd.is_running(run_dir)
    counters = pinned_counters(options)
    deadline = time.monotonic() + PATIENCE
    native = MODE_NATIVE.decision()
    while True:
        db = ovsdb.snapshot()
        # One that does not run takes all in when it starts.
        applied = not runs or ovsdb.applied(db)
        totals = Totals()
        totals.look(db.mirrors, counters)
        decisions = dict.fromkeys(mirrors & db.mirrors.keys(), native)
        edits = next_edits(db, decisions, totals.records())
        if edits:
            transact(ovsdb, edits)
        elif applied:
            break
        elif time.monotonic() > deadline:
            raise TapError(f"ovs-vswitchd did not take the mirrors back within {PATIENCE:.0f} s")
        else:
            wait_db(ovsdb, time.monotonic() + PATIENCE)
    if runs:
        _revalidate(run_dir, ovsdb.snapshot())
    probe("command gave all back")


def _revalidate(run_dir: Path, db: Database) -> None:
    """If it ends meanwhile and is not there again soon, it takes all in when it starts, too."""
    revalidation = Revalidation.begin(run_dir, bridges_of_datapaths(db))
    deadline = time.monotonic() + PATIENCE
    while not revalidation.done and time.monotonic() < deadline:
        poller = ovs.poller.Poller()
        revalidation.wait(poller)
        poller.block()
        revalidation.run()
    revalidation.close()


def _release_some(options: Options, ovsdb: Ovsdb, chosen: set[UUID]) -> None:
    if control.call(options.run_dir, "status") is None:
        _release_some_alone(options, ovsdb, chosen)
        return
    deadline = time.monotonic() + PATIENCE
    while any(_is_offloaded(ovsdb.snapshot(), uuid) for uuid in chosen):
        wait_db(ovsdb, deadline)
    # Open vSwitch copies; hooks go when its running flows do.
    seconds = max(0.0, deadline - time.monotonic())
    is_settled = _every_moment(seconds, tenacity.retry_if_result(operator.not_))(control.is_settled)
    try:
        is_settled(options.run_dir)
    except tenacity.RetryError:
        raise TapError("the running sidecar does not come to rest: see its log") from None


def _is_offloaded(db: Database, uuid: UUID) -> bool:
    mirror = db.mirrors.get(uuid)
    return mirror is not None and (mirror.parked or mirror.external_ids.get(STATE_KEY) == OFFLOADED)


def _release_some_alone(options: Options, ovsdb: Ovsdb, chosen: set[UUID]) -> None:
    """We are the sidecar for a moment: the others stay offloaded. If none is, OVS is enough."""
    run_dir = control.RunDir.take(options.run_dir)
    try:
        if not pinning.builds(options.pin_dir):
            _give_back(options, ovsdb, chosen)
            return
        check_kernel(options)
        deadline = time.monotonic() + PATIENCE
        schema = fetch_schema(options.ovsdb, ANSWER)
        alone = lock(options.ovsdb, schema, lambda ovsdb: wait_db(ovsdb, deadline))
        with contextlib.closing(alone), open_runtime(options, alone) as runtime:
            runtime.run_until(
                lambda: runtime.sidecar.idle and not runtime.datapath.mirrors & chosen,
                "giving mirrors back",
            )
    finally:
        run_dir.release()
