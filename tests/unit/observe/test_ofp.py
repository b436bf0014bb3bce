"""What is read out of OpenFlow messages; those of flows were sent by Open vSwitch 3.1.0."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.observe import ofp, ofp_actions

NOTHING, M, O = 0, ofp_actions.MODIFIES, ofp_actions.OUTPUTS  # noqa: E741
R = ofp_actions.REPEATS

VERSIONS = (ofp.OF13, ofp.OF14, ofp.OF15)

# What ovs-ofctl is given, what it does, and the instructions of OpenFlow 1.5; once more where those
# of 1.4 or 1.3 differ.
FLOWS = [
    ("normal", NOTHING, "000400180000000000000010fffffffa0000000000000000"),
    ("drop", NOTHING, ""),
    ("controller", NOTHING, "000400180000000000000010fffffffdffff000000000000"),
    ("controller(max_len=100,id=7)", NOTHING, "0004001800000000ffff0010000023200014006400070100"),
    ("resubmit(,1)", NOTHING, "0004001800000000ffff001000002320000efff801000000"),
    ("resubmit(1,1)", NOTHING, "0004001800000000ffff001000002320000e000101000000"),
    ("goto_table:1", NOTHING, "0001000801000000"),
    ("write_metadata:5", NOTHING, "00020018000000000000000000000005ffffffffffffffff"),
    ("set_tunnel:5", M, "00040018000000000019001080004c080000000000000005"),
    ("set_tunnel64:0x100000005", M, "00040018000000000019001080004c080000000100000005"),
    (
        "set_queue:1,pop_queue",
        NOTHING,
        "00040020000000000015000800000001ffff0010000023200005000000000000",
    ),
    ("note:01.02", NOTHING, "0004001800000000ffff0010000023200008010200000000"),
    ("exit", NOTHING, "0004001800000000ffff0010000023200011000000000000"),
    ("fin_timeout(idle_timeout=1)", NOTHING, "0004001800000000ffff0010000023200013000100000000"),
    (
        "push:NXM_NX_REG0[]",
        NOTHING,
        "0004002000000000ffff001800002320001b0000000100040020000000000000",
    ),
    (
        "pop:NXM_NX_REG0[]",
        NOTHING,
        "0004002000000000ffff001800002320001c0000000100040020000000000000",
    ),
    (
        "pop:NXM_OF_VLAN_TCI[]",
        M,
        "0004002000000000ffff001800002320001c0000000008020010000000000000",
    ),
    (
        "sample(probability=1,collector_set_id=1)",
        NOTHING,
        "0004002000000000ffff001800002320001d0001000000010000000000000000",
    ),
    (
        "sample(probability=1,collector_set_id=1,sampling_port=1)",
        NOTHING,
        "0004002800000000ffff002000002320002600010000000100000000000000000001000000000000",
    ),
    (
        "ct(table=1,zone=1)",
        NOTHING,
        "0004002000000000ffff00180000232000230000000000000001010000000000",
    ),
    (
        "ct(commit,nat(src=1.1.1.1))",
        M,
        "0004003800000000ffff00300000232000230001000000000000ff0000000000ffff00180000232000240000000100010101010100000000",
    ),
    (
        "ct(commit,exec(load:1->NXM_NX_CT_MARK[]))",
        NOTHING,
        "0004003000000000ffff00280000232000230001000000000000ff0000000000001900100001d6040000000100000000",
    ),
    ("ct_clear", NOTHING, "0004001800000000ffff001000002320002b000000000000"),
    (
        "clone(normal)",
        NOTHING,
        "0004002800000000ffff002000002320002a00000000000000000010fffffffa0000000000000000",
    ),
    (
        "clone(mod_dl_src:00:00:00:00:00:01,output:1)",
        M | O,
        "0004003800000000ffff003000002320002a0000000000000019001080000806000000000001000000000010000000010000000000000000",
    ),
    ("write_actions(output:1)", O, "000300180000000000000010000000010000000000000000"),
    ("clear_actions", NOTHING, "0005000800000000"),
    (
        "check_pkt_larger(1500)->NXM_NX_REG0[0]",
        NOTHING,
        "0004002000000000ffff001800002320003105dc000000010004000000000000",
    ),
    (
        "move:NXM_NX_REG0[]->NXM_NX_REG1[]",
        NOTHING,
        "0004002000000000001c00180020000000000000000100040001020400000000",
    ),
    (
        "move:NXM_NX_REG0[]->NXM_NX_REG1[]",
        NOTHING,
        "0004002000000000ffff00180000232000060020000000000001000400010204",
    ),
    (
        "move:NXM_NX_REG0[]->NXM_NX_REG1[]",
        NOTHING,
        "0004002800000000ffff00204f4e46000c8000000020000000000000000100040001020400000000",
    ),
    (
        "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
        M,
        "0004002000000000001c00180030000000000000800008068000060600000000",
    ),
    (
        "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
        M,
        "0004002000000000ffff00180000232000060030000000000000040600000206",
    ),
    (
        "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
        M,
        "0004002800000000ffff00204f4e46000c8000000030000000000000800008068000060600000000",
    ),
    (
        "move:NXM_NX_XXREG0[0..47]->NXM_OF_ETH_DST[]",
        M,
        "0004002000000000001c001800300000000000000001de108000060600000000",
    ),
    (
        "move:NXM_NX_XXREG0[0..47]->NXM_OF_ETH_DST[]",
        M,
        "0004002000000000ffff00180000232000060030000000000001de1000000206",
    ),
    (
        "move:NXM_NX_XXREG0[0..47]->NXM_OF_ETH_DST[]",
        M,
        "0004002800000000ffff00204f4e46000c80000000300000000000000001de108000060600000000",
    ),
    (
        "multipath(eth_src,50,modulo_n,1,0,NXM_NX_REG0[])",
        NOTHING,
        "0004002800000000ffff002000002320000a00000032000000000000000000000000001f00010004",
    ),
    (
        "bundle(eth_src,0,hrw,ofport,members:1,2)",
        O,
        "0004003000000000ffff002800002320000c000100000000000000020002000000000000000000000001000200000000",
    ),
    (
        "bundle_load(eth_src,0,hrw,ofport,NXM_NX_REG0[],members:1,2)",
        NOTHING,
        "0004003000000000ffff002800002320000d000100000000000000020002001f00010004000000000001000200000000",
    ),
    ("load:1->NXM_NX_REG0[]", NOTHING, "000400180000000000190010000100040000000100000000"),
    ("set_field:1->reg0", NOTHING, "000400180000000000190010000100040000000100000000"),
    ("set_field:1->xreg0", NOTHING, "000400180000000000190010800100080000000000000001"),
    (
        "set_field:1->xxreg0",
        NOTHING,
        "0004002000000000001900180001de1000000000000000000000000000000001",
    ),
    ("set_field:1->metadata", NOTHING, "000400180000000000190010800004080000000000000001"),
    ("load:1->NXM_NX_PKT_MARK[]", NOTHING, "000400180000000000190010000142040000000100000000"),
    ("load:1->NXM_OF_IN_PORT[]", NOTHING, "000400180000000000190010000000020001000000000000"),
    ("set_field:1->tun_id", M, "00040018000000000019001080004c080000000000000001"),
    ("set_field:1.2.3.4->tun_dst", M, "000400180000000000190010000140040102030400000000"),
    ("mod_dl_src:00:00:00:00:00:01", M, "000400180000000000190010800008060000000000010000"),
    ("mod_dl_dst:00:00:00:00:00:01", M, "000400180000000000190010800006060000000000010000"),
    ("mod_vlan_vid:10", M, "000400200000000000110008810000000019001080000c02100a000000000000"),
    ("mod_vlan_pcp:3", M, "000400200000000000110008810000000019001080000e010300000000000000"),
    ("strip_vlan", M, "00040010000000000012000800000000"),
    ("push_vlan:0x8100", M, "00040010000000000011000881000000"),
    ("set_field:00:00:00:00:00:01->eth_src", M, "000400180000000000190010800008060000000000010000"),
    (
        "set_field:00:00:00:00:00:01/00:00:00:00:00:ff->eth_src",
        M,
        "0004002000000000001900188000090c0000000000010000000000ff00000000",
    ),
    (
        "set_field:00:00:00:00:00:01/00:00:00:00:00:ff->eth_src",
        M,
        "0004002000000000ffff00180000232000070007000004060000000000000001",
    ),
    ("mod_nw_src:1.1.1.1", M, "000400180000000000190010800016040101010100000000"),
    ("mod_nw_dst:1.1.1.1", M, "000400180000000000190010800018040101010100000000"),
    ("mod_nw_tos:4", M, "000400180000000000190010800010010100000000000000"),
    ("mod_nw_ecn:1", M, "000400180000000000190010800012010100000000000000"),
    ("mod_nw_ttl:4", M, "00040010000000000017000804000000"),
    ("dec_ttl", M, "00040010000000000018000800000000"),
    ("dec_ttl(1,2)", M, "0004002000000000ffff00180000232000150002000000000001000200000000"),
    ("mod_tp_src:5", M, "00040018000000000019001080001e020005000000000000"),
    ("mod_tp_dst:5", M, "000400180000000000190010800020020005000000000000"),
    ("mod_tp_src:5, of no protocol", M, "00040010000000000009000800050000"),
    ("mod_tp_dst:5, of no protocol", M, "0004001000000000000a000800050000"),
    ("push_mpls:0x8847", M, "00040010000000000013000888470000"),
    ("encap(nsh)", M, "0004001800000000ffff001000002320002e00000001894f"),
    ("decap", M, "0004001800000000ffff001000002320002f00000000fffe"),
    ("output:1", O, "000400180000000000000010000000010000000000000000"),
    ("local", O, "000400180000000000000010fffffffe0000000000000000"),
    ("in_port", O, "000400180000000000000010fffffff80000000000000000"),
    ("flood", O, "000400180000000000000010fffffffb0000000000000000"),
    ("all", O, "000400180000000000000010fffffffc0000000000000000"),
    ("output:NXM_NX_REG0[]", O, "0004002000000000ffff001800002320000f001f00010004ffff000000000000"),
    ("output(port=1,max_len=100)", M | O, "0004001800000000ffff0010000023200027000100000064"),
    (
        "enqueue:1:2",
        O,
        "000400300000000000150008000000020000001000000001ffff000000000000ffff0010000023200005000000000000",
    ),
    ("group:1", M | O | R, "00040010000000000016000800000001"),
    (
        "learn(table=1,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])",
        M | O | R,
        "0004004000000000ffff003800002320001000000000800000000000000000000000010000000000003000000406000000000206000010100000000200000000",
    ),
    ("conjunction(1,1/2)", NOTHING, "0004001800000000ffff0010000023200022000200000001"),
    (
        "learn(table=1,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:1->NXM_NX_REG0[])",
        M | O | R,
        "0004004800000000ffff0040000023200010000000008000000000000000000000000100000000000030000004060000000002060000282000000001000100040000000000000000",
    ),
]


@pytest.mark.parametrize(
    ("traits", "instructions"), [pytest.param(t, i, id=f"{a}-{i[-24:]}") for a, t, i in FLOWS]
)
def test_traits_of_flows(traits: int, instructions: str) -> None:
    assert ofp_actions.traits_of_instructions(bytes.fromhex(instructions)) == traits


def action(kind: int, *rest: bytes) -> bytes:
    content = b"".join(rest)
    content += bytes(-(4 + len(content)) % 8)
    return struct.pack("!HH", kind, 4 + len(content)) + content


def vendor(number: int, subtype: int) -> bytes:
    return action(0xFFFF, struct.pack("!IH", number, subtype))


@pytest.mark.parametrize(
    "unknown",
    [
        action(99),
        vendor(0x2320, 999),
        vendor(0x4F4E4600, 1),
        vendor(0x123456, 6),
        action(0xFFFF, bytes.fromhex("00002320")),
    ],
)
def test_unknown_actions_may_do_anything(unknown: bytes) -> None:
    assert ofp_actions.traits_of_actions(unknown) == M | O | R


def test_unknown_instructions_may_do_anything() -> None:
    assert ofp_actions.traits_of_instructions(action(7)) == M | O | R


def test_traits_of_several_actions_add_up() -> None:
    push = action(17, b"\x81\x00")
    output = action(0, struct.pack("!IH", 1, 0))
    assert ofp_actions.traits_of_actions(push + output) == M | O


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
    assert [each.does and each.does.traits for each in updates] == [O, O, O, None]
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


@given(st.sampled_from(FLOWS), st.data())
def test_no_change_of_a_flow_breaks_the_parser(
    flow: tuple[str, int, str], data: st.DataObject
) -> None:
    content = bytearray(update_14(0, instructions=bytes.fromhex(flow[2])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError, struct.error):
        for each in ofp.flow_updates(ofp.OF15, bytes(content)):
            assert each.does is not None
            assert 0 <= each.does.traits <= M | O | R


NORMAL, FLOOD, CONTROLLER, IN_PORT = 0xFFFFFFFA, 0xFFFFFFFB, 0xFFFFFFFD, 0xFFFFFFF8


@pytest.mark.parametrize(
    ("ports", "repeats"),
    [
        ((1, 2, 3), False),
        ((1, 2, 1), True),
        ((NORMAL,), False),
        ((NORMAL, 1), True),
        ((NORMAL, IN_PORT), False),
        ((IN_PORT, IN_PORT), True),
        ((1, FLOOD), True),
        ((NORMAL, NORMAL), True),
        ((NORMAL, CONTROLLER, CONTROLLER), False),
    ],
)
def test_a_packet_may_be_sent_to_one_port_twice(ports: tuple[int, ...], repeats: bool) -> None:
    outputs = b"".join(action(0, struct.pack("!IH", port, 0)) for port in ports)
    assert bool(ofp_actions.traits_of_actions(outputs) & R) is repeats
