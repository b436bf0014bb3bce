"""The mode of a mirror of ovn-controller's, which outlives its row.

ovn-controller makes its rows anew at each start, without other programs' keys. So what a row has
for `ebpf-tap-mode` is on its Bridge, too, as `ebpf-tap-mode-NAME`, and a row without any key of the
sidecar's, which is a new one, gets it from there. On another row, the user has removed the mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from uuid import UUID

from ovs_ebpf_tap.model.rows import KEY_PREFIX, MODE_KEY, Bridge, Database, Mirror
from ovs_ebpf_tap.model.transaction import BridgeEdit, MirrorEdit, Transaction


def with_remembered(db: Database) -> Database:
    """The rows, with the modes that new ones are to get."""
    found = {
        mirror.uuid: replace(mirror, external_ids={**mirror.external_ids, MODE_KEY: mode})
        for _, mirror, mode in _new(db)
    }
    return replace(db, mirrors={**db.mirrors, **found}) if found else db


def mode_edits(db: Database) -> Transaction:
    """What is to be written so that new rows have the remembered modes, and bridges the rows'."""
    new = {mirror.uuid: mode for _, mirror, mode in _new(db)}
    return Transaction(
        mirrors=tuple(MirrorEdit(uuid, set_ids={MODE_KEY: mode}) for uuid, mode in new.items()),
        bridges=remember(
            db,
            {
                mirror.uuid: mirror.external_ids.get(MODE_KEY)
                for _, mirror in _owned(db)
                if mirror.uuid not in new
            },
        ),
    )


def remember(db: Database, modes: Mapping[UUID, str | None]) -> tuple[BridgeEdit, ...]:
    """What is to be written so that bridges have these modes of mirrors of ovn-controller's."""
    edits = (
        _edit(bridge, {_key(m): modes[m.uuid] for m in _owned_on(db, bridge) if m.uuid in modes})
        for bridge in db.bridges.values()
    )
    return tuple(edit for edit in edits if edit != BridgeEdit(edit.bridge))


def _edit(bridge: Bridge, desired: Mapping[str, str | None]) -> BridgeEdit:
    ids = bridge.external_ids
    return BridgeEdit(
        bridge.uuid,
        set_ids={k: v for k, v in desired.items() if v is not None and ids.get(k) != v},
        delete_ids=tuple(k for k, v in desired.items() if v is None and k in ids),
    )


def _key(mirror: Mirror) -> str:
    return f"{MODE_KEY}-{mirror.name}"


def _owned_on(db: Database, bridge: Bridge) -> Iterator[Mirror]:
    rows = (db.mirrors[uuid] for uuid in bridge.mirrors if uuid in db.mirrors)
    return (row for row in rows if row.is_of_ovn)


def _owned(db: Database) -> Iterable[tuple[Bridge, Mirror]]:
    return ((bridge, row) for bridge in db.bridges.values() for row in _owned_on(db, bridge))


def _new(db: Database) -> Iterator[tuple[Bridge, Mirror, str]]:
    """Those that are to get a mode, with it."""
    for bridge, mirror in _owned(db):
        mode = bridge.external_ids.get(_key(mirror))
        if mode is not None and not any(k.startswith(KEY_PREFIX) for k in mirror.external_ids):
            yield bridge, mirror, mode
