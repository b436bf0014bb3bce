"""Differences between what was seen and what was expected, as data and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from ovs_ebpf_tap.lab.frames import describe, parse_seq, payload_of

_MOST_LINES = 20


@dataclass(frozen=True)
class Difference:
    """How a multiset of frames differs from the expected one; false if it does not.

    A frame that was seen with another header or tag than expected is `altered`, as a pair
    (expected, seen), and neither missing nor extra.
    """

    missing: Counter[bytes]
    extra: Counter[bytes]
    altered: list[tuple[bytes, bytes]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.altered)

    def __str__(self) -> str:
        if not self:
            return "no difference"
        return "\n".join(
            [
                f"{self.missing.total()} missing, {self.extra.total()} extra, "
                f"{len(self.altered)} altered",
                *_lines("missing", self.missing),
                *_lines("extra", self.extra),
                *_altered_lines(self.altered),
            ]
        )


@dataclass(frozen=True)
class StreamDifference:
    """How the numbers seen of a stream differ from those sent; false if each was seen once.

    `extra` counts further sightings of each number, and all of a number that was never sent.
    """

    sent: int
    seen: int
    missing: list[int]
    extra: Counter[int]

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra)

    def __str__(self) -> str:
        parts = [f"{self.sent} sent, {self.seen} seen"]
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({_runs(self.missing)})")
        if self.extra:
            parts.append(f"{self.extra.total()} extra ({_runs(sorted(self.extra))})")
        return ", ".join(parts)


def difference(expected: Counter[bytes], seen: Counter[bytes]) -> Difference:
    """Compare multisets of frames; the order plays no part."""
    missing, extra = expected - seen, seen - expected
    altered = []
    for identity in (_sequence, payload_of):
        altered += _take_pairs(missing, extra, identity)
    return Difference(missing, extra, altered)


def stream_difference(sent: int, seen: Iterable[int]) -> StreamDifference:
    """Compare the numbers seen with 0 to `sent` - 1, each expected once."""
    counted = Counter(seen)
    missing = [number for number in range(sent) if number not in counted]
    extra = counted - Counter(range(sent))
    return StreamDifference(sent, counted.total(), missing, extra)


def _sequence(frame: bytes) -> Hashable:
    return parse_seq(frame)


def _take_pairs(
    missing: Counter[bytes], extra: Counter[bytes], identity: Callable[[bytes], Hashable]
) -> list[tuple[bytes, bytes]]:
    """Take out of both what has the same identity, other than None or nothing, pair by pair."""
    candidates: dict[Hashable, list[bytes]] = {}
    for frame in extra.elements():
        candidates.setdefault(identity(frame), []).append(frame)
    pairs = []
    for frame in list(missing.elements()):
        same = candidates.get(identity(frame)) if identity(frame) else None
        if same:
            pairs.append((frame, same.pop(0)))
    missing.subtract(frame for frame, _ in pairs)
    extra.subtract(frame for _, frame in pairs)
    # Counters that differ in zeros only are equal, but iterating shows the zeros.
    for counter in (missing, extra):
        for frame in [frame for frame, count in counter.items() if count == 0]:
            del counter[frame]
    return pairs


def _lines(what: str, frames: Counter[bytes]) -> list[str]:
    lines = [f"  {what} {count} x {describe(frame)}" for frame, count in frames.items()]
    return _cut(lines)


def _altered_lines(pairs: list[tuple[bytes, bytes]]) -> list[str]:
    lines = []
    for expected, seen in pairs:
        lines += [f"  altered from {describe(expected)}", f"            to {describe(seen)}"]
    return _cut(lines)


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_LINES
    return lines if more <= 0 else [*lines[:_MOST_LINES], f"  and {more} more lines"]


def _runs(numbers: list[int]) -> str:
    """Ascending numbers as "3, 7..9", the first few of them."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(first) if first == last else f"{first}..{last}" for first, last in runs]
    return ", ".join(texts[:_MOST_LINES]) + (", ..." if len(texts) > _MOST_LINES else "")
