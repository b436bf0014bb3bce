"""Slots of mirrors: what was counted stays, and nobody counts for another mirror."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from builders import Clock, FakeHash, FakeMap

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply import counter_slots
from ovs_ebpf_tap.apply.counter_slots import CounterSlots
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.counters import Counters

MAX_MIRRORS = abi.constant("MAX_MIRRORS")
QUARANTINE = abi.constant("QUARANTINE_MS") / 1000
COUNTERS = abi.layout("counters")

_CPUS = 2
A, B = UUID(int=1), UUID(int=1 << 127 | 2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(counter_slots, "time", made)
    return made


@pytest.fixture
def maps(clock: Clock) -> dict[str, Any]:
    return {"mirrors": FakeHash(), "counters": FakeMap(_CPUS * COUNTERS.size, MAX_MIRRORS)}


def count(maps: dict[str, Any], slot: int, *packets: int) -> None:
    """What each CPU has counted."""
    value = b"".join(COUNTERS.pack(packets=each, bytes=60 * each) for each in packets)
    maps["counters"].set(bpf.u32(slot), value)


def test_counts_of_all_cpus_are_added(maps: dict[str, Any]) -> None:
    slots = CounterSlots(maps)
    assert not slots.ensure({A, B})
    count(maps, slots[A], 3, 4)
    assert slots.counters() == {A: Counters(7, 420), B: Counters()}


def test_slots_are_found_again(maps: dict[str, Any]) -> None:
    slots = CounterSlots(maps)
    slots.ensure({A, B})
    again = CounterSlots(maps)
    again.read()
    assert again.mirrors == {A, B}
    assert again.by_slot == slots.by_slot == {slots[A]: A, slots[B]: B}


def test_a_slot_has_no_counts_of_the_mirror_before(maps: dict[str, Any], clock: Clock) -> None:
    slots = CounterSlots(maps)
    slots.ensure({A})
    count(maps, slots[A], 3, 4)
    former = slots[A]
    slots.keep(set())
    slots.ensure({B})
    assert slots[B] != former  # Programs that were just detached may still count there.
    slots.keep(set())
    clock.now += 2 * QUARANTINE
    slots.ensure({A})
    assert slots[A] == former
    assert slots.counters() == {A: Counters()}


def test_the_last_counts_of_a_mirror_are_told_once(maps: dict[str, Any]) -> None:
    slots = CounterSlots(maps)
    slots.ensure({A, B})
    count(maps, slots[A], 3, 4)
    slots.keep({B})
    assert slots.mirrors == slots.counters().keys() == {B}
    assert slots.take_ended() == {A: Counters(7, 420)}
    assert slots.take_ended() == {}


def test_without_room_for_all_none_takes_a_slot(maps: dict[str, Any]) -> None:
    slots = CounterSlots(maps)
    slots.ensure({UUID(int=n) for n in range(MAX_MIRRORS - 1)})
    more = [UUID(int=MAX_MIRRORS + n) for n in range(3)]
    assert slots.ensure(more) == {*more[1:]}
    assert len(slots.mirrors) == MAX_MIRRORS - 1
    assert not slots.ensure(more[:1])


def test_counters_are_the_same_object_until_they_change(maps: dict[str, Any]) -> None:
    slots = CounterSlots(maps)
    slots.ensure({A})
    before = slots.counters()
    assert slots.counters() is before
    count(maps, slots[A], 1, 0)
    assert slots.counters() == {A: Counters(1, 60)}


def test_an_older_builds_counts_are_taken_over_once(maps: dict[str, Any]) -> None:
    slots = CounterSlots(maps)
    slots.ensure({A})
    count(maps, slots[A], 1, 0)
    for _ in range(2):
        slots.take_over(A, Counters(10, 600, 5))
        slots.read()
    assert slots.counters() == {A: Counters(11, 660, 5)}


def test_a_slot_is_handed_over_with_its_counts(maps: dict[str, Any]) -> None:
    slots = CounterSlots(maps)
    slots.ensure({A})
    slots.take_over(A, Counters(10, 600))
    slots.read()
    count(maps, slots[A], 3, 0)
    slots.hand_over(A, B)
    assert slots.counters() == {B: Counters(13, 780)}
    again = CounterSlots(maps)
    again.read()
    assert again.counters() == {B: Counters(13, 780)}


def test_a_slot_that_was_half_handed_over_stays_the_other_mirrors(maps: dict[str, Any]) -> None:
    slots = CounterSlots(maps)
    slots.ensure({A})
    key = _key(maps)
    slots.hand_over(A, B)
    maps["mirrors"].set(key, maps["mirrors"].get(_key(maps)))
    again = CounterSlots(maps)
    again.read()
    assert again.mirrors == {A, B}
    again.keep({B})
    count(maps, again[B], 3, 0)
    assert not again.ensure({UUID(int=3)})
    assert again.counters()[B] == Counters(3, 180)


def _key(maps: dict[str, Any]) -> bytes:
    (key,) = maps["mirrors"].items()
    return bytes(key)
