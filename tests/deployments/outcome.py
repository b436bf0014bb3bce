"""What the comparison of one mirror came to."""

from __future__ import annotations

from dataclasses import dataclass

from ovs_ebpf_tap.model.desired import OFFLOADED


@dataclass(frozen=True)
class Outcome:
    """One line of the table; the counts are of copies.

    `verdict` is "offloaded", or the reason why not. `missing` and `extra` are those of hooks, of
    a mirror that stays native those of Open vSwitch.
    """

    deployment: str
    mirror: str
    ovs: str
    verdict: str
    due: int
    missing: int
    extra: int
    native_due: int
    native_missing: int
    native_extra: int

    @property
    def is_offloaded(self) -> bool:
        """Whether hooks copied."""
        return self.verdict == OFFLOADED
