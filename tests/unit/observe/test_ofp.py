"""What is read out of OpenFlow messages; those of flows were sent by Open vSwitch 3.1.0."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.observe import ofp

VERSIONS = (ofp.OF13, ofp.OF14, ofp.OF15)


def update_14(event: int, match: bytes = ofp._MATCH_ALL, instructions: bytes = b"") -> bytes:
    length = 24 + len(match) + len(instructions)
    head = struct.pack("!HHBBHHH4xQ", length, event, 3, 0, 0, 0, 100, 0)
    return head + match + instructions


APPLY_OUTPUT = bytes.fromhex("000400180000000000000010000000010000000000000000")


def test_flow_updates() -> None:
    # In the order of OFPFME_*: initial, added, removed, modified, abbreviated, paused, resumed.
    short = [struct.pack("!HHI", 8, event, 0) for event in (4, 5, 6)]
    full = [update_14(event, instructions=APPLY_OUTPUT) for event in (0, 1, 3)]
    content = b"".join([*full, *short, update_14(2)])
    updates = list(ofp.flow_updates(ofp.OF15, content))
    assert [each.does is not None for each in updates] == [True, True, True, False]
    assert {each.key for each in updates} == {(3, 100, ofp._MATCH_ALL)}


def test_the_same_flow_in_another_table_or_with_another_priority_is_another() -> None:
    one = update_14(0)
    other_table = one[:4] + b"\x04" + one[5:]
    other_priority = one[:10] + b"\x00\x01" + one[12:]
    updates = list(ofp.flow_updates(ofp.OF14, one + other_table + other_priority))
    assert len({each.key for each in updates}) == 3


@pytest.mark.parametrize(
    "content",
    [
        bytes(8),
        b"\x00",
        struct.pack("!HH4x", 7, 1),
        struct.pack("!HH4x", 16, 1),
        update_14(0)[:-8],
        update_14(0, match=struct.pack("!HH4x", 1, 3)),
        update_14(0, match=struct.pack("!HH4x", 1, 400)),
        update_14(0, instructions=bytes(8)),
        update_14(0, instructions=struct.pack("!HH4x", 4, 16)),
    ],
)
def test_malformed_updates_raise(content: bytes) -> None:
    with pytest.raises((ValueError, struct.error)):
        list(ofp.flow_updates(ofp.OF15, content))


@pytest.mark.parametrize(
    ("version", "body", "expected"),
    [
        (6, "", range(1, 7)),
        (1, "", [1]),
        (6, "0001000800000070", [4, 5, 6]),
        (6, "00020005000000000001000800000012", [1, 4]),
    ],
)
def test_offered_versions(version: int, body: str, expected: list[int]) -> None:
    assert ofp.offered(version, bytes.fromhex(body)) == frozenset(expected)


def test_our_own_hello_offers_one_version() -> None:
    _, _, _, _ = ofp.HEADER.unpack_from(ofp.hello(5))
    assert ofp.offered(5, ofp.hello(5)[8:]) == {5}


@pytest.mark.parametrize(
    ("version", "port"),
    [
        (ofp.OF10, struct.pack("!H6s16sI20x", 1, bytes(6), b"vnet0", 0x24)),
        (ofp.OF13, struct.pack("!I4x6s2x16sI28x", 1, bytes(6), b"vnet0", 0x24)),
        (ofp.OF14, struct.pack("!IH2x6s2x16sI4x", 1, 40, bytes(6), b"vnet0", 0x24)),
        (ofp.OF15, struct.pack("!IH2x6s2x16sI4x8x", 1, 48, bytes(6), b"vnet0", 0x24)),
    ],
)
def test_ports(version: int, port: bytes) -> None:
    expected = [("vnet0", ofp.NO_RECEIVE | ofp.NO_FORWARD)] * 2
    assert list(ofp.ports(version, port * 2)) == expected
    with pytest.raises((ValueError, struct.error)):
        list(ofp.ports(version, port + port[:-9]))


@given(st.sampled_from(VERSIONS), st.binary(max_size=200))
def test_no_bytes_break_the_parsers(version: int, content: bytes) -> None:
    for parse in (ofp.flow_updates, ofp.ports):
        with contextlib.suppress(ValueError, struct.error):
            list(parse(version, content))
    with contextlib.suppress(ValueError, struct.error):
        ofp.multipart_reply(version, 19, content)
    with contextlib.suppress(ValueError, struct.error):
        ofp.offered(version, content)


INSTRUCTIONS = [
    "000400180000000000000010fffffffa0000000000000000",  # normal
    "0004001800000000ffff001000002320000efff801000000",  # resubmit(,1)
    "000400180000000000190010000100040000000100000000",  # set_field:1->reg0
    "00040010000000000016000800000001",  # group:1
    "0004002000000000ffff001800002320000f001f00010004ffff000000000000",  # output:NXM_NX_REG0[]
    "0004004000000000ffff0038000023200010000000008000000000000000000000000100000000000030000004060000"
    "00000206000010100000000200000000",  # learn(...)
]


@given(st.sampled_from(INSTRUCTIONS), st.data())
def test_no_change_of_a_flow_breaks_the_parser(instructions: str, data: st.DataObject) -> None:
    content = bytearray(update_14(0, instructions=bytes.fromhex(instructions)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError, struct.error):
        for each in ofp.flow_updates(ofp.OF15, bytes(content)):
            assert each.does is not None
