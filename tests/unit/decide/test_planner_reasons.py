"""Why mirrors are not offloaded."""

from __future__ import annotations

import re
from string import Formatter
from typing import Any

import pytest
import reason_cases_packets
import reason_cases_ports
import reason_cases_rows
from planner_changes import (
    Change,
    plain,
)

from ovs_ebpf_tap.model.desired import (
    NATIVE,
    OFFLOADED,
)
from ovs_ebpf_tap.model.limits import MAX_NATIVE_MIRRORS
from ovs_ebpf_tap.model.reasons.reason import Reason
from ovs_ebpf_tap.model.reasons.table import all_reasons
from ovs_ebpf_tap.model.rows import MODE_KEY

REASONS = reason_cases_rows.CASES + reason_cases_ports.CASES + reason_cases_packets.CASES


@pytest.mark.parametrize(
    ("change", "state", "reason"), [r[1:] for r in REASONS], ids=[r[0] for r in REASONS]
)
def test_reasons(change: Change, state: str, reason: str) -> None:
    world = plain()
    assert world.decision().state == OFFLOADED

    change(world)

    decision = world.decision()
    assert decision.state == state
    assert decision.reason is not None
    assert decision.reason.startswith(reason)
    rules = [rule for hook in world.plan().hooks.values() for rule in hook]
    assert not any(rule.mirror == world.mirrors["m"].uuid for rule in rules)


@pytest.mark.parametrize("left_over", [{}, {"filter": "odd=1", "out": "out"}])
def test_rows_that_ovs_does_not_take_need_no_room(left_over: dict[str, Any]) -> None:
    """A mirror just made has no statistics yet."""
    world = plain()
    world.set_mirror("m", external_ids={MODE_KEY: "native"})
    for n in range(MAX_NATIVE_MIRRORS):
        world.add_mirror(f"n{n}", src="c", **left_over)
    assert world.decision("m").state == NATIVE


OTHERWISE_TESTED = {
    "CONTENDED",  # test_planner_limits
    "COOLING_DOWN",  # test_policing_obstacles
    "DEPENDENT",  # test_component_planner
    "ENDLESS_COPIES",  # test_planner_limits
    "HARDWARE_FLOWS",  # test_hw_offload
    "INTERNAL_ERROR",  # test_planner_faults
    "MIRRORS_PER_COMPONENT",  # test_planner_limits
    "MIRRORS_PER_HOST",  # test_planner_mirrors
    "NO_SLOT",  # test_planner_faults
    "PORTS_PER_COMPONENT",  # test_planner_limits
    "RULES_PER_HOOK",  # test_planner_mirrors
}


def test_each_reason_has_a_case() -> None:
    said = set()
    for _, change, _, _ in REASONS:
        world = plain()
        change(world)
        said |= {decision.reason for decision in world.plan().decisions.values()}
    left = {
        name
        for name, reason in all_reasons().items()
        if not any(pattern(reason).fullmatch(text) for text in said if text is not None)
    }
    assert left == OTHERWISE_TESTED


def pattern(reason: Reason) -> re.Pattern[str]:
    """What the reason may look like."""
    parts = Formatter().parse(reason.template)
    return re.compile(
        "".join(re.escape(literal) + (".*" if name else "") for literal, name, _, _ in parts)
    )
