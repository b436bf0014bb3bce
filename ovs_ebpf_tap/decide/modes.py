"""Whether the user wants a mirror offloaded."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from ovs_ebpf_tap.model.rows import MODE_KEY, Bridge, Database, Mirror

OFFLOAD_MODE = "offload"
NATIVE_MODE = "native"


def mode_of(db: Database, bridge: Bridge, mirror: Mirror) -> str:
    """The mode in force: of the Mirror, its Bridge or the Open_vSwitch row, the nearest set."""
    for row in (mirror, bridge, db):
        mode = row.external_ids.get(MODE_KEY)
        if mode is not None:
            return mode
    return OFFLOAD_MODE


def wanted(db: Database, mirrors: Collection[UUID]) -> set[UUID]:
    """Those of the mirrors that are to be offloaded if they can be."""
    return {
        uuid
        for bridge in db.bridges.values()
        for uuid in bridge.mirrors
        if uuid in mirrors and mode_of(db, bridge, db.mirrors[uuid]) == OFFLOAD_MODE
    }
