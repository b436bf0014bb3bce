"""The log has each new state of a mirror, once."""

from __future__ import annotations

from uuid import UUID

import pytest
from structlog.testing import capture_logs

from ovs_ebpf_tap.daemon.decision_log import DecisionLog
from ovs_ebpf_tap.model.desired import NATIVE, OFFLOAD, OFFLOADED, OffloadDecision
from ovs_ebpf_tap.model.reasons.packet_reasons import FLOWS_UNKNOWN
from ovs_ebpf_tap.model.rows import Bridge, Database, Mirror

NOW = 1000.0
U = UUID(int=1)
B = UUID(int=2)
DB = Database({B: Bridge(B, "br0", mirrors=(U,))}, mirrors={U: Mirror(U, "m1")})
UNKNOWN = OffloadDecision(NATIVE, FLOWS_UNKNOWN.told())


@pytest.mark.parametrize(
    ("decision", "event", "level"),
    [
        (OFFLOAD, "mirror offloaded", "info"),
        (OffloadDecision(OFFLOADED, "no ports"), "mirror offloaded, but copies nothing", "warning"),
        (OffloadDecision(NATIVE, "it is so"), "mirror not offloaded", "warning"),
    ],
)
def test_a_state_is_said_once(decision: OffloadDecision, event: str, level: str) -> None:
    said = DecisionLog()
    with capture_logs() as logged:
        for _ in range(2):
            assert said.report(DB, {U: decision}, NOW)
    (line,) = logged
    assert (line["event"], line["log_level"], line["mirror"]) == (event, level, "m1")
    assert line["bridge"] == "br0"
    assert line.get("reason") == decision.reason
    assert said.offloaded == (decision.state == OFFLOADED)
    assert len(said) == 1


def test_flow_tables_that_are_hardly_known_are_not_said() -> None:
    said = DecisionLog()
    with capture_logs() as logged:
        assert not said.report(DB, {U: UNKNOWN}, NOW)
        assert not said.report(DB, {U: UNKNOWN}, NOW + 0.9)
        assert logged == []
        assert len(said) == 0
        assert said.report(DB, {U: UNKNOWN}, NOW + 1)
    assert [line["event"] for line in logged] == ["mirror not offloaded"]


def test_the_wait_begins_anew_when_they_were_known_in_between() -> None:
    said = DecisionLog()
    said.report(DB, {U: UNKNOWN}, NOW)
    said.report(DB, {U: OFFLOAD}, NOW + 0.5)
    assert not said.report(DB, {U: UNKNOWN}, NOW + 1.2)
