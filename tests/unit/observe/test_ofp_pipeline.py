"""What is read out of matches, instructions and groups that Open vSwitch seldom or never sends.

Those that it sends are in `integration/test_flow_parsing.py`.
"""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.model.flow import (
    ANY_PORT,
    IN_PORT,
    LOCAL,
    METADATA,
    METADATA_MASK,
    TUN_ID,
    VLAN,
    VLAN_PRESENT,
    Action,
    Clone,
    Forget,
    Group,
    Known,
    Load,
    Modify,
    Output,
    Resubmit,
    register,
)
from ovs_ebpf_tap.observe import ofp
from ovs_ebpf_tap.observe.ofp_fields import match_of
from ovs_ebpf_tap.observe.ofp_groups import groups
from ovs_ebpf_tap.observe.ofp_pipeline import (
    ANYTHING,
    Instructions,
    bucket_of,
    instructions_of,
    simplified,
)

NX, ONF = 0x2320, 0x4F4E4600
M, MAY = Modify(), Modify(always=False)
OUTPUT_1 = struct.pack("!HHIH6x", 0, 16, 1, 0)


def element(kind: int, content: bytes) -> bytes:
    content += bytes(-(4 + len(content)) % 8)
    return struct.pack("!HH", kind, 4 + len(content)) + content


def nicira(subtype: int, content: bytes = b"") -> bytes:
    return element(0xFFFF, struct.pack("!IH", NX, subtype) + content)


def parsed(instructions: bytes, *, table: int = 3, typed: bool = True) -> Instructions:
    return instructions_of(table, instructions, typed=typed)


def applied(actions: bytes, *, typed: bool = True) -> tuple[Action, ...]:
    return parsed(element(4, bytes(4) + actions), typed=typed).actions


def match(*fields: bytes) -> bytes:
    content = b"".join(fields)
    return struct.pack("!HH", 1, 4 + len(content)) + content + bytes(-(4 + len(content)) % 8)


def field(oxm_class: int, number: int, value: bytes, mask: bytes = b"") -> bytes:
    head = struct.pack("!HBB", oxm_class, number << 1 | bool(mask), len(value + mask))
    return head + value + mask


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ([], Known()),
        ([field(0, 0, b"\x00\x03")], Known.of(IN_PORT, 3)),
        ([field(0, 0, b"\xff\xfe")], Known.of(IN_PORT, LOCAL)),
        ([field(0, 4, b"\x30\x07", b"\xff\xff")], Known.of(VLAN, VLAN_PRESENT | 7)),
        ([field(1, 16, bytes(7) + b"\x05")], Known.of(TUN_ID, 5)),
        ([field(0x8000, 2, bytes(7) + b"\xff", bytes(7) + b"\x0f")], Known.of(METADATA, 15, 15)),
        # tun_metadata0, which has as many bytes as it was given, then a register
        ([field(1, 40, bytes(5)), field(1, 2, b"\0\0\0\1")], Known.of(register(2), 1)),
        # ONF's tcp_flags, and the first of OVS 3.7's further registers
        (
            [
                field(0xFFFF, 42, struct.pack("!IHH", ONF, 2, 2)),
                field(0xFFFF, 17, struct.pack("!II", NX, 9)),
                field(0x8001, 7, struct.pack("!Q", 6)),
            ],
            Known.of(register(7, words=2), 6),
        ),
    ],
)
def test_matches(fields: list[bytes], known: Known) -> None:
    assert match_of(match(*fields)).known.only(METADATA_MASK) == known


@pytest.mark.parametrize(
    "malformed",
    [
        match(field(1, 0, bytes(4)))[:-6],
        match(b"\x00\x01\x00\x04\x00"),
        match(b"\x00\x01"),
        struct.pack("!HH4x", 0, 4),
        struct.pack("!HH4x", 1, 40),
        b"",
    ],
)
def test_malformed_matches_raise(malformed: bytes) -> None:
    with pytest.raises((ValueError, struct.error)):
        match_of(malformed)


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (nicira(2, struct.pack("!2xI", 5)), (Load(Known.of(TUN_ID, 5)),)),
        (nicira(9, struct.pack("!6xQ", 5)), (Load(Known.of(TUN_ID, 5)),)),
        (nicira(22, struct.pack("!6xQQ", 5, 7)), (Load(Known.of(METADATA, 5, 7)),)),
        (nicira(1, b"\xff\xf8"), (Resubmit(3),)),
        (nicira(1, b"\x00\x04"), (Resubmit(3, other_port=True),)),
        (nicira(14, b"\xff\xfe\xff"), (Resubmit(3, other_port=True),)),
        (nicira(36), ANYTHING),
        (element(1, b"\x00\x07"), (Load(Known.of(VLAN, VLAN_PRESENT | 7)), M)),
        (element(3, bytes(6)) + OUTPUT_1, (M, Output(1))),
        (element(99, b""), ANYTHING),
        (nicira(999), ANYTHING),
        (element(0xFFFF, struct.pack("!IH", ONF, 1)), ANYTHING),
        (element(0xFFFF, struct.pack("!IH", 0x123456, 6)), ANYTHING),
        (element(0xFFFF, struct.pack("!I", NX)), ANYTHING),
        (struct.pack("!HHIH6x", 0, 16, 0xFFFFFFF9, 0), (Resubmit(0),)),
        # reg16 of OVS 3.7, and nsh_spi
        (element(25, field(0xFFFF, 17, struct.pack("!II", NX, 9))), ()),
        (element(25, field(0xFFFF, 4, struct.pack("!II", 0x005AD650, 9))), (MAY,)),
    ],
)
def test_actions(actions: bytes, expected: tuple[Action, ...]) -> None:
    assert applied(actions) == expected


@pytest.mark.parametrize(
    ("actions", "typed", "other"),
    [
        (element(25, field(0x8000, 3, bytes(6))), M, M),  # eth_dst
        (element(25, field(0x8000, 6, b"\x10\x07")), M, M),  # vlan_vid
        (element(25, field(0x8000, 12, bytes(4))), M, MAY),  # ipv4_dst
        (nicira(7, struct.pack("!HIQ", 31, 8 << 9 | 4, 1)), M, MAY),  # load to nw_dst
        (nicira(18), M, MAY),  # dec_ttl
        (element(24, b""), M, MAY),
        (element(23, b"\x09"), M, MAY),  # set_nw_ttl
        (element(25, field(0x8000, 16, bytes(2))), MAY, MAY),  # udp_dst: not in fragments
        (element(25, field(0x8000, 7, b"\x05")), MAY, MAY),  # vlan_pcp
        (element(10, b"\x00\x07"), MAY, MAY),  # set_tp_dst
    ],
)
def test_changes_of_what_packets_may_lack(actions: bytes, typed: Modify, other: Modify) -> None:
    """Flows of OpenFlow 1.0, and groups, may set fields of other packets than they are given."""
    both = {True: typed, False: other}
    for each, change in both.items():
        found = applied(actions, typed=each)
        assert [x for x in found if isinstance(x, Modify)] == [change]
    assert other in bucket_of(actions + OUTPUT_1)


def test_an_unknown_instruction_may_do_anything() -> None:
    assert parsed(element(7, bytes(4))).actions == ANYTHING


def test_instructions_are_executed_in_the_order_of_openflow() -> None:
    goto, apply = element(1, b"\x05\0\0\0"), element(4, bytes(4) + OUTPUT_1)
    assert parsed(goto + apply).actions == (Output(1), Resubmit(5))


def test_a_bucket_does_not_know_the_current_table() -> None:
    assert bucket_of(nicira(1, b"\x00\x04")) == ANYTHING


def test_changes_between_two_outputs_are_one() -> None:
    one, two = Load(Known(1, 1)), Load(Known(2, 3))
    actions = (M, one, M, two, Output(1), MAY, M, Forget(1), Forget(4), MAY, Output(2), MAY)
    assert simplified(actions) == (
        Load(Known(2, 3)),
        M,
        Output(1),
        Forget(5),
        M,
        Output(2),
        MAY,
    )


def bucket(version: int, actions: bytes) -> bytes:
    if version == ofp.OF15:
        watch_port = struct.pack("!HHI", 1, 8, 1)
        length = 8 + len(actions) + len(watch_port)
        return struct.pack("!HHI", length, len(actions), 0) + actions + watch_port
    return struct.pack("!HHII4x", 16 + len(actions), 0, 0, 0) + actions


def group(version: int, kind: int, number: int, *buckets: bytes) -> bytes:
    content = b"".join(buckets)
    if version == ofp.OF15:
        head = struct.pack("!HBxIH6x", 24 + len(content), kind, number, len(content))
        return head + content + bytes(8)  # With a property.
    return struct.pack("!HBxI", 8 + len(content), kind, number) + content


@pytest.mark.parametrize("version", [ofp.OF13, ofp.OF14, ofp.OF15])
def test_groups(version: int) -> None:
    set_eth = element(25, field(0x8000, 3, bytes(6)))
    one, two = bucket(version, OUTPUT_1 + set_eth), bucket(version, b"")
    content = group(version, 0, 5, one, two) + group(version, 1, 6, one) + group(version, 3, 7)
    assert dict(groups(version, content)) == {
        5: Group(((M, Output(1)), ())),
        6: Group(((M, Output(1)),), every=False),
        7: Group((), every=False),
    }
    for end in range(1, len(content)):
        with contextlib.suppress(ValueError, struct.error):
            assert len(list(groups(version, content[:end]))) < 3
    with pytest.raises((ValueError, struct.error)):
        list(groups(version, bytes(24)))


def test_a_learned_output_goes_to_any_port() -> None:
    # learn(table=9, reg0=5, output:NXM_OF_IN_PORT[])
    match_spec = struct.pack("!HHIH", 1 << 13 | 16, 5, 0x00010004, 0)
    output_spec = struct.pack("!HIH", 2 << 11 | 16, 0x00000002, 0)
    head = struct.pack("!HHHQHBBHH", 0, 0, 0, 0, 0, 9, 0, 0, 0)
    learn = nicira(16, head + match_spec + output_spec)
    (learned,) = parsed(element(4, bytes(4) + learn)).learned
    assert learned.match == Known.of(register(0), 5, 0xFFFF)
    assert (learned.table, learned.actions) == (9, (Output(ANY_PORT),))
    cloned = parsed(element(4, bytes(4) + nicira(42, bytes(6) + learn + OUTPUT_1)))
    assert cloned.learned == (learned,)
    assert cloned.actions == (Clone((Output(1),)),)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parsers(content: bytes) -> None:
    for version in (ofp.OF13, ofp.OF15):
        with contextlib.suppress(ValueError, struct.error):
            list(groups(version, content))
    with contextlib.suppress(ValueError, struct.error):
        match_of(content)
    with contextlib.suppress(ValueError, struct.error):
        parsed(content)


_SUBTYPES = st.integers(0, 52)
_CONTENT = st.binary(min_size=2, max_size=74)


@given(st.one_of(st.builds(nicira, _SUBTYPES, _CONTENT), st.builds(element, _SUBTYPES, _CONTENT)))
def test_no_content_of_an_action_breaks_the_parser(action: bytes) -> None:
    for parse in (applied, bucket_of):
        with contextlib.suppress(ValueError, struct.error):
            parse(action)
