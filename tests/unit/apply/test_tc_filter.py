"""Filters of sidecars, as they are asked for and as they are read back."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from ovs_ebpf_tap.apply import tc_filter
from ovs_ebpf_tap.apply.tc_filter import Filter
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, PRIORITY, UNTAG_PRIORITY

OWNER = 1 << 31 | 7


def told(message: Any) -> Any:
    """The message as the kernel would tell of it."""
    message.encode()
    (parsed,) = MarshalRtnl().parse(bytes(message.data))
    return parsed


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
@pytest.mark.parametrize("program", [0, 12])
@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("action", [0, 5])
def test_what_is_asked_for_is_read_back(
    direction: str, program: int, made: bool, action: int
) -> None:
    name = tc_filter.name("build", program, made=made)
    message = told(tc_filter.new(3, direction, PRIORITY, OWNER, name, 9, action))
    assert tc_filter.priority(message) == PRIORITY
    expected = Filter(3, direction, OWNER, "build", made, program, action)
    assert tc_filter.parse(3, direction, message) == expected


def test_the_program_behind_a_filter_is_none_of_these() -> None:
    message = told(tc_filter.new(3, EGRESS, UNTAG_PRIORITY, OWNER, "tap_untag", 9))
    assert tc_filter.priority(message) == UNTAG_PRIORITY
    assert tc_filter.parse(3, EGRESS, message) is None


def test_a_program_id_that_is_no_number_is_none() -> None:
    message = told(tc_filter.new(3, EGRESS, PRIORITY, OWNER, tc_filter.NAME + "build#x", 9))
    found = tc_filter.parse(3, EGRESS, message)
    assert found is not None
    assert found.program == 0
