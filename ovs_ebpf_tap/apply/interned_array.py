"""Places in an array map that hold what rules refer to, each value once."""

from __future__ import annotations

import time
from collections.abc import Collection

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf

_QUARANTINE = abi.constant("QUARANTINE_MS") / 1000


class InternedArray:
    """Values by index; index 0 stays empty, it stands for none."""

    def __init__(self, array: bpf.Map, what: str) -> None:
        self._map = array
        self._what = what
        self._values: dict[int, bytes] = {}
        self._indexes: dict[bytes, int] = {}
        self._resting: dict[int, float] = {}
        self._never_used = 1

    def read(self, index: int) -> bytes:
        """The value at an index, not 0, that a rule in the kernel refers to.

        Raises ValueError for index 0.
        """
        if index == 0:
            raise ValueError(f"no {self._what} can be at index 0")
        if index not in self._values:
            self._note(index, self._map.get(bpf.u32(index)) or b"")
        return self._values[index]

    def index(self, value: bytes) -> int:
        """An index that holds the value. Raises OSError if all are taken."""
        if value not in self._indexes:
            index = self._find_free()
            self._map.set(bpf.u32(index), value)
            self._note(index, value)
        return self._indexes[value]

    def keep(self, used: Collection[int]) -> None:
        """Gives back the indexes that are not used; programs may still look at them."""
        until = time.monotonic() + _QUARANTINE
        for index in self._values.keys() - used:
            value = self._values.pop(index)
            if self._indexes.get(value) == index:
                del self._indexes[value]
            self._resting[index] = until

    def _note(self, index: int, value: bytes) -> None:
        self._values[index] = value
        self._resting.pop(index, None)
        self._indexes.setdefault(value, index)
        self._never_used = max(self._never_used, index + 1)

    def _find_free(self) -> int:
        now = time.monotonic()
        for index, until in self._resting.items():
            if until <= now:
                del self._resting[index]
                return index
        if self._never_used >= self._map.max_entries:
            raise OSError(0, f"more than {self._map.max_entries - 1} {self._what}")
        self._never_used += 1
        return self._never_used - 1
