"""What was copied for a mirror."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counters:
    """What a mirror's copies came to: packets, bytes, and copies that failed."""

    packets: int = 0
    bytes: int = 0
    drops: int = 0
