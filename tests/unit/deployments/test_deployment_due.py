"""Tests of what the deployments' mirrors are held against."""

from __future__ import annotations

from collections import Counter

import pytest

from deployments.due import Passed, due
from deployments.kinds import KINDS, NumberedFrames, kind_of
from deployments.mirrors import UserMirror
from deployments.places import TRUNK, access
from ovs_ebpf_tap.lab.frames import Address, Tag, udp_frame, with_tags

A = Address("02:00:00:00:00:02", "10.0.0.2")
B = Address("02:00:00:00:00:03", "10.0.0.3")
FRAME = udp_frame(A, B, b"payload")
ROUTED = udp_frame(Address("02:00:00:00:00:09", A.ip), B, b"payload")
BOTH = UserMirror("m", src=["a", "b"], dst=["a", "b"])


def passed(
    arrived: list[bytes], left: list[bytes], vlans: tuple[int, int] | None = None
) -> dict[str, Passed]:
    """What arrives at a and leaves by b, which have these tags."""
    first, second = (TRUNK, TRUNK) if vlans is None else map(access, vlans)
    nothing: Counter[bytes] = Counter()
    return {
        "a": Passed(Counter(arrived), nothing, first),
        "b": Passed(nothing, Counter(left), second),
    }


@pytest.mark.parametrize(
    ("left", "copies"),
    [
        ([FRAME], {FRAME: 1}),
        ([ROUTED], {FRAME: 1, ROUTED: 1}),
        ([], {FRAME: 1}),
        ([FRAME, FRAME], {FRAME: 2}),
    ],
    ids=["same form", "another form", "dropped", "one more of the switch's own"],
)
def test_each_form_is_due_once(left: list[bytes], copies: dict[bytes, int]) -> None:
    assert due(BOTH, passed([FRAME], left), TRUNK) == copies


def test_what_is_not_selected_is_not_due() -> None:
    only_a = UserMirror("m", src=["a"])
    assert due(only_a, passed([FRAME], [ROUTED]), TRUNK) == {FRAME: 1}


def test_a_flood_is_due_once() -> None:
    flooded = {port: Passed(Counter(), Counter([FRAME, FRAME]), TRUNK) for port in ("a", "b", "c")}
    assert due(BOTH, flooded, TRUNK) == {FRAME: 2}


def test_an_access_port_gives_its_tag() -> None:
    tagged = with_tags(FRAME, [10])
    assert due(BOTH, passed([FRAME], [FRAME], (10, 10)), TRUNK) == {tagged: 1}
    # What the port does not admit is not selected; what left by it had its outer tag removed.
    inner = with_tags(FRAME, [7])
    assert due(BOTH, passed([inner], [inner], (10, 10)), TRUNK) == {with_tags(FRAME, [10, 7]): 1}


def test_a_priority_that_was_dropped_on_the_way_makes_no_other_form() -> None:
    priority = with_tags(FRAME, [Tag(0, pcp=3)])
    copy = with_tags(FRAME, [Tag(10, pcp=3)])
    assert due(BOTH, passed([priority], [FRAME], (10, 10)), TRUNK) == {copy: 1}


def test_vlan_and_length() -> None:
    mirror = UserMirror("m", select_all=True, select_vlan=[20], snaplen=30)
    assert due(mirror, passed([FRAME], [ROUTED], (10, 20)), TRUNK) == {
        with_tags(ROUTED, [20])[:30]: 1
    }


def test_frames_are_told_apart() -> None:
    numbered = NumberedFrames()
    frames = [*numbered.between(A, B), *numbered.between(A, B)]
    assert len(set(frames)) == len(frames) == 2 * len(KINDS)
    assert [kind_of(frame) for frame in frames[: len(KINDS)]] == [f"{name} (1)" for name in KINDS]
