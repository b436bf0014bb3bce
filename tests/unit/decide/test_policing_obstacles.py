"""When another program's filter keeps a hook from seeing what Open vSwitch sees."""

from __future__ import annotations

import pytest

from ovs_ebpf_tap.decide.policing import CoolDown, exceeds, is_looked_at_first, misses, obstacle
from ovs_ebpf_tap.model.desired import INGRESS, PRIORITY
from ovs_ebpf_tap.model.surroundings import ForeignFilter

BEFORE, BEHIND = PRIORITY - 1, PRIORITY + 2
TAKES, ENDS, BOTH = (True, False), (False, True), (True, True)
NOTHING, LESS, MORE = "nothing", "hook sees less", "hook sees more"


@pytest.mark.parametrize(
    ("arrival", "netdev", "internal", "first"),
    [
        (True, False, False, False),  # The kernel's datapath is behind TC.
        (True, True, False, True),  # A packet socket is before it.
        (True, False, True, False),
        (True, True, True, False),  # The device of a tap is behind TC.
        (False, False, False, True),
        (False, True, False, True),
        (False, False, True, True),
        (False, True, True, True),
    ],
)
def test_who_sees_it_first(arrival: bool, netdev: bool, internal: bool, first: bool) -> None:
    assert is_looked_at_first(arrival=arrival, netdev=netdev, internal=internal) == first


@pytest.mark.parametrize(
    ("clsact", "priority", "chain", "fate", "ovs_first", "consequence"),
    [
        # TCX: all filters are behind.
        (False, BEFORE, 0, TAKES, False, MORE),
        (False, BEHIND, 0, TAKES, False, MORE),
        (False, BEFORE, 0, BOTH, False, MORE),
        (False, BEFORE, 0, ENDS, False, NOTHING),
        (False, BEFORE, 0, BOTH, True, NOTHING),
        # clsact, behind a filter of another: what that takes, neither sees.
        (True, BEFORE, 0, TAKES, False, NOTHING),
        (True, BEFORE, 0, ENDS, False, LESS),
        (True, BEFORE, 0, BOTH, False, LESS),
        (True, BEFORE, 0, TAKES, True, LESS),
        (True, BEFORE, 0, ENDS, True, LESS),
        # clsact, before it.
        (True, BEHIND, 0, TAKES, False, MORE),
        (True, BEHIND, 0, ENDS, False, NOTHING),
        (True, BEHIND, 0, BOTH, True, NOTHING),
        # Another chain is gone through at some later time.
        (True, BEFORE, 7, TAKES, False, MORE),
        (True, BEFORE, 7, ENDS, False, NOTHING),
        (True, BEFORE, 7, BOTH, True, NOTHING),
    ],
)
def test_what_a_filter_means(
    clsact: bool,
    priority: int,
    chain: int,
    fate: tuple[bool, bool],
    ovs_first: bool,
    consequence: str,
) -> None:
    takes, ends = fate
    each = ForeignFilter(INGRESS, priority, "u32", chain, takes, ends)
    assert misses(each, clsact=clsact, ovs_first=ovs_first) == (consequence == LESS)
    assert exceeds(each, clsact=clsact, ovs_first=ovs_first) == (consequence == MORE)
    reason = obstacle([each], clsact=clsact, ovs_first=ovs_first)
    assert (reason is None) == (consequence == NOTHING)


def test_a_cool_down_ends() -> None:
    cooling = CoolDown(10.0)
    cooling.begin({7}, "is new", 100.0)
    cooling.begin({8}, "has lost its ingress qdisc", 105.0)
    reserved = cooling.reserved(105.0)
    assert reserved.keys() == {7, 8}
    assert reserved[7].startswith("its device is new, and another program may add an ingress qdisc")
    assert cooling.reserved(109.0) is reserved
    cooling.begin({8}, "has lost its ingress qdisc", 109.0)
    assert cooling.reserved(110.0).keys() == {8}
    assert not cooling.reserved(119.0)


def test_no_cool_down() -> None:
    cooling = CoolDown(0.0)
    cooling.begin({7}, "is new", 100.0)
    assert not cooling.reserved(100.0)
