"""The state of following copies from mirror to mirror, for all ports of a component."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from ovs_ebpf_tap.decide.copied_set import CopiedByGroup, nothing_copied

_MAX_FOUND = 8192
_MAX_TRIED = 131072
"""How often copies are followed to another mirror, and selected there, and how often that is tried,
for all hooks together."""


@dataclass
class TraversalState:
    """How often copies were followed to other mirrors, and what was copied where."""

    tried: int = 0
    found: int = 0
    lost: set[UUID] = field(default_factory=set)
    """The mirrors that copies were not followed to: that would not end, or not soon."""
    undecided: dict[UUID, str] = field(default_factory=dict)
    """The mirrors whose copies' tags depend on which mirror, or which port, comes first: why."""
    arrived: dict[int, int] = field(default_factory=dict)
    """By group: the VLANs of which all is copied there when it arrives."""
    inside: CopiedByGroup = field(default_factory=nothing_copied)
    """By group: the VLANs of what is not copied there when it arrives, but counts as copied."""
    leaving: CopiedByGroup = field(default_factory=nothing_copied)
    """By group: the VLANs of what is copied there when it leaves through some port."""
    leaving_late: CopiedByGroup = field(default_factory=nothing_copied)
    """Those of them whose hooks may see it later than those of ports that Open vSwitch sends it to
    behind them, or do not see that it counts as copied."""

    @property
    def exhausted(self) -> bool:
        """Whether copies were followed too often to go on."""
        return self.found >= _MAX_FOUND or self.tried >= _MAX_TRIED
