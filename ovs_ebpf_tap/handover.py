"""The hand-over in OVSDB: which rows to write so that OVS stops or starts copying.

A pure step from the rows as they are to the next transaction. A move takes two:

1. `select_vlan` of the mirrors, and `protected` of an output port flipped, which has OVS
   revalidate all flows of the datapath at once: a mirror's change alone does not reach flows
   that are running (`bundle_set` in `ofproto/ofproto-dpif.c` sets REV_RECONFIGURE, `mirror_set`
   does not). The port's own value is kept on the Mirror, so that a crash does not lose it.
2. `protected` put back, once ovs-vswitchd has taken the first in.

Nothing is remembered in between: the keys on the rows say where a move stands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from uuid import UUID

from ovs_ebpf_tap.model import (
    COUNTED_KEY,
    OWN_KEYS,
    PARKED_VLANS,
    PROTECTED_KEY,
    REASON_KEY,
    SELECT_VLAN_KEY,
    STATE_KEY,
    Bridge,
    Database,
    Flip,
    Mirror,
    format_flip,
    format_vlans,
    parse_flip,
)
from ovs_ebpf_tap.ovsdb import Edits, MirrorEdit, PortEdit
from ovs_ebpf_tap.wanted import OFFLOADED, Verdict


def next_edits(
    db: Database,
    verdicts: Mapping[UUID, Verdict],
    records: Mapping[UUID, str],
    taken_in: bool,
    loose: Collection[UUID] = (),
    unrecorded: Collection[UUID] = (),
) -> Edits:
    """The next transaction; empty when the rows are as the verdicts want them.

    `taken_in` says whether ovs-vswitchd has taken in the last transaction that asked for it;
    `loose` are the mirrors that others gave back, so that flows do not know of them. `records` are
    what the rows are to keep of what was copied, written with each move, and for `unrecorded`.
    """
    mirrors: list[MirrorEdit] = []
    ports: list[PortEdit] = []
    reconfigure = False
    seen: set[UUID] = set()
    for bridge in db.bridges.values():
        # A mirror that is on several bridges has room for the flip of one.
        own = tuple(uuid for uuid in bridge.mirrors if uuid not in seen)
        seen.update(own)
        step = _BridgeStep(db, replace(bridge, mirrors=own), verdicts, taken_in, loose)
        mirrors += step.mirrors(records, unrecorded)
        ports += step.ports
        reconfigure |= step.reconfigure
    forgotten = list(_forgotten_ports(db)) if taken_in else []
    ports += forgotten
    reconfigure |= bool(forgotten)
    return Edits(tuple(mirrors), tuple(ports), reconfigure)


def _forgotten_ports(db: Database) -> Iterator[PortEdit]:
    for flip in db.forgotten:
        if flip.port in db.ports:
            yield PortEdit(flip.port, flip.protected)


def forget_edits(db: Database) -> Edits:
    """Removes the sidecar's keys from mirrors that are given back."""
    edits = (
        MirrorEdit(mirror.uuid, delete_ids=keys)
        for mirror in db.mirrors.values()
        if not mirror.parked and (keys := _own_keys(mirror))
    )
    return Edits(tuple(edits))


def _own_keys(mirror: Mirror) -> tuple[str, ...]:
    return tuple(key for key in OWN_KEYS if key in mirror.external_ids and key != PROTECTED_KEY)


def flip_pending(db: Database, bridge: Bridge) -> bool:
    """Whether a port's `protected` is still to be put back on the bridge."""
    mirrors = (db.mirrors[uuid] for uuid in bridge.mirrors if uuid in db.mirrors)
    return any(PROTECTED_KEY in mirror.external_ids for mirror in mirrors)


class _BridgeStep:
    """The next transaction's part on one bridge."""

    def __init__(
        self,
        db: Database,
        bridge: Bridge,
        verdicts: Mapping[UUID, Verdict],
        taken_in: bool,
        loose: Collection[UUID],
    ) -> None:
        self._db = db
        self._loose = loose
        self._verdicts = verdicts
        self._mirrors = [
            db.mirrors[uuid] for uuid in bridge.mirrors if uuid in db.mirrors and uuid in verdicts
        ]
        pending = [mirror for mirror in self._mirrors if PROTECTED_KEY in mirror.external_ids]
        self._put_back = {mirror.uuid for mirror in pending} if taken_in else set()
        forgotten = any(flip.port in bridge.ports for flip in db.forgotten)
        # Until the flip is taken in, another change of the same port could undo it unseen.
        moves = [] if forgotten or (pending and not taken_in) else list(self._moves())
        self._moving = {mirror.uuid for mirror in moves}
        # A put-back is a flip, too.
        self._flips = {} if pending else dict(self._choose_flip(bridge, moves))
        self.ports = [*self._ports_back(pending), *self._ports_flipped()]
        self.reconfigure = bool(self.ports or moves)

    def _moves(self) -> Iterator[Mirror]:
        for mirror in self._mirrors:
            offloaded = self._verdicts[mirror.uuid].state == OFFLOADED
            moving = SELECT_VLAN_KEY in mirror.external_ids or mirror.uuid in self._loose
            if offloaded != mirror.parked or (moving and not offloaded):
                yield mirror

    def _choose_flip(self, bridge: Bridge, moves: list[Mirror]) -> Iterator[tuple[UUID, Flip]]:
        """One port is enough: OVS revalidates all flows of the datapath.

        An output port gets no packets but copies. Of the others, one is only protected from
        ports that are protected, too.
        """
        ports = [self._db.ports[uuid] for uuid in bridge.ports if uuid in self._db.ports]
        outputs = [mirror.output_port for mirror in moves]
        candidates = [port for port in ports if port.uuid in outputs]
        if not candidates and not any(port.protected for port in ports):
            candidates = ports
        for mirror in moves[:1]:
            for port in candidates[:1]:
                yield mirror.uuid, Flip(port.uuid, port.protected)

    def _ports_flipped(self) -> Iterator[PortEdit]:
        for flip in self._flips.values():
            yield PortEdit(flip.port, not flip.protected)

    def _ports_back(self, pending: list[Mirror]) -> Iterator[PortEdit]:
        for mirror in pending:
            flip = parse_flip(mirror)
            if mirror.uuid in self._put_back and flip is not None and flip.port in self._db.ports:
                yield PortEdit(flip.port, flip.protected)

    def mirrors(
        self, records: Mapping[UUID, str], unrecorded: Collection[UUID]
    ) -> Iterator[MirrorEdit]:
        for mirror in self._mirrors:
            recorded = mirror.uuid in self._moving or mirror.uuid in unrecorded
            edit = self._edit(mirror, records.get(mirror.uuid) if recorded else None)
            if edit != MirrorEdit(mirror.uuid):
                yield edit

    def _edit(self, mirror: Mirror, record: str | None) -> MirrorEdit:
        verdict = self._verdicts[mirror.uuid]
        offloaded = verdict.state == OFFLOADED
        moving = mirror.uuid in self._moving
        settled = moving or offloaded == mirror.parked
        wanted: dict[str, str | None] = {}
        if settled:
            wanted[STATE_KEY] = verdict.state
            wanted[REASON_KEY] = verdict.reason
        if offloaded and settled:
            wanted[SELECT_VLAN_KEY] = format_vlans(mirror.wanted_vlans)
        elif moving:
            wanted[SELECT_VLAN_KEY] = None
        if mirror.uuid in self._put_back:
            wanted[PROTECTED_KEY] = None
        if mirror.uuid in self._flips:
            wanted[PROTECTED_KEY] = format_flip(self._flips[mirror.uuid])
        if record is not None:
            wanted[COUNTED_KEY] = record
        ids = mirror.external_ids
        return MirrorEdit(
            mirror.uuid,
            select_vlan=self._select_vlan(mirror, offloaded) if moving else None,
            set_ids={k: v for k, v in wanted.items() if v is not None and ids.get(k) != v},
            delete_ids=tuple(k for k, v in wanted.items() if v is None and k in ids),
        )

    def _select_vlan(self, mirror: Mirror, offloaded: bool) -> tuple[int, ...] | None:
        wanted = PARKED_VLANS if offloaded else mirror.wanted_vlans
        return None if wanted == mirror.select_vlan else wanted
