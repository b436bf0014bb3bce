"""Finds the sites that metadata may meet, without looking at all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from ovs_ebpf_tap.decide.flow_sites import Site
from ovs_ebpf_tap.model.flow import IN_PORT, METADATA, TUN_ID, Known, register

_FIELDS = tuple(bits.mask for bits in (METADATA, IN_PORT, TUN_ID, *map(register, range(16))))
_FEW = 4
"""Sites that no index is made for."""


class _Values(NamedTuple):
    """Sites by the value of a field that is known there, and the others."""

    mask: int
    by_value: Mapping[int, Sequence[Site]]
    others: Sequence[Site]


class SiteIndex:
    """Sites by the values of all fields."""

    def __init__(self, sites: Sequence[Site], fields: Sequence[_Values]) -> None:
        """See `of`."""
        self._sites = sites
        self._fields = fields

    @classmethod
    def of(cls, sites: Sequence[Site]) -> Self:
        """An index of these sites."""
        if len(sites) <= _FEW:
            return cls(sites, ())
        keyed = [(site, site.there) for site in sites]
        found = (_values(keyed, mask) for mask in _FIELDS)
        return cls(sites, [each for each in found if each.by_value])

    def meeting(self, known: Known) -> Sequence[Site]:
        """The sites where the metadata may be so, and perhaps some others."""
        best: Sequence[Site] = self._sites
        others: Sequence[Site] = ()
        for mask, by_value, rest in self._fields:
            if known.mask & mask == mask:
                here = by_value.get(known.value & mask, ())
                if len(here) + len(rest) < len(best) + len(others):
                    best, others = here, rest
        return [*best, *others]


def _values(keyed: Sequence[tuple[Site, Known]], mask: int) -> _Values:
    by_value: dict[int, list[Site]] = defaultdict(list)
    others = []
    for site, known in keyed:
        if known.mask & mask == mask:
            by_value[known.value & mask].append(site)
        else:
            others.append(site)
    return _Values(mask, by_value, others)
