"""Missing and extra copies, from counters that are read while packets flow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.compare.counting import Edge, account

PAUSE = 10
BEGIN, END = 50, 150

PACKETS = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, PAUSE), st.sampled_from([0, 1, 1, 1, 2, 3]))
)
"""When each arrives, how long after that its copies are made, and how many."""


def edge(packets: list[tuple[int, int, int]], when: int) -> Edge:
    def copies(by: int) -> int:
        return sum(n for arrived, delay, n in packets if arrived + delay <= by)

    due = sum(arrived <= when for arrived, _, _ in packets)
    return Edge(copies(when), due, copies(when + PAUSE))


@given(PACKETS)
def test_what_is_said_to_be_missing_or_extra_is(packets: list[tuple[int, int, int]]) -> None:
    found = account(edge(packets, BEGIN), edge(packets, END))
    near = [n for at, _, n in packets if BEGIN - PAUSE <= at <= END + PAUSE]
    assert found.missing <= sum(max(0, 1 - n) for n in near)
    assert found.extra <= sum(max(0, n - 1) for n in near)
    assert not (found.missing and found.extra)
    assert found.uncertain >= 0


@given(PACKETS)
def test_nothing_is_missing_or_extra_where_each_is_copied_once(
    packets: list[tuple[int, int, int]],
) -> None:
    once = [(arrived, delay, 1) for arrived, delay, _ in packets]
    assert account(edge(once, BEGIN), edge(once, END)).exact


@given(PACKETS)
def test_at_rest_it_is_exact(packets: list[tuple[int, int, int]]) -> None:
    between = [each for each in packets if BEGIN + PAUSE < each[0] <= END - PAUSE]
    found = account(edge(between, BEGIN), edge(between, END))
    assert found.uncertain == 0
    assert found.due == len(between)
    assert found.copies == sum(n for _, _, n in between)
    assert found.extra - found.missing == found.copies - found.due
