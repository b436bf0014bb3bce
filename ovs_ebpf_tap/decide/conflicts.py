"""Other writers of Mirror rows: what they undo of what the sidecar has written there.

`external_ids` may be replaced as a whole, and `select_vlan` set, at any time. The rows say what is
desired, but for one thing, which a running sidecar remembers: the user's `select_vlan` where only
`ebpf-tap-select-vlan` is gone. Where what is written is undone again and again, the mirror is left
to OVS for a while, so that there is no end of transactions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from uuid import UUID

import structlog

from ovs_ebpf_tap.model.rows import OWN_KEYS, SELECT_VLAN_KEY, Database, Mirror
from ovs_ebpf_tap.model.transaction import MirrorEdit, Transaction

_CAPACITY = 30.0
_REFILL = 2.0
"""A row's token bucket: capacity (writes) / refill interval (s). Each write of the sidecar's that
another writer undoes takes a token; without one, the mirror is left alone."""

_TOKENS_AFTER_PAUSE = 5.0
"""Tokens (writes) after a mirror was left alone."""

_PAUSE = 60.0
"""Seconds that a mirror is left alone at first: twice as many each time, up to `_LONGEST_PAUSE`."""
_LONGEST_PAUSE = 3600.0

_MOVE_GAP = 1.0
_WRITE_GAP = 10.0
"""Least seconds between two moves, and two writes, of a mirror that is left alone."""

log = structlog.get_logger()


@dataclass(frozen=True)
class _Own:
    """What is the sidecar's on a row."""

    parked: bool = False
    ids: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, mirror: Mirror) -> _Own:
        ids = mirror.external_ids
        return cls(mirror.parked, tuple((key, ids[key]) for key in OWN_KEYS if key in ids))


@dataclass
class _Row:
    """A row as it was last, and the token bucket for what other writers undo there."""

    mirror: Mirror
    own: _Own
    expected: _Own | None = None
    """As it will be if the transaction that is under way is made."""
    vlans: str | None = None
    """`ebpf-tap-select-vlan` of a parked mirror."""
    tokens: float = _CAPACITY
    refilled: float = 0.0
    """When tokens were last added, on the monotonic clock."""
    pause: float = _PAUSE
    left_until: float = 0.0
    write_from: float = 0.0
    bridge: str | None = None
    """The name of the mirror's bridge."""

    @property
    def log(self) -> structlog.typing.FilteringBoundLogger:
        """The log, with the names of the row."""
        bound: structlog.typing.FilteringBoundLogger = log.bind(
            mirror=self.mirror.name, bridge=self.bridge
        )
        return bound


@dataclass
class Writers:
    """Compares the rows with what the sidecar has left there."""

    _rows: dict[UUID, _Row] = field(default_factory=dict)

    def look(self, db: Database, now: float) -> Database:
        """The rows with what is remembered of them."""
        known, self._rows = self._rows, {}
        amended = {}
        for uuid, mirror in db.mirrors.items():
            row = known.get(uuid) or _Row(mirror, _Own.of(mirror), refilled=now)
            row.bridge = db.bridge_names.get(uuid)
            self._rows[uuid] = row
            if row.mirror != mirror or row.expected is not None:
                self._compare(row, mirror, now)
            self._remember(row)
            contended = now < row.left_until
            if contended or (mirror.parked and SELECT_VLAN_KEY not in mirror.external_ids):
                amended[uuid] = replace(mirror, kept_vlans=row.vlans or "", contended=contended)
        return replace(db, mirrors={**db.mirrors, **amended}) if amended else db

    def _compare(self, row: _Row, mirror: Mirror, now: float) -> None:
        own = _Own.of(mirror)
        if own not in (row.own, row.expected):
            self._take_token(row, now)
        row.mirror, row.own, row.expected = mirror, own, None

    def _remember(self, row: _Row) -> None:
        kept = row.mirror.external_ids.get(SELECT_VLAN_KEY)
        if not row.mirror.parked:
            row.vlans = None
        elif kept is not None:
            row.vlans = kept
        elif row.vlans is None:
            row.vlans = ""
            row.log.warning("select_vlan of a parked mirror is lost: it is taken to be empty")

    def _take_token(self, row: _Row, now: float) -> None:
        """Takes a token for what another writer has undone; leaves the mirror alone without one."""
        if now < row.left_until:
            return
        tokens = row.tokens + (now - row.refilled) / _REFILL
        row.tokens, row.refilled = min(tokens, _CAPACITY), now
        if row.tokens >= _CAPACITY:
            row.pause = _PAUSE
        row.tokens -= 1
        if row.tokens < 1:
            if row.pause == _PAUSE:
                row.log.warning(
                    "another writer undoes what is written on a mirror's row: it is left alone",
                    again_in_seconds=row.pause,
                )
            row.left_until = now + row.pause
            row.tokens, row.refilled = _TOKENS_AFTER_PAUSE, row.left_until
            row.pause = min(2 * row.pause, _LONGEST_PAUSE)

    def is_contended(self, now: float) -> bool:
        """Whether a mirror is left alone."""
        return any(now < row.left_until for row in self._rows.values())

    def resting(self, now: float) -> set[UUID]:
        """The mirrors that are not to be written now."""
        return {
            uuid
            for uuid, row in self._rows.items()
            if now < row.left_until and now < row.write_from
        }

    def note(self, edits: Transaction, now: float) -> None:
        """Notes a transaction that was started."""
        for edit in edits.mirrors:
            row = self._rows.get(edit.mirror)
            if row is None:
                continue
            row.expected = _Own.of(_edited(row.mirror, edit))
            row.vlans = edit.set_ids.get(SELECT_VLAN_KEY, row.vlans)
            if edit.moves or edit.set_ids or edit.delete_ids:
                row.write_from = now + (_MOVE_GAP if edit.moves else _WRITE_GAP)


def _edited(mirror: Mirror, edit: MirrorEdit) -> Mirror:
    ids = {key: v for key, v in mirror.external_ids.items() if key not in edit.delete_ids}
    vlans = mirror.select_vlan if edit.select_vlan is None else edit.select_vlan
    return replace(mirror, external_ids={**ids, **edit.set_ids}, select_vlan=vlans)
