"""The hand-over in OVSDB: which rows to write so that OVS stops or starts copying.

A pure step from the rows as they are to the next transaction, which writes `select_vlan` of the
mirrors that move. OVS's running flows do not know of it (`mirror_set` in
`ofproto/ofproto-dpif-mirror.c`): once ovs-vswitchd has taken it in, they are to be revalidated, see
`revalidations`.

Nothing is remembered in between: the keys on the rows say what is parked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

from ovs_ebpf_tap.model.desired import OFFLOADED, OffloadDecision
from ovs_ebpf_tap.model.rows import (
    COUNTED_KEY,
    OWN_KEYS,
    PARKED_VLANS,
    PROTECTED_KEY,
    REASON_KEY,
    SELECT_VLAN_KEY,
    STATE_KEY,
    Database,
    Mirror,
    format_vlans,
)
from ovs_ebpf_tap.model.transaction import MirrorEdit, PortEdit, Transaction


def next_edits(
    db: Database,
    decisions: Mapping[UUID, OffloadDecision],
    records: Mapping[UUID, str],
    unrecorded: Collection[UUID] = (),
) -> Transaction:
    """The next transaction; empty when the rows are as the decisions want them.

    `records` are what the rows are to keep of what was copied, written with each move, and for
    `unrecorded`.
    """
    edits = (
        _edit(mirror, decisions.get(uuid), records.get(uuid), uuid in unrecorded)
        for uuid, mirror in db.mirrors.items()
    )
    mirrors = tuple(edit for edit in edits if edit != MirrorEdit(edit.mirror))
    ports = tuple(
        PortEdit(toggle.port, toggle.protected)
        for toggle in db.revalidation_toggles
        if toggle.port in db.ports
    )
    moves = any(edit.moves for edit in mirrors)
    return Transaction(mirrors, ports, reconfigure=moves or bool(ports))


def forget_edits(db: Database) -> Transaction:
    """Removes the sidecar's keys from mirrors that are given back."""
    edits = (
        MirrorEdit(mirror.uuid, delete_ids=keys)
        for mirror in db.mirrors.values()
        if not mirror.parked and (keys := _own_keys(mirror))
    )
    return Transaction(tuple(edits))


def _own_keys(mirror: Mirror) -> tuple[str, ...]:
    return tuple(key for key in OWN_KEYS if key in mirror.external_ids)


def _edit(
    mirror: Mirror, decision: OffloadDecision | None, record: str | None, unrecorded: bool
) -> MirrorEdit:
    ids = mirror.external_ids
    # Left by a version that flipped a port's `protected` for a moment.
    desired: dict[str, str | None] = {PROTECTED_KEY: None}
    vlans = None
    if decision is not None:
        offloaded = decision.state == OFFLOADED
        desired[STATE_KEY] = decision.state
        desired[REASON_KEY] = decision.reason
        desired[SELECT_VLAN_KEY] = format_vlans(mirror.desired_vlans) if offloaded else None
        vlans = PARKED_VLANS if offloaded else mirror.desired_vlans
        moving = offloaded != mirror.parked or (not offloaded and SELECT_VLAN_KEY in ids)
        if record is not None and (moving or unrecorded):
            desired[COUNTED_KEY] = record
    return MirrorEdit(
        mirror.uuid,
        select_vlan=None if vlans == mirror.select_vlan else vlans,
        set_ids={k: v for k, v in desired.items() if v is not None and ids.get(k) != v},
        delete_ids=tuple(k for k, v in desired.items() if v is None and k in ids),
    )
