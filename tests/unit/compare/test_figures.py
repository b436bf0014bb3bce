"""Medians, spreads, ratios, and the order of rounds."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.compare.figures import (
    NATIVE,
    NONE,
    OFFLOADED,
    Load,
    Metric,
    Reading,
    Result,
    summarise,
)
from ovs_ebpf_tap.compare.rounds import orders

VALUES = st.lists(st.floats(0, 1e12), min_size=1)
PPS = Metric("pps", "packets", "/s")


def result(**values: list[float | None]) -> Result:
    """One load with one metric; the values by variant."""
    readings = tuple(
        Reading(number, "load", variant, 1.0, {"pps": value})
        for variant, each in values.items()
        for number, value in enumerate(each)
    )
    return Result("title", (), (), (), tuple(values), (Load("load", "a load", (PPS,)),), readings)


@given(VALUES)
def test_summaries_are_in_order(values: list[float]) -> None:
    found = summarise(values)
    assert found.n == len(values)
    assert (found.minimum, found.maximum) == (min(values), max(values))
    slack = 1e-9 * found.maximum
    steps = (found.minimum, found.q1, found.median, found.q3, found.maximum)
    assert all(low <= high + slack for low, high in pairwise(steps))
    assert sum(value <= found.median + slack for value in values) * 2 >= len(values)
    assert sum(value >= found.median - slack for value in values) * 2 >= len(values)


@given(VALUES, st.randoms())
def test_the_order_of_values_plays_no_part(values: list[float], random: object) -> None:
    shuffled = values.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert summarise(shuffled) == summarise(values)


def test_a_summary() -> None:
    found = summarise([4, 1, 3, 2, 5])
    assert (found.n, found.median, found.q1, found.q3) == (5, 3, 2, 4)
    assert summarise([7.0]).q1 == summarise([7.0]).q3 == 7.0


def test_ratios() -> None:
    found = result(none=[1, 1], native=[100, 300], offloaded=[90, 110])
    assert found.ratio("load", "pps", OFFLOADED, NATIVE) == 0.5
    assert found.pairs == [(OFFLOADED, NATIVE), (OFFLOADED, NONE), (NATIVE, NONE)]


@pytest.mark.parametrize("native", [[0, 0], [1, None], [None, None]])
def test_no_ratio(native: list[float | None]) -> None:
    """Of what is not known of each run, and to nothing."""
    assert result(native=native, offloaded=[1, 1]).ratio("load", "pps", OFFLOADED, NATIVE) is None


def test_orders() -> None:
    assert ["".join(order) for order in orders("AB", 4)] == ["AB", "BA", "BA", "AB"]
    assert set(orders("ABC", 6)) == set(permutations("ABC"))


@given(st.integers(1, 4), st.integers(0, 30))
def test_each_variant_is_in_each_round(variants: int, rounds: int) -> None:
    found = list(orders(range(variants), rounds))
    assert len(found) == rounds
    assert all(sorted(order) == list(range(variants)) for order in found)
    if rounds % (2 * variants) == 0:
        firsts = Counter(order[0] for order in found)
        assert len(set(firsts.values())) <= 1
