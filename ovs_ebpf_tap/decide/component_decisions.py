"""The decisions on a component's mirrors while they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self
from uuid import UUID

from ovs_ebpf_tap.decide.native_limit import lacks_room
from ovs_ebpf_tap.decide.topology import BridgeContext
from ovs_ebpf_tap.model.desired import NATIVE, OFFLOADED, OffloadDecision
from ovs_ebpf_tap.model.limits import MAX_NATIVE_MIRRORS
from ovs_ebpf_tap.model.reasons.row_reasons import NO_ROOM
from ovs_ebpf_tap.model.rows import Mirror
from ovs_ebpf_tap.util import unexpected
from ovs_ebpf_tap.util.text import printable


@dataclass
class ComponentDecisions:
    """A decision for each mirror that was looked at."""

    context: BridgeContext
    mirrors: Sequence[Mirror]
    made: dict[UUID, OffloadDecision] = field(default_factory=dict)
    failed: bool = False
    """Whether a mirror was left to Open vSwitch by a fault of ours."""

    def copy(self) -> Self:
        """The same decisions, of which some may be made anew."""
        return replace(self, made=dict(self.made))

    def is_offloaded(self, mirror: Mirror) -> bool:
        """Whether it is to be offloaded, as it looks so far."""
        return self.made[mirror.uuid].state == OFFLOADED

    @property
    def offloaded(self) -> list[Mirror]:
        """The mirrors that `is_offloaded` is true of."""
        return [mirror for mirror in self.mirrors if self.is_offloaded(mirror)]

    def settle(self, mirror: Mirror, decision: OffloadDecision) -> None:
        """Decides; OVS may lack room for a mirror that is left to it."""
        if decision.state == NATIVE and lacks_room(self.context, mirror):
            decision = NO_ROOM.decision(limit=MAX_NATIVE_MIRRORS)
        self.made[mirror.uuid] = decision

    def leave(self, mirror: Mirror, reason: str) -> None:
        """Leaves a mirror to OVS."""
        self.settle(mirror, OffloadDecision(NATIVE, printable(reason)))

    def leave_all(self, reason: str) -> None:
        """Leaves all that are not left to OVS yet."""
        for mirror in self.offloaded:
            self.leave(mirror, reason)

    def fault(self, mirror: Mirror, error: Exception) -> str:
        """The reason to leave a mirror to OVS for a fault of ours, which is logged."""
        self.failed = True
        return printable(unexpected.reason(f"mirror {mirror.name}", error))
