"""Choices that depend on the generator alone, not on the order of sets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random


def sample(rng: Random, names: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """Some of the names: as many as one of the sizes says, or all."""
    return rng.sample(names, min(rng.choice(sizes), len(names)))


def choose(rng: Random, names: Collection[str]) -> str | None:
    """One of the names; None of none."""
    return rng.choice(sorted(names)) if names else None
