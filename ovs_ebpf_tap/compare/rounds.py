"""The order of runs: each variant in each round, none always before another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def orders(variants: Sequence[T], rounds: int) -> Iterator[tuple[T, ...]]:
    """The order in each round: turned by one every second round, and backwards in between.

    What drifts with time then weighs on all alike: AB BA BA AB of two, all six orders of three.
    """
    for number in range(rounds):
        shift = number // 2 % len(variants)
        order = (*variants[shift:], *variants[:shift])
        yield order[::-1] if number % 2 else order
