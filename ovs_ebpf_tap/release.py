"""`release`: gives mirrors back to Open vSwitch, with or without a running sidecar."""

from __future__ import annotations

import time
from uuid import UUID

from ovs_ebpf_tap import control, programs
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model import MODE_KEY, STATE_KEY, Database, Mirror
from ovs_ebpf_tap.ovsdb import Edits, MirrorEdit, Ovsdb, fetch_schema
from ovs_ebpf_tap.session import (
    ANSWER,
    PATIENCE,
    Options,
    Parts,
    check_kernel,
    connect,
    require_root,
    transact,
    turn,
)
from ovs_ebpf_tap.wanted import OFFLOADED


def release(options: Options, names: tuple[str, ...]) -> list[str]:
    """Gives the named mirrors, or all, back to OVS; returns a line for each.

    Raises TapError if a name is unknown, or OVS does not take the mirrors back.
    """
    require_root()
    ovsdb = connect(options.ovsdb)
    try:
        chosen = _choose(ovsdb.snapshot(), names)
        edits = [
            MirrorEdit(mirror.uuid, set_ids={MODE_KEY: "native"})
            for mirror in chosen
            if mirror.external_ids.get(MODE_KEY) != "native"
        ]
        if edits:
            transact(ovsdb, Edits(tuple(edits)))
        if names:
            _release_some(options, ovsdb, {mirror.uuid for mirror in chosen})
        else:
            _release_all(options)
    finally:
        ovsdb.close()
    return [f"{mirror.name}: native" for mirror in chosen]


def _choose(db: Database, names: tuple[str, ...]) -> list[Mirror]:
    mirrors = sorted(db.mirrors.values(), key=lambda mirror: mirror.name)
    for name in names:
        if not any(_is_called(mirror, name) for mirror in mirrors):
            raise TapError(f"no mirror {name}: see ovs-vsctl list Mirror")
    return [m for m in mirrors if not names or any(_is_called(m, name) for name in names)]


def _is_called(mirror: Mirror, name: str) -> bool:
    return name in (mirror.name, str(mirror.uuid))


def _release_all(options: Options) -> None:
    """A running sidecar does it and ends; else we are the sidecar for a moment."""
    asked = False
    deadline = time.monotonic() + 2 * PATIENCE
    while True:
        # It may not listen yet, or be killed before it has done it.
        asked = asked or control.call(options.run_dir, "release") is not None
        try:
            lock = control.RunDir(options.run_dir)
            break
        except control.LockedError:
            if time.monotonic() > deadline:
                raise TapError(
                    "the running sidecar did not give the mirrors back: see its log"
                ) from None
            time.sleep(0.02)
    try:
        if not asked or options.pin_dir.exists():
            _be_sidecar(options, None)
    finally:
        lock.release()


def _release_some(options: Options, ovsdb: Ovsdb, chosen: set[UUID]) -> None:
    if control.call(options.run_dir, "status") is None:
        lock = control.RunDir(options.run_dir)
        try:
            _be_sidecar(options, chosen)
        finally:
            lock.release()
        return
    deadline = time.monotonic() + PATIENCE
    while any(_is_offloaded(ovsdb.snapshot(), uuid) for uuid in chosen):
        turn(ovsdb, deadline)
    # Open vSwitch copies; hooks go when its running flows do.
    while control.call(options.run_dir, "settled") == "no":
        if time.monotonic() > deadline:
            raise TapError("the running sidecar does not come to rest: see its log")
        time.sleep(0.02)


def _is_offloaded(db: Database, uuid: UUID) -> bool:
    mirror = db.mirrors.get(uuid)
    return mirror is not None and (mirror.parked or mirror.external_ids.get(STATE_KEY) == OFFLOADED)


def _be_sidecar(options: Options, chosen: set[UUID] | None) -> None:
    """Gives the mirrors back, or all, as there is no sidecar; the caller holds its lock."""
    check_kernel(options)
    schema = fetch_schema(options.ovsdb, ANSWER)
    programs.ensure_bpffs(options.pin_dir)
    with Parts(options, schema) as parts:
        if chosen is None:
            parts.give_back()
            parts.forget()
            parts.remove_all()
        else:
            parts.drive(
                lambda: parts.sidecar.idle and not parts.datapath.mirrors & chosen,
                "giving mirrors back",
            )
