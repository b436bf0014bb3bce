"""Ranges of the rules map: none is written while a program may go by it."""

from __future__ import annotations

from typing import cast

import pytest
from builders import Clock, FakeMap

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply import rule_ranges
from ovs_ebpf_tap.apply.rule_ranges import Range, RuleRanges
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, Hook

QUARANTINE = abi.constant("QUARANTINE_MS") / 1000
MAX_RULES = abi.constant("MAX_RULES")

A, B, C = Hook(1, INGRESS), Hook(1, EGRESS), Hook(2, INGRESS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rule_ranges, "time", made)
    return made


@pytest.fixture
def ranges(clock: Clock) -> RuleRanges:
    return RuleRanges(cast(bpf.Map, FakeMap(1, MAX_RULES)))


def packed(rules: str) -> list[bytes]:
    return [rule.encode() for rule in rules]


def put(ranges: RuleRanges, hook: Hook, rules: str) -> Range:
    written = ranges.write(hook, packed(rules))
    ranges.settle(hook, written)
    return written


def test_hooks_have_ranges_of_their_own(ranges: RuleRanges) -> None:
    assert put(ranges, A, "abc") == ranges[A] == (0, 3)
    assert put(ranges, B, "de") == ranges[B] == (3, 2)
    assert ranges.read({A: Range(0, 3), B: Range(3, 2)}) == {A: packed("abc"), B: packed("de")}


def test_a_hook_without_rules_takes_no_room(ranges: RuleRanges) -> None:
    put(ranges, A, "")
    assert A in ranges
    assert put(ranges, B, "a") == (0, 1)


def test_a_range_rests_before_it_is_written_again(ranges: RuleRanges, clock: Clock) -> None:
    put(ranges, A, "abc")
    ranges.give_back(A)
    assert A not in ranges
    clock.now += 0.9 * QUARANTINE
    assert put(ranges, B, "de") == (3, 2)
    clock.now += 0.2 * QUARANTINE
    assert put(ranges, C, "fg") == (0, 2)


def test_other_rules_of_a_hook_do_not_take_the_place_of_those_it_goes_by(
    ranges: RuleRanges, clock: Clock
) -> None:
    put(ranges, A, "ab")
    assert put(ranges, A, "cd") == ranges[A] == (2, 2)
    assert ranges.find_room(1) == 4
    clock.now += 2 * QUARANTINE
    assert ranges.find_room(1) == 0


def test_what_a_hook_may_go_by_stays(ranges: RuleRanges, clock: Clock) -> None:
    put(ranges, A, "ab")
    ranges.write(A, packed("cd"))
    clock.now += 2 * QUARANTINE
    assert ranges.find_room(1) == 4
    ranges.give_back(A)
    clock.now += 2 * QUARANTINE
    assert ranges.find_room(1) == 0


def test_what_a_hook_does_not_go_by_after_all_rests(ranges: RuleRanges, clock: Clock) -> None:
    put(ranges, A, "ab")
    ranges.withdraw(A, ranges.write(A, packed("cd")))
    assert ranges[A] == (0, 2)
    assert ranges.find_room(1) == 4
    clock.now += 2 * QUARANTINE
    assert ranges.find_room(1) == 2


def test_a_gap_is_used_if_the_rules_fit(ranges: RuleRanges, clock: Clock) -> None:
    for hook, rules in ((A, "ab"), (B, "cd"), (C, "ef")):
        put(ranges, hook, rules)
    ranges.give_back(B)
    clock.now += 2 * QUARANTINE
    assert ranges.find_room(3) == 6
    assert ranges.find_room(2) == 2


def test_there_is_no_room(ranges: RuleRanges) -> None:
    ranges.read({A: Range(0, MAX_RULES - 1)})
    assert ranges.find_room(1) == MAX_RULES - 1
    with pytest.raises(OSError, match="rules"):
        ranges.find_room(2)
