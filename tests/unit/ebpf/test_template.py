"""Constants and maps put into code, which is otherwise left alone."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf.template import (
    bind_global_constants,
    bind_program,
    name_maps,
    with_exchanges,
)

MARK = abi.constant("CONSTANT_MARK")
EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
NUMBERS = st.integers(0, 63)
FDS = [10, 11, 12]


def load(register: int, low: int, high: int, source: int = 0) -> bytes:
    """A load of 64 bits; `source` 1 is for the descriptor of a map."""
    registers = source << 4 | register
    return struct.pack("=BBhIBBhI", 0x18, registers, 0, low, 0, 0, 0, high)


def constant(number: int) -> bytes:
    return load(1, number, MARK)


@given(U64)
def test_a_constant_has_up_to_64_bits(value: int) -> None:
    filled = bind_program(constant(5) + EXIT, {5: value}, FDS)
    assert filled == load(1, value & 0xFFFFFFFF, value >> 32) + EXIT


@given(st.dictionaries(NUMBERS, U32), NUMBERS)
def test_constants_are_put_in(values: dict[int, int], number: int) -> None:
    code = constant(number) + load(2, 7, 8) + EXIT
    expected = load(1, values.get(number, 0), 0) + load(2, 7, 8) + EXIT
    assert bind_program(code, values, FDS) == expected


@given(st.dictionaries(NUMBERS, U32), NUMBERS, NUMBERS)
def test_in_two_steps_as_in_one(values: dict[int, int], one: int, other: int) -> None:
    code = constant(one) + constant(other) + EXIT
    first = {number: value for number, value in values.items() if number < 32}
    assert bind_program(bind_global_constants(code, first), values, FDS) == bind_program(
        code, values, FDS
    )


def test_zeroes_behind_a_program_are_no_part_of_it() -> None:
    code = constant(1) + EXIT
    assert bind_program(code.ljust(4096, b"\0"), {1: 5}, FDS) == load(1, 5, 0) + EXIT


def test_maps_have_places_and_other_descriptors() -> None:
    compiled = load(1, 11, 0, source=1) + EXIT
    named = name_maps(compiled, FDS)
    assert named == load(1, 1, 0, source=1) + EXIT
    assert bind_program(named, {}, [20, 21, 22]) == load(1, 21, 0, source=1) + EXIT


def test_a_map_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="13"):
        name_maps(load(1, 13, 0, source=1) + EXIT, FDS)


def test_an_addition_becomes_an_exchange() -> None:
    add = struct.pack("=BBhi", 0xC3, 0x21, 4, 0)
    assert with_exchanges(add + EXIT) == struct.pack("=BBhi", 0xC3, 0x21, 4, 0xE1) + EXIT
