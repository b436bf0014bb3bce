"""How many examples a property is tried with."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100
"""What Hypothesis's default profile has for all properties."""


def examples(count: int) -> int:
    """`max_examples` of a property: `count`, or fewer in a profile that has fewer for all."""
    return max(1, count * settings().max_examples // _USUAL)
