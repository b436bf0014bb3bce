"""What the log says of mirrors: each new state, once."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import structlog

from ovs_ebpf_tap.model.desired import OFFLOAD, OFFLOADED, OffloadDecision
from ovs_ebpf_tap.model.reasons.packet_reasons import FLOWS_UNKNOWN
from ovs_ebpf_tap.model.rows import Database

_FLOW_TABLES = 1.0
"""Seconds before it is said that a bridge's flow tables are not known."""

log = structlog.get_logger()


class DecisionLog:
    """Logs the decisions that differ from those of the last pass."""

    def __init__(self) -> None:
        self._said: dict[UUID, OffloadDecision] = {}
        self._unknown_since: dict[UUID, float] = {}
        """Since when a mirror waits for its bridge's flow tables; of the monotonic clock."""
        self.offloaded = 0
        """The number of mirrors that are offloaded."""

    def __len__(self) -> int:
        """The number of mirrors whose state was said."""
        return len(self._said)

    def report(self, db: Database, decisions: Mapping[UUID, OffloadDecision], now: float) -> bool:
        """Logs what changed; returns whether all is said."""
        reason = FLOWS_UNKNOWN.told()
        unknown = {uuid for uuid, each in decisions.items() if each.reason == reason}
        self._unknown_since = {uuid: self._unknown_since.get(uuid, now) for uuid in unknown}
        said = {}
        for uuid, decision in decisions.items():
            if self._unknown_since.get(uuid, 0.0) + _FLOW_TABLES > now:
                continue  # Hardly seen, and mostly no news in a moment.
            said[uuid] = decision
            if self._said.get(uuid) != decision:
                _say(db.mirrors[uuid].name, db.bridge_names.get(uuid), decision)
        self._said = said
        self.offloaded = sum(decision.state == OFFLOADED for decision in said.values())
        return len(said) == len(decisions)


def _say(mirror: str, bridge: str | None, decision: OffloadDecision) -> None:
    bound = log.bind(mirror=mirror, bridge=bridge)
    if decision == OFFLOAD:
        bound.info("mirror offloaded")
    elif decision.state == OFFLOADED:
        bound.warning("mirror offloaded, but copies nothing", reason=decision.reason)
    else:
        bound.warning("mirror not offloaded", reason=decision.reason)
