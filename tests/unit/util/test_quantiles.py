"""Quantiles and percentiles."""

from __future__ import annotations

from statistics import StatisticsError

import pytest

from ovs_ebpf_tap.util.quantiles import percentile, quantiles


def test_quartiles() -> None:
    assert quantiles([4, 1, 3, 2, 5], 4) == [2, 3, 4]


def test_all_quantiles_of_one_value_are_that_value() -> None:
    assert quantiles([7.0], 4) == [7.0, 7.0, 7.0]


def test_percentiles() -> None:
    assert percentile([3], 99) == 3
    assert percentile(range(101), 90) == 90


def test_nothing_has_no_quantiles() -> None:
    with pytest.raises(StatisticsError):
        quantiles([], 4)
