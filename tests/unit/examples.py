"""How many examples a property is tried with."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100
"""What the whole profile has for all properties, as Hypothesis itself."""


def examples(count: int) -> int:
    """`max_examples` of a property: `count`, or fewer in a profile that has fewer for all."""
    return max(1, count * settings().max_examples // _USUAL)
