"""Finds what metadata may meet, without looking at all that there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, Self, TypeVar

from ovs_ebpf_tap.model.flow import IN_PORT, METADATA, TUN_ID, Known, register

_FIELDS = tuple(bits.mask for bits in (METADATA, IN_PORT, TUN_ID, *map(register, range(16))))
_FEW = 4
"""Items that no index is made for."""

T = TypeVar("T")


class _Values(NamedTuple, Generic[T]):
    """Items by the value of a field that is known of them, and the others."""

    mask: int
    by_value: Mapping[int, Sequence[T]]
    others: Sequence[T]


class KnownIndex(Generic[T]):
    """Items by what is known of the metadata, field by field."""

    def __init__(self, items: Sequence[T], fields: Sequence[_Values[T]]) -> None:
        """See `of`."""
        self._items = items
        self._fields = fields

    @classmethod
    def of(cls, keyed: Iterable[tuple[T, Known]]) -> Self:
        """An index of items, each with what is known of it."""
        pairs = list(keyed)
        items = [item for item, _ in pairs]
        if len(items) <= _FEW:
            return cls(items, ())
        found = (_values(pairs, mask) for mask in _FIELDS)
        return cls(items, [each for each in found if each.by_value])

    def meeting(self, known: Known) -> Sequence[T]:
        """The items that the metadata may meet, and perhaps some others."""
        best: Sequence[T] = self._items
        others: Sequence[T] = ()
        for mask, by_value, rest in self._fields:
            if known.mask & mask == mask:
                here = by_value.get(known.value & mask, ())
                if len(here) + len(rest) < len(best) + len(others):
                    best, others = here, rest
        return [*best, *others]


def _values(pairs: Sequence[tuple[T, Known]], mask: int) -> _Values[T]:
    by_value: dict[int, list[T]] = defaultdict(list)
    others = []
    for item, known in pairs:
        if known.mask & mask == mask:
            by_value[known.value & mask].append(item)
        else:
            others.append(item)
    return _Values(mask, by_value, others)
