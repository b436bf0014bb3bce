"""The header that programs and sidecar share, read as C would."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ebpf_tap import abi

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)

HEADER = (abi.source_dir() / "tap.h").read_text()

STRUCTS: dict[str, dict[str, Any]] = {
    "rule": {
        "hook": ctypes.c_uint32,
        "output": ctypes.c_uint32,
        "flags": ctypes.c_uint32,
        "max_len": ctypes.c_uint32,
        "slot": ctypes.c_uint32,
        "pad": ctypes.c_uint32,
    },
    "hook": {"first": ctypes.c_uint32, "n": ctypes.c_uint32},
    "counters": {"packets": ctypes.c_uint64, "bytes": ctypes.c_uint64, "drops": ctypes.c_uint64},
    "uuid": {"high": ctypes.c_uint64, "low": ctypes.c_uint64},
    "mirror": {
        "slot": ctypes.c_uint32,
        "pad": ctypes.c_uint32,
        "packets": ctypes.c_uint64,
        "bytes": ctypes.c_uint64,
        "drops": ctypes.c_uint64,
    },
}


def c_struct(name: str) -> type[ctypes.Structure]:
    """The struct as a C compiler lays it out."""
    return type(name, (ctypes.Structure,), {"_fields_": list(STRUCTS[name].items())})


def test_every_constant_of_the_header_is_read() -> None:
    defined = [
        line.split()[1].removeprefix("TAP_")
        for line in HEADER.splitlines()
        if line.startswith("#define TAP_") and len(line.split()) >= 3
    ]
    assert len(defined) >= 10
    assert all(isinstance(abi.constant(name), int) for name in defined)


def test_every_struct_of_the_header_is_known_here() -> None:
    assert {f"tap_{name}" for name in STRUCTS} == set(abi.Abi(HEADER).layouts)


@pytest.mark.parametrize("name", STRUCTS)
def test_members_lie_where_c_puts_them(name: str) -> None:
    layout, struct = abi.layout(name), c_struct(name)
    assert layout.members == tuple(STRUCTS[name])
    assert layout.size == ctypes.sizeof(struct)
    for number, member in enumerate(layout.members, start=1):
        packed = layout.pack(**{member: number})
        assert getattr(struct.from_buffer_copy(packed), member) == number


@pytest.mark.parametrize("name", STRUCTS)
@settings(deadline=None)
@given(data=st.data())
def test_what_is_packed_is_unpacked(name: str, data: st.DataObject) -> None:
    wide = {ctypes.c_uint32: U32, ctypes.c_uint64: U64}
    values = {member: data.draw(wide[kind]) for member, kind in STRUCTS[name].items()}
    layout = abi.layout(name)
    assert layout.unpack(layout.pack(**values)) == values


def test_members_that_are_not_named_are_zero() -> None:
    layout = abi.layout("hook")
    assert layout.unpack(layout.pack(n=3)) == {"first": 0, "n": 3}


def test_an_unknown_member_is_refused() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        abi.layout("hook").pack(nowhere=1)


def test_a_value_of_each_cpu() -> None:
    layout = abi.layout("counters")
    data = b"".join(layout.pack(packets=cpu, bytes=60 * cpu) for cpu in range(3))
    assert layout.unpack_many(data) == [
        {"packets": cpu, "bytes": 60 * cpu, "drops": 0} for cpu in range(3)
    ]


@pytest.mark.parametrize("look_up", [abi.constant, abi.layout])
def test_what_the_header_lacks_is_a_key_error(look_up: object) -> None:
    with pytest.raises(KeyError):
        look_up("nothing_of_this_name")  # type: ignore[operator]


def test_the_dialect() -> None:
    header = abi.Abi(
        """
        /* #define TAP_OLD 1 */
#define TAP_TEN 10
#define TAP_HEX 0xff
#define TAP_FLAG
/* struct tap_gone { __u32 x; };
 */
struct tap_pair {
	__u32 a;	/* says "__u64 b;" */
	__u64 c;
};
"""
    )
    assert header.constants == {"TAP_TEN": 10, "TAP_HEX": 255}
    assert {name: layout.members for name, layout in header.layouts.items()} == {
        "tap_pair": ("a", "c")
    }


def test_flags_of_rules_are_bits_of_their_own() -> None:
    flags = {
        name: value for name, value in abi.Abi(HEADER).constants.items() if "TAP_RULE_" in name
    }
    assert len(flags) >= 5
    assert all(value.bit_count() == 1 for value in flags.values())
    assert len(set(flags.values())) == len(flags)
