"""The slots of mirrors in the counters map, and what was counted there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Set
from uuid import UUID

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.util.probes import probe

_MAX_MIRRORS = abi.constant("MAX_MIRRORS")
_QUARANTINE = abi.constant("QUARANTINE_MS") / 1000  # seconds

_COUNTERS = abi.layout("counters")
_MIRROR = abi.layout("mirror")
_UUID = abi.layout("uuid")


def _pack_uuid(uuid: UUID) -> bytes:
    return _UUID.pack(high=uuid.int >> 64, low=uuid.int & (1 << 64) - 1)


def _unpack_uuid(key: bytes) -> UUID:
    halves = _UUID.unpack(key)
    return UUID(int=halves["high"] << 64 | halves["low"])


def _total(older: Counters, values: bytes) -> Counters:
    """The older counts, and those of all CPUs."""
    each = _COUNTERS.unpack_many(values)
    return Counters(
        *(getattr(older, name) + sum(cpu[name] for cpu in each) for name in _COUNTERS.members)
    )


class CounterSlots:
    """Which mirror has which slot, by the mirrors map."""

    def __init__(self, maps: Mapping[str, bpf.Map]) -> None:
        self._mirrors = maps["mirrors"]
        self._counters_map = maps["counters"]
        self._slots: dict[UUID, int] = {}
        self._older: dict[UUID, Counters] = {}
        """What each mirror's copies came to before its slot."""
        self._resting: dict[int, float] = {}
        """Slots that were given back, and until when programs may still count there."""
        self._counted: dict[UUID, tuple[Counters, bytes]] = {}
        """What the maps held when `_counters` was last made of them."""
        self._counters: dict[UUID, Counters] = {}
        self._ended: dict[UUID, Counters] = {}

    def __getitem__(self, mirror: UUID) -> int:
        return self._slots[mirror]

    @property
    def mirrors(self) -> Set[UUID]:
        """The mirrors that have a slot."""
        return self._slots.keys()

    @property
    def by_slot(self) -> dict[int, UUID]:
        """The mirrors by slot."""
        return {slot: uuid for uuid, slot in self._slots.items()}

    def read(self) -> None:
        """Reads back which mirrors have slots."""
        rows = {
            _unpack_uuid(key): _MIRROR.unpack(value) for key, value in self._mirrors.items().items()
        }
        self._slots = {uuid: row["slot"] for uuid, row in rows.items()}
        self._older = {
            uuid: Counters(*(row[name] for name in _COUNTERS.members)) for uuid, row in rows.items()
        }

    def ensure(self, mirrors: Iterable[UUID]) -> frozenset[UUID]:
        """Ensures that the mirrors have slots; if some can't, takes none, and returns these.

        A slot rests before another mirror has it: programs just taken off may still count there.
        """
        new = sorted(set(mirrors) - self._slots.keys())
        if not new:
            return frozenset()
        now = time.monotonic()
        self._resting = {slot: until for slot, until in self._resting.items() if until > now}
        taken = {*self._slots.values(), *self._resting}
        free = [slot for slot in range(_MAX_MIRRORS) if slot not in taken]
        if len(new) > len(free):
            return frozenset(new[len(free) :])
        for uuid, slot in zip(new, free, strict=False):
            self._counters_map.clear(bpf.u32(slot))
            self._mirrors.set(_pack_uuid(uuid), _MIRROR.pack(slot=slot))
            self._slots[uuid] = slot
            self._older[uuid] = Counters()
        probe("slots taken")
        return frozenset()

    def keep(self, used: Set[UUID]) -> None:
        """Gives back the slots of all other mirrors."""
        gone = self._slots.keys() - used
        if not gone:
            return
        probe("slots about to be freed")
        last = self.counters()
        self._ended |= {uuid: last[uuid] for uuid in gone}
        until = time.monotonic() + _QUARANTINE
        for uuid in gone:
            self._mirrors.delete(_pack_uuid(uuid))
            self._resting[self._slots.pop(uuid)] = until
            del self._older[uuid]
        probe("slots freed")

    def counters(self) -> Mapping[UUID, Counters]:
        """The counters of each mirror that has a slot.

        The object that it returned before if none has changed.
        """
        values = self._counters_map.first(max(self._slots.values(), default=-1) + 1)
        counted = {uuid: (self._older[uuid], values[slot]) for uuid, slot in self._slots.items()}
        if counted != self._counted:
            self._counters = {
                uuid: self._counters[uuid] if self._counted.get(uuid) == each else _total(*each)
                for uuid, each in counted.items()
            }
            self._counted = counted
        return self._counters

    def take_ended(self) -> Mapping[UUID, Counters]:
        """The last counters of mirrors that have lost their slots since this was last asked."""
        ended, self._ended = self._ended, {}
        return ended

    def hand_over(self, former: UUID, mirror: UUID) -> None:
        """Has a mirror that has no slot go on in another's, which has none from then on.

        A sidecar that is killed in between leaves it to both, and the next takes it from the one
        whose row is gone.
        """
        key = _pack_uuid(former)
        self._mirrors.set(_pack_uuid(mirror), self._mirrors.get(key) or _MIRROR.pack())
        self._mirrors.delete(key)
        self._slots[mirror] = self._slots.pop(former)
        self._older[mirror] = self._older.pop(former)

    def take_over(self, mirror: UUID, count: Counters) -> None:
        """Has a mirror's counters begin where those of an older build ended, once `read`.

        A sidecar that was killed after it had done so does not add the count again.
        """
        key = _pack_uuid(mirror)
        older = _MIRROR.unpack(self._mirrors.get(key) or _MIRROR.pack())
        for name in _COUNTERS.members:
            older[name] = max(older[name], getattr(count, name))
        self._mirrors.set(key, _MIRROR.pack(**older))
