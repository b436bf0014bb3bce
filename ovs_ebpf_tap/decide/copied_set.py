"""What was copied to an output, and how it came there."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Self

from ovs_ebpf_tap.decide.vlan import Path
from ovs_ebpf_tap.model.match import Match
from ovs_ebpf_tap.model.reasons import packet_reasons
from ovs_ebpf_tap.model.reasons.reason import Reason


@dataclass(frozen=True)
class CopiedSet:
    """Which packets were copied to an output, VLANs apart, and how they came there."""

    way: tuple[int | None, bool]
    """The VLAN that they were copied into, if not their own, and whether their tags were taken off
    before: `Path.vlan` and `Path.forced`."""
    unreserved: bool
    match: Match | None
    tpid: int | None = None
    """The TPID of what the copies have in the place of a tag that was taken off."""
    copied: bool = True
    """Not, if the packets were in the output VLAN already: to Open vSwitch they were copied."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """What takes that path."""
        return cls((path.vlan, path.forced), path.unreserved, path.match)

    def covers(self, other: Self) -> bool:
        """Whether what has come that way is all that would come the other, VLANs apart."""
        every = not self.unreserved and self.match is None
        return every or (self.unreserved, self.match) == (other.unreserved, other.match)

    def differs(self, other: Self) -> Reason | None:
        """What, if a packet may come both ways, does not look the same then."""
        looks = (self.way, self.tpid, self.copied)
        if looks == (other.way, other.tpid, other.copied) or not (self.copied or other.copied):
            return None
        if self.match and other.match and self.match.both(other.match) is None:
            return None
        same = (self.way, self.copied) == (other.way, other.copied)
        return packet_reasons.ANOTHER_TAG if same else packet_reasons.ANOTHER_VLAN


CopiedVlans = dict[CopiedSet, int]
"""For each set of packets, the set of VLANs of those that were copied."""

CopiedByGroup = dict[int, CopiedVlans]
"""The same for each group: `Rule.group`."""


def nothing_copied() -> CopiedByGroup:
    """To be added to: without any packets for a group that is not there."""
    return defaultdict(lambda: defaultdict(int))
