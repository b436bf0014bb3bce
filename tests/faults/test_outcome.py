"""When an outcome is a failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from faults.fault import DOUBLED, QUIET, RECOVERY, Outcome
from ovs_ebpf_tap.lab.waiting import EMULATED

GOOD = Outcome("none", 5000, 0, 0, 0, 0.0, 0, 0.0, 1)
DOUBLED_LONG = replace(GOOD, longest=2 * DOUBLED)
LATE = replace(GOOD, recovery=2 * RECOVERY)

pytestmark = pytest.mark.skipif(EMULATED, reason="limits are wider there")


def test_missing_copies_fail_on_any_machine() -> None:
    assert not GOOD.problems()
    assert replace(GOOD, missing=1).problems()
    assert replace(GOOD, missing=1, others=2.0).problems()


@pytest.mark.parametrize("outcome", [DOUBLED_LONG, LATE])
def test_limits_hold_on_a_quiet_machine(outcome: Outcome) -> None:
    assert replace(outcome, others=QUIET).problems()
    busy = replace(outcome, others=2 * QUIET)
    assert not busy.problems()
    assert busy.is_late
    assert replace(busy, longest=2.0, recovery=30.0).problems()


def test_limits_are_wider_for_several_moves_and_preparations() -> None:
    assert not replace(DOUBLED_LONG, moves=2).problems()
    assert not replace(LATE, preparation=RECOVERY).problems()
