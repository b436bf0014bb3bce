"""Flows counted by what they do."""

from __future__ import annotations

from ovs_ebpf_tap.model.flow import Clone, Flow, FlowName, Known, Output
from ovs_ebpf_tap.observe.flow_counts import FlowCounts
from ovs_ebpf_tap.observe.ofp import Does, FlowUpdate

ONE, TWO = (Flow(0, Known(), (Output(port),)) for port in (1, 2))
LEARNED = Flow(9, Known(), (Output(3),))


def flow(
    match: bytes, *flows: Flow, cookie: int = 0, groups: frozenset[int] = frozenset()
) -> FlowUpdate:
    return FlowUpdate((0, 5, match), cookie, Does(flows, groups))


def gone(match: bytes) -> FlowUpdate:
    return FlowUpdate((0, 5, match), 0, None)


def name(cookie: int) -> FlowName:
    return FlowName(0, 5, cookie)


def test_the_version_is_another_when_other_flows_are_there() -> None:
    counts = FlowCounts()
    versions = [counts.version]

    def changes(update: FlowUpdate) -> bool:
        counts.take(update)
        versions.append(counts.version)
        return versions[-1] != versions[-2]

    assert changes(flow(b"a", ONE))
    assert not changes(flow(b"b", ONE, cookie=7))
    assert not changes(flow(b"a", ONE, cookie=8))
    assert not changes(gone(b"a"))
    assert not changes(gone(b"a"))
    assert changes(flow(b"b", TWO))
    assert counts.flows == {TWO: name(0)}
    assert changes(gone(b"b"))
    assert counts.flows == {}
    assert sorted(versions) == versions


def test_flows_that_name_a_port_twice_are_told() -> None:
    counts = FlowCounts()
    twice = Output(1), Clone((Output(2), Output(1)))
    counts.take(flow(b"a", Flow(0, Known(), twice)))
    assert counts.repeating == counts.version
    counts.take(flow(b"b", TWO))
    assert counts.repeating < counts.version


def test_a_name_is_that_of_a_flow_that_is_there() -> None:
    counts = FlowCounts()
    for match, cookie in ((b"a", 1), (b"b", 1 << 64 - 1), (b"c", 3)):
        counts.take(flow(match, ONE, cookie=cookie))
    assert counts.flows == {ONE: name(1)}
    counts.take(gone(b"a"))
    assert counts.flows == {ONE: name(1 << 64 - 1)}
    counts.take(flow(b"b", TWO))
    assert counts.flows == {ONE: name(3), TWO: name(0)}


def test_a_flow_that_several_may_add_has_the_name_of_one_of_them() -> None:
    counts = FlowCounts()
    counts.take(flow(b"a", ONE, LEARNED, cookie=1))
    counts.take(flow(b"b", TWO, LEARNED, cookie=2))
    counts.take(gone(b"a"))
    assert counts.flows == {TWO: name(2), LEARNED: name(2)}


def test_groups_count_as_long_as_flows_use_them() -> None:
    counts = FlowCounts()
    counts.take(flow(b"a", ONE, groups=frozenset({7})))
    counts.take(flow(b"b", TWO, groups=frozenset({7, 8})))
    assert counts.groups == {7: 2, 8: 1}
    counts.take(gone(b"b"))
    assert counts.groups == {7: 1}
    counts.clear()
    assert (counts.groups, counts.flows) == ({}, {})


def test_what_is_handed_out_is_a_copy() -> None:
    counts = FlowCounts()
    counts.take(flow(b"a", ONE))
    before = counts.flows
    counts.take(gone(b"a"))
    assert before == {ONE: name(0)}
