"""Constants and maps put into code, which is otherwise left alone."""

from __future__ import annotations

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf.template import (
    UnboundConstantError,
    bind_global_constants,
    bind_program,
    name_maps,
    with_exchanges,
)

MARK = abi.constant("CONSTANT_MARK")
EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
# Some constants, with the numbers that the code has for them.
GLOBAL, RULE = abi.constant("CONSTANT_GLOBAL") << 16, abi.constant("CONSTANT_RULE") << 16
NUMBERS = {
    "global.copy_tag": GLOBAL,
    "global.secret[0]": GLOBAL | 8,
    "global.secret[55]": GLOBAL | 56 * 8,
    "rule.hook": RULE,
    "rule.output": RULE | 4,
    "rule.flags": RULE | 12,
}
ALL = st.fixed_dictionaries(dict.fromkeys(NUMBERS, U64))
SOME = st.dictionaries(st.sampled_from(sorted(NUMBERS)), U64)
NAMES = st.sampled_from(sorted(NUMBERS))
FDS = [10, 11, 12]


def load(register: int, low: int, high: int, source: int = 0) -> bytes:
    """A load of 64 bits; `source` 1 is for the descriptor of a map."""
    registers = source << 4 | register
    return struct.pack("=BBhIBBhI", 0x18, registers, 0, low, 0, 0, 0, high)


def constant(name: str) -> bytes:
    return load(1, NUMBERS[name], MARK)


def value(number: int) -> bytes:
    return load(1, number & 0xFFFFFFFF, number >> 32)


@given(ALL, NAMES)
def test_constants_are_bound_by_name(values: dict[str, int], name: str) -> None:
    code = constant(name) + load(2, 7, 8) + EXIT
    assert bind_program(code, values, FDS) == value(values[name]) + load(2, 7, 8) + EXIT


@given(SOME, NAMES)
def test_a_constant_without_a_value_is_an_error(values: dict[str, int], name: str) -> None:
    values.pop(name, None)
    with pytest.raises(UnboundConstantError, match=re.escape(f"constant {name} is not bound")):
        bind_program(constant(name) + EXIT, values, FDS)


def test_a_constant_that_no_struct_has_is_an_error() -> None:
    with pytest.raises(UnboundConstantError, match="0x20001"):
        bind_program(load(1, 0x20001, MARK) + EXIT, {}, FDS)


def test_a_name_that_no_struct_has_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"rule\.none"):
        bind_program(EXIT, {"rule.none": 1}, FDS)


@given(ALL, NAMES, NAMES)
def test_in_two_steps_as_in_one(values: dict[str, int], one: str, other: str) -> None:
    code = constant(one) + constant(other) + EXIT
    first = {name: each for name, each in values.items() if name.startswith("global.")}
    rest = {name: each for name, each in values.items() if name not in first}
    bound = bind_program(bind_global_constants(code, first), rest, FDS)
    assert bound == bind_program(code, values, FDS)


def test_zeroes_behind_a_program_are_no_part_of_it() -> None:
    code = (constant("rule.hook") + EXIT).ljust(4096, b"\0")
    assert bind_program(code, {"rule.hook": 5}, FDS) == value(5) + EXIT


def test_maps_have_indexes_and_other_descriptors() -> None:
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
