"""Packets that come to an output in two ways: which come once, and which look different."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovs_ebpf_tap.decide.copied_set import CopiedSet, nothing_copied
from ovs_ebpf_tap.decide.mirror_filter import parse
from ovs_ebpf_tap.model.reasons.packet_reasons import ANOTHER_TAG, ANOTHER_VLAN
from ovs_ebpf_tap.model.reasons.reason import Reason

ALL = CopiedSet((None, False), unreserved=False, match=None)
TCP = replace(ALL, match=parse("tcp"))
UDP = replace(ALL, match=parse("udp"))
IN_VLAN = replace(ALL, way=(7, False), unreserved=True)


@pytest.mark.parametrize(
    ("this", "other", "covers"),
    [
        (ALL, TCP, True),
        (ALL, IN_VLAN, True),
        (TCP, TCP, True),
        (TCP, ALL, False),
        (TCP, UDP, False),
        (IN_VLAN, ALL, False),
        (IN_VLAN, replace(IN_VLAN, way=(8, True)), True),
    ],
)
def test_what_covers_another(this: CopiedSet, other: CopiedSet, covers: bool) -> None:
    assert this.covers(other) is covers


@pytest.mark.parametrize(
    ("this", "other", "reason"),
    [
        (ALL, ALL, None),
        (ALL, TCP, None),
        (ALL, IN_VLAN, ANOTHER_VLAN),
        (ALL, replace(ALL, way=(None, True)), ANOTHER_VLAN),
        (ALL, replace(ALL, tpid=0x8100), ANOTHER_TAG),
        (TCP, replace(UDP, tpid=0x8100), None),  # No packet is both.
        (ALL, replace(ALL, copied=False), ANOTHER_VLAN),
        (replace(ALL, copied=False), replace(IN_VLAN, copied=False), None),
    ],
)
def test_what_looks_different(this: CopiedSet, other: CopiedSet, reason: Reason | None) -> None:
    assert this.differs(other) == reason
    assert other.differs(this) == reason


def test_nothing_is_copied_to_a_group_that_is_not_known() -> None:
    copied = nothing_copied()
    assert copied[5][ALL] == 0
    copied[5][ALL] |= 1 << 7
    assert copied[5] == {ALL: 1 << 7}
