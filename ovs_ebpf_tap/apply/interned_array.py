"""Places in an array map that hold what rules refer to, each value once."""

from __future__ import annotations

import time
from collections.abc import Collection

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf

_QUARANTINE = abi.constant("QUARANTINE_MS") / 1000


class InternedArray:
    """Values by place; place 0 stays empty, it stands for none."""

    def __init__(self, places: bpf.Map, what: str) -> None:
        self._map = places
        self._what = what
        self._values: dict[int, bytes] = {}
        self._places: dict[bytes, int] = {}
        self._resting: dict[int, float] = {}
        self._never_used = 1

    def read(self, place: int) -> bytes:
        """The value at a place, not 0, that a rule in the kernel refers to.

        Raises ValueError for place 0.
        """
        if place == 0:
            raise ValueError(f"no {self._what} can be at place 0")
        if place not in self._values:
            self._note(place, self._map.get(bpf.u32(place)) or b"")
        return self._values[place]

    def place(self, value: bytes) -> int:
        """A place that holds the value. Raises OSError if all are taken."""
        if value not in self._places:
            place = self._find_free()
            self._map.set(bpf.u32(place), value)
            self._note(place, value)
        return self._places[value]

    def keep(self, used: Collection[int]) -> None:
        """Gives back the places that are not used; programs may still look at them."""
        until = time.monotonic() + _QUARANTINE
        for place in self._values.keys() - used:
            value = self._values.pop(place)
            if self._places.get(value) == place:
                del self._places[value]
            self._resting[place] = until

    def _note(self, place: int, value: bytes) -> None:
        self._values[place] = value
        self._resting.pop(place, None)
        self._places.setdefault(value, place)
        self._never_used = max(self._never_used, place + 1)

    def _find_free(self) -> int:
        now = time.monotonic()
        for place, until in self._resting.items():
            if until <= now:
                del self._resting[place]
                return place
        if self._never_used >= self._map.max_entries:
            raise OSError(0, f"more than {self._map.max_entries - 1} {self._what}")
        self._never_used += 1
        return self._never_used - 1
