"""What `Mirror.statistics` are to show: what OVS and eBPF have copied, in all.

ovs-vswitchd keeps a count of its own for each mirror, which begins anew when it starts, and writes
it over the column every `stats-update-interval` (`mirror_refresh_stats` in OVS's
`vswitchd/bridge.c`). Ours begins anew with each slot in the maps. The total goes on over both: it
grows by what either has grown since the total was last taken. `ebpf-tap-counted` on the row keeps
it over restarts of the sidecar, as column `statistics` is not kept in the database's file and is
OVS's while no sidecar runs. Key `ebpf_tap` in `statistics` tells that a sidecar wrote them:
OVS's writes are of the whole column, and never have it.

A mirror that was never offloaded has no total: OVS's count is enough.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple, Self
from uuid import UUID

from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.rows import COUNTED_KEY, Mirror

_MOST = (1 << 63) - 1
"""The largest integer of OVSDB."""

_MARK = "ebpf_tap"

_RECORD = re.compile(r"(\d{1,19}),(\d{1,19}) (\d{1,19}),(\d{1,19}) (\d{1,19}),(\d{1,19})")


class Count(NamedTuple):
    """Packets and bytes."""

    packets: int = 0
    bytes: int = 0

    def plus(self, other: Count) -> Count:
        """Both together, as far as OVSDB can hold it."""
        return Count(min(self[0] + other[0], _MOST), min(self[1] + other[1], _MOST))

    def minus(self, other: Count) -> Count:
        """What is more than in the other, of each."""
        return Count(max(self[0] - other[0], 0), max(self[1] - other[1], 0))

    @classmethod
    def of_row(cls, statistics: Mapping[str, int]) -> Self | None:
        """What the column holds; None if that is nothing."""
        if "tx_packets" not in statistics and "tx_bytes" not in statistics:
            return None
        return cls(*(max(statistics.get(key, 0), 0) for key in ("tx_packets", "tx_bytes")))

    @property
    def as_statistics(self) -> dict[str, int]:
        """As the column holds it when a sidecar has written it."""
        return {"tx_packets": self.packets, "tx_bytes": self.bytes, _MARK: 1}


_NONE = Count()


def _grown(now: Count, before: Count, *, exact: bool) -> Count:
    """By how much a count has grown; all of one that began anew.

    OVS's is not exact: its threads add to it without a lock (`mirror_update_stats` in
    `ofproto/ofproto-dpif-mirror.c`), so that it may fall a little. By half or more, it began anew.
    """
    fell = now.packets < before.packets or now.bytes < before.bytes
    if fell and (exact or (2 * now.packets <= before.packets and 2 * now.bytes <= before.bytes)):
        return now
    return now.minus(before)


@dataclass(frozen=True)
class Total:
    """What was copied in all, and the counts of OVS and of eBPF when that was so."""

    shown: Count
    ovs: Count
    ebpf: Count = _NONE

    def counted(self, ovs: Count | None, ebpf: Count | None) -> Total:
        """With what was copied since. None: OVS's count is not known; eBPF has none any more."""
        shown = self.shown
        if ovs is not None:
            shown = shown.plus(_grown(ovs, self.ovs, exact=False))
        if ebpf is not None:
            shown = shown.plus(_grown(ebpf, self.ebpf, exact=True))
        return Total(shown, self.ovs if ovs is None else ovs, _NONE if ebpf is None else ebpf)

    @property
    def record(self) -> str:
        """As `ebpf-tap-counted` holds it: the total, OVS's count and eBPF's, PACKETS,BYTES each."""
        return " ".join(
            f"{each.packets},{each.bytes}" for each in (self.shown, self.ovs, self.ebpf)
        )


@lru_cache(4096)
def parse_record(text: str) -> Total | None:
    """The reverse of `Total.record`; None if it is none."""
    found = _RECORD.fullmatch(text)
    if found is None:
        return None
    numbers = [min(int(group), _MOST) for group in found.groups()]
    return Total(*(Count(*numbers[i : i + 2]) for i in (0, 2, 4)))


def total_of(mirror: Mirror, ebpf: Count | None) -> Total:
    """A row's total, from what it has on record and from what OVS or a sidecar wrote last."""
    seen = Count.of_row(mirror.statistics)
    record = parse_record(mirror.external_ids.get(COUNTED_KEY, ""))
    if record is None:
        begun = seen or _NONE
        if not mirror.parked:
            return Total(begun, begun).counted(None, ebpf)
        # The column may have eBPF's count alone, as older builds wrote it.
        copied = ebpf or _NONE
        shown = Count(max(begun.packets, copied.packets), max(begun.bytes, copied.bytes))
        return Total(shown, begun, copied)
    total = record.counted(None, ebpf)
    if seen is None:
        return total
    if _MARK not in mirror.statistics:
        return total.counted(seen, ebpf)
    more = seen.minus(total.shown)  # OVS has copied that since: eBPF's count is known.
    return replace(total, shown=total.shown.plus(more), ovs=total.ovs.plus(more))


def as_count(counters: Counters | None) -> Count | None:
    """What eBPF has copied, without drops."""
    return None if counters is None else Count(counters.packets, counters.bytes)


@dataclass
class Totals:
    """The totals of all mirrors that have one."""

    _totals: dict[UUID, Total] = field(default_factory=dict)
    _gone: dict[UUID, Total] = field(default_factory=dict)
    """Those of rows that are gone, until `take_over`."""
    _mirrors: Mapping[UUID, Mirror] = field(default_factory=dict)
    """The rows as they were last."""
    _refused: set[UUID] = field(default_factory=set)
    """Native mirrors that OVS keeps no count of: it has no room for them."""

    def look(self, mirrors: Mapping[UUID, Mirror], counters: Mapping[UUID, Counters]) -> None:
        """Takes in the rows, and what eBPF has counted by now."""
        known, self._totals, self._mirrors = self._totals, {}, mirrors
        for uuid, mirror in mirrors.items():
            ebpf = as_count(counters.get(uuid))
            concerned = ebpf is not None or mirror.parked or COUNTED_KEY in mirror.external_ids
            total = known.get(uuid)
            if total is not None:
                total = total.counted(None, ebpf)
                concerned = concerned or total.shown != total.ovs
            elif concerned:
                total = total_of(mirror, ebpf)
            if total is None or not concerned:
                continue  # OVS's count is the total.
            self._totals[uuid] = total
            if Count.of_row(mirror.statistics) not in (None, total.shown):
                self._refused.discard(uuid)
        self._refused &= self._totals.keys()
        self._gone |= {uuid: total for uuid, total in known.items() if uuid not in mirrors}

    def take_over(self, successors: Mapping[UUID, UUID], lingering: Collection[UUID]) -> None:
        """Has totals go on in the rows that are in others' places, given by those, with new counts.

        Of rows that are gone, it forgets all others' but those in `lingering`.
        """
        for former, mirror in successors.items():
            total = self._totals.pop(former, None) or self._gone.get(former)
            if total is not None:
                self._totals[mirror] = replace(total, ovs=_NONE)
        self._gone = {uuid: total for uuid, total in self._gone.items() if uuid in lingering}

    def end(self, counters: Mapping[UUID, Counters]) -> None:
        """Takes in the last counts of mirrors that have lost their slots."""
        for uuid, last in counters.items():
            for totals in (self._totals, self._gone):
                if uuid in totals:
                    total = totals[uuid].counted(None, as_count(last))
                    totals[uuid] = replace(total, ebpf=_NONE)

    def observe(self, uuid: UUID, statistics: Mapping[str, int]) -> None:
        """Takes in what OVS has written over a row's statistics."""
        total = self._totals.get(uuid)
        if total is None or _MARK in statistics:
            return
        ovs = Count.of_row(statistics)
        if ovs is not None:
            self._totals[uuid] = total.counted(ovs, total.ebpf)
        elif not self._mirrors[uuid].parked:
            self._refused.add(uuid)

    def statistics(self) -> dict[UUID, Mapping[str, int]]:
        """What the rows are to show.

        Not of a mirror that OVS keeps no count of, but for what eBPF has copied: an empty column is
        what tells that OVS has not taken it.
        """
        return {
            uuid: total.shown.as_statistics
            for uuid, total in self._totals.items()
            if uuid not in self._refused
            and (total.shown != _NONE or self._mirrors[uuid].statistics)
        }

    def records(self) -> dict[UUID, str]:
        """Each total as `ebpf-tap-counted` is to hold it when it is written."""
        return {uuid: total.record for uuid, total in self._totals.items()}

    def unrecorded(self, *, ending: bool = False) -> set[UUID]:
        """The mirrors whose total would not be found again from what their rows have on record.

        That of a native one is, for as long as OVS's count goes on; `ending`, it need not.
        """
        return {u for u, total in self._totals.items() if self._is_unrecorded(u, total, ending)}

    def _is_unrecorded(self, uuid: UUID, total: Total, ending: bool) -> bool:
        mirror = self._mirrors[uuid]
        record = parse_record(mirror.external_ids.get(COUNTED_KEY, ""))
        if record is None:
            return mirror.parked or total.shown != total.ovs
        if (mirror.parked or ending) and record.ovs != total.ovs:
            return True  # It stands still: if it is lower another time, ovs-vswitchd was restarted.
        begun_anew = total.ovs.packets < record.ovs.packets
        ended = total.ebpf == _NONE and record.ebpf != _NONE
        return begun_anew or ended or record.counted(total.ovs, total.ebpf).shown != total.shown
