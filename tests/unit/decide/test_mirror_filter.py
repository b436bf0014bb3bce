"""Filters as Open vSwitch parses them: what they select, what it refuses, what is left to it.

`tests/integration/test_newer_ovs.py` has Open vSwitch itself say the same of many of them.
"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.decide.mirror_filter import InvalidFilterError, UnsupportedFilterError, parse
from ovs_ebpf_tap.model.match import Match

KEY = abi.layout("key")

# Members of the key that a filter looks at: a number for one that it looks at whole, else
# (mask, value).
Wanted = dict[str, int | tuple[int, int]]

TCP: Wanted = {"dl_type": 0x0800, "nw_proto": 6}
UDP: Wanted = {"dl_type": 0x0800, "nw_proto": 17}
IP: Wanted = {"dl_type": 0x0800}
IP6: Wanted = {"dl_type": 0x86DD}
ARP: Wanted = {"dl_type": 0x0806}
MAC = 0x020000000001

VALID: dict[str, Wanted] = {
    "": {},
    " ,\t,": {},
    "tcp,nw_src=10.0.0.1,tp_dst=80": {**TCP, "nw_src": 0x0A000001, "tp_dst": 80},
    "dl_src=02:00:00:00:00:01,eth_dst=2:0:0:0:0:1": {"dl_src": MAC, "dl_dst": MAC},
    "dl_src=02:00:00:00:00:01/ff:ff:ff:ff:ff:ff": {"dl_src": MAC},
    "dl_type=0x88cc": {"dl_type": 0x88CC},
    "eth_type=2048": IP,
    "dl_type=0x5ff": {"dl_type": 0x05FF},
    # Words, and how they are separated.
    "tcp tp_dst:80": {**TCP, "tp_dst": 80},
    "tcp,tp_dst(80)": {**TCP, "tp_dst": 80},
    "\ttcp,,tp_dst( 0x50),": {**TCP, "tp_dst": 80},
    "ip=whatever": IP,
    # Protocols.
    "ip": IP,
    "ip4": IP,
    "ipv4": IP,
    "ipv6": IP6,
    "ip6": IP6,
    "arp": ARP,
    "rarp": {"dl_type": 0x8035},
    "icmp": {**IP, "nw_proto": 1},
    "udp": UDP,
    "sctp": {**IP, "nw_proto": 132},
    "icmp6": {**IP6, "nw_proto": 58},
    "tcp6": {**IP6, "nw_proto": 6},
    "udp6": {**IP6, "nw_proto": 17},
    "sctp6": {**IP6, "nw_proto": 132},
    "mpls": {"dl_type": 0x8847},
    "mplsm": {"dl_type": 0x8848},
    # VLANs: their mask has the bits of 0x8100 in the TPID too.
    "dl_vlan=10": {"vlan_tpid": (0x8100, 0x8100), "vlan_tci": (0x1FFF, 0x100A)},
    "dl_vlan=0": {"vlan_tpid": (0x8100, 0x8100), "vlan_tci": (0x1FFF, 0x1000)},
    "dl_vlan=0xffff": {"vlan_tpid": (0x8100, 0), "vlan_tci": (0x1FFF, 0)},
    "dl_vlan=0,dl_vlan=5": {"vlan_tpid": (0x8100, 0x8100), "vlan_tci": (0x1FFF, 0x1005)},
    "vlan_vid=10": {"vlan_tpid": (0x8100, 0x8100), "vlan_tci": (0x1FFF, 0x000A)},
    "vlan_vid=0x100a": {"vlan_tpid": (0x8100, 0x8100), "vlan_tci": (0x1FFF, 0x100A)},
    "vlan_tci=0": {"vlan_tpid": (0x8100, 0), "vlan_tci": 0},
    "vlan_tci=0x700a": {"vlan_tpid": (0x8100, 0x8100), "vlan_tci": 0x700A},
    "dl_vlan_pcp=3": {"vlan_tpid": (0x8100, 0x8100), "vlan_tci": (0xF000, 0x7000)},
    "dl_vlan=10,vlan_pcp=3": {"vlan_tpid": (0x8100, 0x8100), "vlan_tci": 0x700A},
    "dl_vlan_pcp=3,dl_vlan=0xffff": {"vlan_tpid": (0x8100, 0x8100), "vlan_tci": 0},
    # IP.
    "ip,ip_proto=6,tcp_dst=1": {**TCP, "tp_dst": 1},
    "ip,nw_src=10.0.0.1/32": {**IP, "nw_src": 0x0A000001},
    "ip,ip_dst=10.0.0.1/255.255.255.255": {**IP, "nw_dst": 0x0A000001},
    "ip,nw_tos=7": {**IP, "nw_tos": (0xFC, 4)},
    "ip,ip_dscp=46,nw_ecn=1": {**IP, "nw_tos": 0xB9},
    "ipv6,nw_ttl=0100,ip_ecn=3": {**IP6, "nw_ttl": 64, "nw_tos": (3, 3)},
    "ip,nw_proto=6/0xff": TCP,
    "ip,ip_frag=No": {**IP, "nw_frag": (3, 0)},
    "ip,nw_frag=first": {**IP, "nw_frag": (3, 1)},
    "ip6,ip_frag=later": {**IP6, "nw_frag": (3, 3)},
    "ipv6,ipv6_src=::1,ipv6_dst=ff02::1/128": {
        **IP6,
        "ipv6_src": 1,
        "ipv6_dst": 0xFF02 << 112 | 1,
    },
    "ipv6,ipv6_label=0x112345": {**IP6, "ipv6_label": (0xFFFFF, 0x12345)},
    # Ports and the like.
    "tcp6,tp_src=5": {**IP6, "nw_proto": 6, "tp_src": 5},
    "udp,udp_src=5,udp_dst=0": {**UDP, "tp_src": 5, "tp_dst": 0},
    "sctp6,sctp_src=5,sctp_dst=6": {**IP6, "nw_proto": 132, "tp_src": 5, "tp_dst": 6},
    "icmp,icmp_type=8,icmp_code=0": {
        **IP,
        "nw_proto": 1,
        "tp_src": (0xFF, 8),
        "tp_dst": (0xFF, 0),
    },
    "icmp6,icmpv6_type=135,icmpv6_code=2": {
        **IP6,
        "nw_proto": 58,
        "tp_src": (0xFF, 135),
        "tp_dst": (0xFF, 2),
    },
    "tcp,tcp_flags=syn|ack": {**TCP, "tcp_flags": 0x12},
    "tcp,tcp_flags=0x2|[800]": {**TCP, "tcp_flags": 0x802},
    "tcp,tcp_flags": {**TCP, "tcp_flags": 0},
    "tcp,ip_frag=first,tp_src=1": {**TCP, "nw_frag": (3, 1), "tp_src": 1},
    # Having been set to 0 does not count as set.
    "tcp,tp_dst=0,tp_dst=5": {**TCP, "tp_dst": 5},
    "dl_type=0,ip": IP,
    # ARP.
    "arp,arp_op=1,arp_spa=10.0.0.1,arp_tpa=10.0.0.2": {
        **ARP,
        "nw_proto": 1,
        "nw_src": 0x0A000001,
        "nw_dst": 0x0A000002,
    },
    "rarp,arp_sha=02:00:00:00:00:01,arp_tha=00:00:00:00:00:02": {
        "dl_type": 0x8035,
        "arp_sha": MAC,
        "arp_tha": 2,
    },
    "arp,arp_op=257": {**ARP, "nw_proto": 1},
}

INVALID = {
    # What Open vSwitch does not know.
    "foo": "unknown field 'foo'",
    "=1": "unknown field ''",
    "TCP": "unknown field 'TCP'",
    "tcp,*": "unknown field '*'",
    "tcp;udp": "unknown field 'tcp;udp'",
    "ct_mark(5)->y": "unknown field '->y'",
    # What is not set, or not yet.
    "tp_dst=80": "what tp_dst requires",
    "tp_dst=80,tcp": "what tp_dst requires",
    "udp,tp_dst=53": "what tp_dst requires",
    "nw_src=10.0.0.1": "what nw_src requires",
    "arp,nw_src=10.0.0.1": "what nw_src requires",
    "ip,arp_spa=10.0.0.1": "what arp_spa requires",
    "icmp6,icmp_type=8": "what icmp_type requires",
    "vlan_pcp=3": "what vlan_pcp requires",
    "vlan_vid=10,vlan_pcp=3": "what vlan_pcp requires",
    "tcp,ip_frag=later,tp_src=1": "what tp_src requires",
    # What is set already.
    "ip,tcp": "dl_type is set more than once",
    "dl_type=0x800,tcp": "dl_type is set more than once",
    "tcp,nw_proto=6": "nw_proto is set more than once",
    "tcp,tp_dst=5,tcp_dst=5": "tcp_dst is set more than once",
    "ip,nw_tos=4,ip_dscp=1": "ip_dscp is set more than once",
    "vlan_tci=0x100a,dl_vlan=5": "dl_vlan is set more than once",
    # Values.
    "tcp,tp_dst": "value of tp_dst: ''",
    "tcp,tp_dst=http": "value of tp_dst: 'http'",
    "tcp,tp_dst=65536": "value of tp_dst: '65536'",
    f"tcp,tp_dst={'9' * 5000}": "value of tp_dst: '999",
    "tcp,tp_dst=0x10000": "value of tp_dst: '0x10000'",
    "tcp,tp_dst=-1": "value of tp_dst: '-1'",
    "tcp,tp_dst=08": "value of tp_dst: '08'",
    "tcp,tp_dst(80 )": "value of tp_dst: '80 '",
    "ip,nw_ttl=256": "value of nw_ttl: '256'",
    "ip,nw_src=10.0.0": "value of nw_src: '10.0.0'",
    "ip,nw_src=localhost": "value of nw_src: 'localhost'",
    "ipv6,ipv6_src=10.0.0.1": "value of ipv6_src: '10.0.0.1'",
    "dl_src=02:00:00:00:00": "value of dl_src: '02:00:00:00:00'",
    "tcp,tcp_flags=SYN": "value of tcp_flags: 'SYN'",
    "tcp,tcp_flags=|syn": "value of tcp_flags: '|syn'",
    "tcp,tcp_flags=0x1000": "value of tcp_flags: '0x1000'",
    # Masks.
    "tcp,tp_dst=*": "masked value of tp_dst: '*'",
    "tcp,tp_dst=80/0xff00": "masked value of tp_dst: '80/0xff00'",
    "ip,nw_src=10.0.0.0/24": "masked value of nw_src: '10.0.0.0/24'",
    "ipv6,ipv6_src=fe80::1/64": "masked value of ipv6_src: 'fe80::1/64'",
    "dl_src=02:00:00:00:00:01/ff:ff:ff:00:00:00": "masked value of dl_src",
    "vlan_vid=0x1000/0x1000": "masked value of vlan_vid: '0x1000/0x1000'",
    "ip,ip_frag=yes": "masked value of ip_frag: 'yes'",
    "tcp,tcp_flags=+syn-ack": r"masked value of tcp_flags: '\+syn-ack'",
    "tcp,tcp_flags=2/2": "masked value of tcp_flags: '2/2'",
    # What Mirror has columns for.
    "in_port=1": "in_port is for select_src_port to say",
    "tcp,in_port_oxm=a0": "in_port_oxm is for select_src_port to say",
    # Valid otherwise.
    "ct_mark=5,foo": "unknown field 'foo'",
}

UNSUPPORTED = {
    **{
        f"{name}=1": name
        for name in (
            *(
                "ct_mark",
                "ct_zone",
                "ct_tp_dst",
                "tun_id",
                "tunnel_id",
                "tun_ttl",
                "tun_metadata63",
            ),
            *("reg0", "reg15", "xreg7", "xxreg3", "metadata", "pkt_mark", "skb_priority"),
            *("dp_hash", "recirc_id", "conj_id", "actset_output"),
        )
    },
    "packet_type=(1,0x800)": "packet_type",
    "mpls,mpls_label=5": "mpls_label",
    "icmp6,icmpv6_type=135,icmpv6_code=0,nd_target=fe80::1": "nd_target",
    "dl_type=0x894f,nsh_c4=5": "nsh_c4",
    "dl_type=0x894f,nsp=5": "nsp",
    "tcp,ct_mark=5,reg0=1,tp_dst=80": "ct_mark",
}


def wanted(match: Match) -> Wanted:
    """What a match looks at."""
    found: Wanted = {}
    for member, place in KEY.places.items():
        mask, value = match.mask[place], match.value[place]
        number = int.from_bytes(value, "big")
        if any(mask):
            whole = mask == b"\xff" * len(mask)
            found[member] = number if whole else (int.from_bytes(mask, "big"), number)
    return found


@pytest.mark.parametrize("text", VALID)
def test_what_a_filter_looks_at(text: str) -> None:
    assert wanted(parse(text)) == VALID[text]


@pytest.mark.parametrize("text", INVALID)
def test_what_open_vswitch_refuses(text: str) -> None:
    with pytest.raises(InvalidFilterError, match=INVALID[text]):
        parse(text)


@pytest.mark.parametrize("text", UNSUPPORTED)
def test_what_is_left_to_open_vswitch(text: str) -> None:
    with pytest.raises(UnsupportedFilterError, match=f"^{UNSUPPORTED[text]}$"):
        parse(text)


def test_a_match_is_packed_as_the_header_says() -> None:
    packed = parse("dl_src=02:00:00:00:00:01").pack()
    layout = abi.layout("match")
    assert len(packed) == layout.size
    assert packed[layout.places["mask"]][KEY.places["dl_src"]] == b"\xff" * 6
    assert packed[layout.places["value"]][KEY.places["dl_src"]] == bytes.fromhex("020000000001")


WORDS = st.one_of(
    st.sampled_from(
        [word for text in [*VALID, *INVALID, *UNSUPPORTED] for word in text.split(",")]
    ),
    st.text(st.sampled_from(" \t,:=()/|+-0123456789abcxfABC._ntp\u0660\0"), max_size=12),
)


@given(st.lists(st.tuples(WORDS, st.sampled_from(",:=( ")), max_size=6))
def test_any_text_is_parsed_or_refused(words: list[tuple[str, str]]) -> None:
    text = "".join(map("".join, words))
    with contextlib.suppress(InvalidFilterError, UnsupportedFilterError):
        match = parse(text)
        assert all(value & ~mask == 0 for mask, value in zip(match.mask, match.value, strict=True))
