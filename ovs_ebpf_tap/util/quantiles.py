"""Quantiles of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable


def quantiles(values: Iterable[float], parts: int) -> list[float]:
    """The `parts` - 1 cut points, in ascending order, that divide the values into equal parts.

    They are interpolated, with the values taken as the whole population. Raises
    `statistics.StatisticsError` if there is no value.
    """
    known = list(values)
    # Before Python 3.13 `statistics` refuses a single value.
    if len(known) == 1:
        return known * (parts - 1)
    return statistics.quantiles(known, n=parts, method="inclusive")


def percentile(values: Iterable[float], percent: int) -> float:
    """The value that `percent` (1 to 99) percent of the values do not exceed."""
    return quantiles(values, 100)[percent - 1]
