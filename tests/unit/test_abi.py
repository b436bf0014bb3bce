"""The header that programs and sidecar share, read as C would."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap import abi

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)

HEADER = (abi.source_dir() / "tap.h").read_text()

STRUCTS: dict[str, dict[str, Any]] = {
    "rule": {
        "hook": ctypes.c_uint32,
        "output": ctypes.c_uint32,
        "group": ctypes.c_uint32,
        "flags": ctypes.c_uint32,
        "max_len": ctypes.c_uint32,
        "slot": ctypes.c_uint32,
        "vlans": ctypes.c_uint32,
        "rewrite": ctypes.c_uint32,
        "match": ctypes.c_uint32,
        "selection": ctypes.c_uint32,
    },
    "hook": {
        "first": ctypes.c_uint32,
        "flags": ctypes.c_uint32,
        "program": ctypes.c_uint32,
        "port": ctypes.c_uint32,
    },
    "tunnel": {
        "ifindex": ctypes.c_uint32,
        "flags": ctypes.c_uint32,
        "key": ctypes.c_uint32,
        "remote": ctypes.c_uint8 * 16,
        "local": ctypes.c_uint8 * 16,
    },
    "port": {
        "mode": ctypes.c_uint32,
        "tag": ctypes.c_uint32,
        "admitted": ctypes.c_uint32,
        "max_len": ctypes.c_uint32,
    },
    "rewrite": {
        "in_mode": ctypes.c_uint32,
        "in_tag": ctypes.c_uint32,
        "in_tpid": ctypes.c_uint32,
        "set_vid": ctypes.c_uint32,
        "out_mode": ctypes.c_uint32,
        "out_tag": ctypes.c_uint32,
        "priority": ctypes.c_uint32,
        "limit": ctypes.c_uint32,
        "snaplen": ctypes.c_uint32,
        "max_len": ctypes.c_uint32,
        "flags": ctypes.c_uint32,
        "pad": ctypes.c_uint32,
    },
    "prefilter": dict.fromkeys(
        (
            *("dl_mask_0", "dl_mask_1", "dl_mask_2", "dl_0", "dl_1", "dl_2", "dl_type", "nw_proto"),
            *("nw_src_mask", "nw_src", "nw_dst_mask", "nw_dst", "tp_mask", "tp"),
        ),
        ctypes.c_uint32,
    ),
    "global": {
        "copy_tag": ctypes.c_uint64,
        "secret": ctypes.c_uint64 * 56,
        "forget_ticks": ctypes.c_uint32,
        "race_ticks": ctypes.c_uint32,
    },
    "shortcut": {"untagged": ctypes.c_uint32, "push_vid": ctypes.c_uint32},
    "counters": {"packets": ctypes.c_uint64, "bytes": ctypes.c_uint64, "drops": ctypes.c_uint64},
    "uuid": {"high": ctypes.c_uint64, "low": ctypes.c_uint64},
    "mirror": {
        "slot": ctypes.c_uint32,
        "pad": ctypes.c_uint32,
        "packets": ctypes.c_uint64,
        "bytes": ctypes.c_uint64,
        "drops": ctypes.c_uint64,
    },
    "key": {
        "dl_dst": ctypes.c_uint8 * 6,
        "dl_src": ctypes.c_uint8 * 6,
        "vlan_tpid": ctypes.c_uint16,
        "vlan_tci": ctypes.c_uint16,
        "dl_type": ctypes.c_uint16,
        "nw_frag": ctypes.c_uint8,
        "nw_tos": ctypes.c_uint8,
        "nw_ttl": ctypes.c_uint8,
        "nw_proto": ctypes.c_uint8,
        "tp_src": ctypes.c_uint16,
        "tp_dst": ctypes.c_uint16,
        "tcp_flags": ctypes.c_uint16,
        "ipv6_label": ctypes.c_uint32,
        "nw_src": ctypes.c_uint32,
        "nw_dst": ctypes.c_uint32,
        "arp_sha": ctypes.c_uint8 * 6,
        "arp_tha": ctypes.c_uint8 * 6,
        "pad": ctypes.c_uint8 * 4,
        "ipv6_src": ctypes.c_uint8 * 16,
        "ipv6_dst": ctypes.c_uint8 * 16,
    },
    "options": {"known": ctypes.c_uint32 * 8},
    "template": {"code": ctypes.c_uint8 * 32768},
    "match": {"mask": ctypes.c_uint64 * 11, "value": ctypes.c_uint64 * 11},
}
# Not of numbers alone.
BYTES = ("key", "match", "options", "template", "global", "tunnel")
NUMBERS = [name for name in STRUCTS if name not in BYTES]


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
    assert layout.size == ctypes.sizeof(struct)
    assert layout.places == {
        member: slice(place.offset, place.offset + place.size)
        for member in STRUCTS[name]
        for place in [getattr(struct, member)]
    }


def test_a_match_is_two_keys() -> None:
    size = abi.layout("key").size
    assert abi.layout("match").size == 2 * size
    assert size == 8 * abi.constant("KEY_WORDS")


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_packed_where_c_puts_them(name: str) -> None:
    layout, struct = abi.layout(name), c_struct(name)
    assert layout.members == tuple(STRUCTS[name])
    for number, member in enumerate(layout.members, start=1):
        packed = layout.pack(**{member: number})
        assert getattr(struct.from_buffer_copy(packed), member) == number


@pytest.mark.parametrize("name", NUMBERS)
@given(data=st.data())
def test_what_is_packed_is_unpacked(name: str, data: st.DataObject) -> None:
    wide = {ctypes.c_uint32: U32, ctypes.c_uint64: U64}
    values = {member: data.draw(wide[kind]) for member, kind in STRUCTS[name].items()}
    layout = abi.layout(name)
    assert layout.unpack(layout.pack(**values)) == values


def test_members_that_are_not_named_are_zero() -> None:
    layout = abi.layout("counters")
    packed = layout.pack(bytes=3)
    assert layout.unpack(packed) == {"packets": 0, "bytes": 3, "drops": 0}


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
struct tap_bytes {
	__u64 words[TAP_TEN];
	__be16 port;
	__u8 few[2];
	__u32 number;
};
"""
    )
    assert header.constants == {"TAP_TEN": 10, "TAP_HEX": 255}
    assert {name: layout.members for name, layout in header.layouts.items()} == {
        "tap_pair": ("a", "c"),
        "tap_bytes": ("number",),
    }
    layout = header.layouts["tap_bytes"]
    assert layout.places == {
        "words": slice(0, 80),
        "port": slice(80, 82),
        "few": slice(82, 84),
        "number": slice(84, 88),
    }
    assert layout.offsets == {f"words[{n}]": 8 * n for n in range(10)} | {"number": 84}
    packed = layout.pack(number=7)
    assert packed == bytes(84) + (7).to_bytes(4, sys.byteorder)
    assert layout.unpack(packed) == {"number": 7}


def test_flags_of_rules_are_bits_of_their_own() -> None:
    flags = {
        name: value for name, value in abi.Abi(HEADER).constants.items() if "TAP_RULE_" in name
    }
    assert len(flags) >= 5
    assert all(value.bit_count() == 1 for value in flags.values())
    assert len(set(flags.values())) == len(flags)


def test_hook_flags_have_room_for_what_they_hold() -> None:
    names = ("RULES", "LIMIT_SHIFT", "PORT_SHIFT")
    rules, limit, port = (abi.constant(f"HOOK_{name}") for name in names)
    flags = [
        abi.constant(f"HOOK_{name}") for name in ("TUNNELS", "ARRIVAL", "ACTION", "DEDUP", "MATCH")
    ]
    assert abi.constant("MAX_RULES_PER_HOOK") <= rules
    assert len({rules & flag for flag in flags} | {0}) == 1
    assert all(flag.bit_count() == 1 for flag in flags)
    assert len(set(flags)) == len(flags)
    assert rules + sum(flags) < 1 << limit
    assert 2 << limit < 1 << port
    assert abi.constant("MAX_PORTS") << port <= 1 << 32


def test_all_vlans_have_their_bits() -> None:
    assert abi.constant("VLAN_SET_LEN") * 8 == 4096
