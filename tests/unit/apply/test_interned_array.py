"""Places in a map: each value once, none too early again."""

from __future__ import annotations

from typing import cast
from unittest.mock import patch

import pytest
from builders import Clock, FakeMap
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply import interned_array
from ovs_ebpf_tap.apply.interned_array import InternedArray
from ovs_ebpf_tap.ebpf import bpf

QUARANTINE = abi.constant("QUARANTINE_MS") / 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(interned_array, "time", made)
    return made


def key(index: int) -> bytes:
    return index.to_bytes(4, "little")


def value(number: int) -> bytes:
    return number.to_bytes(4, "little")


def make(indexes: int = 4) -> tuple[FakeMap, InternedArray]:
    fake = FakeMap(value_size=4, max_entries=indexes)
    return fake, InternedArray(cast(bpf.Map, fake), "kinds of things")


def test_a_value_has_one_place() -> None:
    fake, indexes = make()
    one, two = indexes.index(value(7)), indexes.index(value(8))
    assert one != two
    assert indexes.index(value(7)) == one
    assert fake.get(key(one)) == value(7)
    assert fake.get(key(two)) == value(8)


def test_place_0_is_none() -> None:
    fake, indexes = make()
    assert {indexes.index(value(number)) for number in range(3)} == {1, 2, 3}
    assert fake.get(key(0)) == bytes(4)


def test_nothing_is_read_at_place_0(clock: Clock) -> None:
    """Else it would be given back as unused, and used."""
    fake, indexes = make()
    with pytest.raises(ValueError, match="index 0"):
        indexes.read(0)
    indexes.keep(())
    clock.now += QUARANTINE + 1
    assert indexes.index(value(1)) != 0
    assert fake.get(key(0)) == bytes(4)


def test_what_is_read_again_is_not_free(clock: Clock) -> None:
    _, indexes = make()
    index = indexes.index(value(1))
    indexes.keep(())
    assert indexes.read(index) == value(1)
    clock.now += QUARANTINE + 1
    assert indexes.index(value(2)) != index


def test_all_places_are_taken() -> None:
    _, indexes = make()
    for number in range(3):
        indexes.index(value(number))
    with pytest.raises(OSError, match="more than 3 kinds of things"):
        indexes.index(value(3))
    assert indexes.index(value(0)) == 1


def test_a_place_rests_before_it_is_used_again(clock: Clock) -> None:
    fake, indexes = make()
    first, *_ = [indexes.index(value(number)) for number in range(3)]
    indexes.keep({2, 3})
    clock.now += QUARANTINE - 0.01
    with pytest.raises(OSError, match="more than"):
        indexes.index(value(9))
    assert fake.get(key(first)) == value(0)
    clock.now += 0.01
    assert indexes.index(value(9)) == first
    assert fake.get(key(first)) == value(9)


def test_what_is_kept_stays(clock: Clock) -> None:
    _, indexes = make()
    one, two = indexes.index(value(1)), indexes.index(value(2))
    indexes.keep({one})
    clock.now += 2 * QUARANTINE
    assert indexes.index(value(1)) == one
    assert indexes.index(value(3)) == two
    assert indexes.read(one) == value(1)


def test_what_was_given_back_has_another_place_at_once(clock: Clock) -> None:
    """The old one is for programs to finish with."""
    fake, indexes = make()
    one = indexes.index(value(1))
    indexes.keep(())
    again = indexes.index(value(1))
    assert again != one
    assert fake.get(key(one)) == fake.get(key(again)) == value(1)


def test_a_restart_finds_what_rules_refer_to() -> None:
    fake, indexes = make(8)
    for number in range(4):
        indexes.index(value(number))
    restarted = InternedArray(cast(bpf.Map, fake), "kinds of things")
    assert [restarted.read(index) for index in (2, 4)] == [value(1), value(3)]
    assert restarted.index(value(3)) == 4
    # What nothing refers to may be written over, what was read may not.
    assert restarted.index(value(9)) == 5
    assert restarted.read(2) == value(1)


def test_a_value_may_be_at_two_places_after_a_restart(clock: Clock) -> None:
    fake, indexes = make(8)
    old = indexes.index(value(1))
    indexes.keep(())
    new = indexes.index(value(1))
    restarted = InternedArray(cast(bpf.Map, fake), "kinds of things")
    assert restarted.read(old) == restarted.read(new) == value(1)
    kept = restarted.index(value(1))
    restarted.keep({kept})
    assert restarted.index(value(1)) == kept


class Places(RuleBasedStateMachine):
    """No index that is in use, or rests, is ever written."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self._patch = patch.object(interned_array, "time", self.clock)
        self._patch.start()
        self.fake, self.indexes = make(6)
        self.used: dict[int, bytes] = {}
        self.resting: dict[int, tuple[float, bytes]] = {}

    def teardown(self) -> None:
        self._patch.stop()

    @rule(number=st.integers(1, 9))
    def use(self, number: int) -> None:
        now = self.clock.now
        self.resting = {p: each for p, each in self.resting.items() if each[0] > now}
        try:
            index = self.indexes.index(value(number))
        except OSError:
            assert len(self.used) + len(self.resting) == 5
            return
        assert 0 < index < 6
        assert index not in self.resting
        assert self.used.setdefault(index, value(number)) == value(number)

    @rule(keep=st.sets(st.integers(1, 5)))
    def keep(self, keep: set[int]) -> None:
        gone = {index: self.used.pop(index) for index in self.used.keys() - keep}
        self.indexes.keep(keep & self.used.keys())
        until = self.clock.now + QUARANTINE
        self.resting |= {index: (until, was) for index, was in gone.items()}

    @rule(seconds=st.sampled_from([0.1, QUARANTINE]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def values_stay(self) -> None:
        now = self.clock.now
        resting = {index: was for index, (until, was) in self.resting.items() if until > now}
        for index, was in {**self.used, **resting}.items():
            assert self.fake.get(key(index)) == was
        assert len(set(self.used.values())) == len(self.used)


TestPlaces = Places.TestCase
