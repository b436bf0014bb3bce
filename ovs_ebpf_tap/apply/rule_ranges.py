"""Where hooks' rules are in the rules map."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.desired import Hook

_MAX_RULES = abi.constant("MAX_RULES")
_QUARANTINE = abi.constant("QUARANTINE_MS") / 1000  # seconds


class Range(NamedTuple):
    """Consecutive indexes of the rules map."""

    first: int
    length: int


class RuleRanges:
    """The ranges that hooks go by, and those that programs may still go by.

    A range that was given back is not written for `QUARANTINE_MS`: a program may be reading it.
    """

    def __init__(self, rules: bpf.Map) -> None:
        self._map = rules
        self._ranges: dict[Hook, Range] = {}
        self._doubtful: dict[Hook, list[Range]] = {}
        """Ranges that were written, and that the hook may go by, but was not seen to."""
        self._quarantine: list[tuple[float, Range]] = []
        """Ranges that were given back, and until when they rest."""

    def __contains__(self, hook: Hook) -> bool:
        return hook in self._ranges

    def __getitem__(self, hook: Hook) -> Range:
        return self._ranges[hook]

    def read(self, ranges: Mapping[Hook, Range]) -> dict[Hook, list[bytes]]:
        """Takes in which ranges the hooks' entries name; returns the rules that are there."""
        self._ranges = dict(ranges)
        data = self._map.first(max(map(sum, ranges.values()), default=0))
        return {hook: data[first : first + n] for hook, (first, n) in ranges.items()}

    def write(self, hook: Hook, packed: Sequence[bytes]) -> Range:
        """Writes rules to a free range, which is taken before a program can go by it.

        Raises OSError if there is none.
        """
        written = Range(self.find_room(len(packed)), len(packed))
        self._doubtful.setdefault(hook, []).append(written)
        for index, data in enumerate(packed, start=written.first):
            self._map.set(bpf.u32(index), data)
        return written

    def settle(self, hook: Hook, written: Range) -> None:
        """Notes that the hook goes by this range, and by no other any more."""
        self._doubtful[hook].remove(written)
        self.give_back(hook)
        self._ranges[hook] = written

    def withdraw(self, hook: Hook, written: Range) -> None:
        """Gives back a range that the hook does not go by after all."""
        self._doubtful[hook].remove(written)
        self._rest([written])

    def give_back(self, hook: Hook) -> None:
        """Gives back all ranges of a hook."""
        ranges = self._doubtful.pop(hook, [])
        if hook in self._ranges:
            ranges.append(self._ranges.pop(hook))
        self._rest(ranges)

    def find_room(self, length: int) -> int:
        """The first index of a free range. Raises OSError if there is none of that length."""
        now = time.monotonic()
        self._quarantine = [each for each in self._quarantine if each[0] > now]
        doubtful = [each for ranges in self._doubtful.values() for each in ranges]
        resting = [each for _, each in self._quarantine]
        index = 0
        for taken in sorted((*self._ranges.values(), *doubtful, *resting)):
            if taken.length:
                if index + length <= taken.first:
                    break
                index = max(index, taken.first + taken.length)
        if index + length > _MAX_RULES:
            raise OSError(0, f"more than {_MAX_RULES} rules")
        return index

    def _rest(self, ranges: Iterable[Range]) -> None:
        until = time.monotonic() + _QUARANTINE
        self._quarantine += [(until, each) for each in ranges]
