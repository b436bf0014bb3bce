"""`bpf/filter.h` in the running kernel: a program made of it alone, with frames of any kind.

The key that it extracts has to be the model's (`ovs_ebpf_tap/lab/flowkey.py`), byte by byte.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ebpf_tap import abi, bpf
from ovs_ebpf_tap.compile import expand
from ovs_ebpf_tap.filter import Match, parse
from ovs_ebpf_tap.lab.flowkey import key_of, selects
from ovs_ebpf_tap.lab.frames import (
    ETH_8021AD,
    ETH_8021Q,
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    Address,
    Tag,
    Tags,
    arp_request,
    ethernet,
    icmp_frame,
    tcp_frame,
    udp_frame,
)

KEY = abi.layout("key")

# The kernel's test run takes no cut IP packets, so the frame's type is put in by the program, and
# a tag to where devices leave it, in the packet's metadata.
PROGRAM = """
struct probe_options {
	u32 vlan_limit;
	u32 type;
	u32 tpid;
	u32 tci;
};

BPF_TABLE("array", u32, struct probe_options, options, 1);
BPF_TABLE("array", u32, struct tap_match, matches, 1);
BPF_TABLE("array", u32, union tap_flow, flows, 1);

int probe(struct __sk_buff *skb)
{
	u32 zero = 0;
	struct probe_options *option = options.lookup(&zero);
	struct tap_match *match = matches.lookup(&zero);
	union tap_flow flow;
	__be16 type;

	if (!option || !match)
		return -1;
	type = bpf_htons(option->type);
	if (bpf_skb_store_bytes(skb, 12, &type, sizeof(type), 0))
		return -1;
	if (option->tpid && bpf_skb_vlan_push(skb, bpf_htons(option->tpid), option->tci))
		return -1;
	tap_extract(skb, option->vlan_limit, &flow);
	flows.update(&zero, &flow);
	return tap_matches(&flow, match);
}
"""
FIRST = struct.pack("=I", 0)
LONGEST_REFUSED = 14
UNKNOWN_TYPE = bytes.fromhex("88b5")


@dataclass(frozen=True)
class Probe:
    """The program, and its maps."""

    program: int
    options: bpf.Map
    matches: bpf.Map
    flows: bpf.Map

    def run(self, frame: bytes, match: Match, vlan_limit: int, offload: bool) -> tuple[bytes, bool]:
        """The key of a frame, and whether the match selects it.

        With `offload`, the outermost VLAN tag is in metadata if there is one.
        """
        tpid = int.from_bytes(frame[12:14], "big")
        if offload and tpid in (ETH_8021Q, ETH_8021AD) and len(frame) >= 18:
            tci = int.from_bytes(frame[14:16], "big")
            frame = frame[:12] + frame[16:]
        else:
            tpid = tci = 0
        dl_type = int.from_bytes(frame[12:14], "big")
        frame = frame[:12] + UNKNOWN_TYPE + frame[14:]
        self.options.set(FIRST, struct.pack("=IIII", vlan_limit, dl_type, tpid, tci))
        self.matches.set(FIRST, match.pack())
        result = bpf.run_classifier(self.program, frame)
        assert result in (0, 1)
        return self.flows.get(FIRST) or b"", result == 1


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    from bcc import BPF

    os.environ["BCC_KERNEL_SOURCE"] = str(abi.source_dir())
    headers = [expand(abi.source_dir() / name) for name in ("tap.h", "filter.h")]
    text = "\n".join([*headers, PROGRAM]).encode()
    module = BPF(text=text, cflags=["-Wall", "-Werror"])
    maps = [bpf.Map(os.dup(module[name].map_fd)) for name in (b"options", b"matches", b"flows")]
    yield Probe(module.load_func(b"probe", BPF.SCHED_CLS).fd, *maps)
    for each in maps:
        each.close()
    module.cleanup()


# Frames, header by header. Most are whole, some have lengths or versions that are wrong.

SHORT = st.integers(0, 0xFFFF)
BYTE = st.integers(0, 0xFF)
TAIL = st.binary(max_size=40)
MACS = st.sampled_from([bytes.fromhex("020000000001"), bytes.fromhex("0180c2000000")])
IPS = st.sampled_from([bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])])
IP6S = st.sampled_from([bytes(15) + b"\1", bytes.fromhex("fe80") + bytes(13) + b"\2"])
PROTOCOLS = st.sampled_from([6, 6, 17, 17, 132, 1, 2, 58, 4, 59])
TRANSPORT = st.builds(
    lambda ports, numbers, ctl, tail: ports + numbers + ctl + tail,
    st.binary(min_size=4, max_size=4),
    st.binary(min_size=8, max_size=8),
    st.one_of(st.sampled_from([b"\x50\x12", b"\x51\xff", b"\x80\x02"]), st.binary(max_size=2)),
    TAIL,
)


@st.composite
def ipv4(draw: st.DrawFn) -> bytes:
    payload = draw(TRANSPORT)
    options = bytes(4 * draw(st.sampled_from([0, 0, 0, 1, 10])))
    ihl = draw(st.sampled_from([5 + len(options) // 4] * 6 + [4, 5, 15]))
    true_length = 20 + len(options) + len(payload)
    length = draw(st.sampled_from([true_length] * 6 + [true_length - 9, true_length + 1, 0, 19]))
    frag = draw(st.sampled_from([0, 0, 0x4000, 0x2000, 0x2005, 0x0001]))
    tos, ttl, proto = draw(BYTE), draw(BYTE), draw(PROTOCOLS)
    head = struct.pack("!BBHHHBBH", 0x40 | ihl, tos, max(length, 0), 1, frag, ttl, proto, 0xABCD)
    return b"".join([head, draw(IPS), draw(IPS), options, payload])


@st.composite
def ipv6(draw: st.DrawFn) -> bytes:
    # More extension headers than this are not passed over.
    kinds = draw(st.lists(st.sampled_from([0, 43, 60, 51, 44]), max_size=6))
    chain = [*kinds, draw(PROTOCOLS)]
    payload = b""
    for kind, after in zip(kinds, chain[1:], strict=True):
        units = draw(st.sampled_from([0, 0, 1, 2, 200]))
        if kind == 44:
            offset = draw(st.sampled_from([0, 1, 1, 8, 9]))
            payload += struct.pack("!BBHI", after, units, offset, 7)
        else:
            size = 8 + units * (4 if kind == 51 else 8)
            payload += bytes([after, units]) + bytes(min(size, 40) - 2)
    payload += draw(TRANSPORT)
    length = draw(st.sampled_from([len(payload)] * 6 + [len(payload) + 1, len(payload) // 2, 0]))
    head = struct.pack("!IHBB", 6 << 28 | draw(st.integers(0, 2**28 - 1)), length, chain[0], 64)
    return b"".join([head, draw(IP6S), draw(IP6S), payload])


@st.composite
def arp(draw: st.DrawFn) -> bytes:
    fixed = draw(st.sampled_from(["000108000604"] * 4 + ["000608000604", "000108000804"]))
    operation = draw(st.sampled_from([1, 2, 3, 0xFF, 0x100, 0x101]))
    return (
        bytes.fromhex(fixed)
        + struct.pack("!H", operation)
        + draw(MACS)
        + draw(IPS)
        + draw(MACS)
        + draw(IPS)
    )


TYPES = st.one_of(
    st.sampled_from([ETH_IPV4, ETH_IPV6, ETH_ARP, 0x8035, 0x8847, 0x88CC, 0x05FF, 0x0600, 46, 0]),
    SHORT,
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    dl_type, payload = draw(
        st.one_of(
            st.tuples(st.just(ETH_IPV4), ipv4()),
            st.tuples(st.just(ETH_IPV6), ipv6()),
            st.tuples(st.sampled_from([ETH_ARP, 0x8035]), arp()),
            st.tuples(TYPES, TAIL),
        )
    )
    packed = struct.pack("!H", dl_type) + payload
    snap = draw(st.sampled_from(["", "", "", "", "aaaa03000000", "aaaa03000001", "424203"]))
    if snap:
        packed = struct.pack("!H", len(packed) + 6) + bytes.fromhex(snap) + packed
    tpids = st.sampled_from([ETH_8021Q, ETH_8021Q, ETH_8021AD, 0x9100])
    for tpid, tci in draw(st.lists(st.tuples(tpids, SHORT), max_size=3)):
        packed = struct.pack("!HH", tpid, tci) + packed
    frame = draw(MACS) + draw(MACS) + packed + bytes(draw(st.sampled_from([0, 0, 6, 60])))
    frame += bytes(max(0, LONGEST_REFUSED + 1 - len(frame)))
    if draw(st.booleans()):
        return frame
    return frame[: draw(st.integers(LONGEST_REFUSED + 1, len(frame)))]


@st.composite
def matches(draw: st.DrawFn, key: bytes) -> Match:
    """A match of some members of a key, of which it may have other values."""
    mask, value = bytearray(KEY.size), bytearray(key)
    members = st.sampled_from(list(KEY.places))
    for member in draw(st.lists(members, max_size=6)):
        mask[KEY.places[member]] = b"\xff" * len(mask[KEY.places[member]])
    place = draw(st.integers(0, KEY.size - 1))
    if draw(st.booleans()):
        mask[place] = draw(BYTE)
    value[place] ^= draw(st.sampled_from([0, 0, 1, 0x80]))
    masked = bytes(v & m for v, m in zip(value, mask, strict=True))
    return Match(bytes(mask), masked)


def members(key: bytes) -> dict[str, str]:
    """A key in a form that shows where two of them differ."""
    return {member: key[place].hex() for member, place in KEY.places.items()}


@settings(max_examples=1000, deadline=None)
@given(frame=frames(), vlan_limit=st.sampled_from([1, 2]), offload=st.booleans(), data=st.data())
def test_the_key_and_the_match_are_the_models(
    probe: Probe, frame: bytes, vlan_limit: int, offload: bool, data: st.DataObject
) -> None:
    wanted = key_of(frame, vlan_limit)
    match = data.draw(matches(wanted))
    key, selected = probe.run(frame, match, vlan_limit, offload)
    assert members(key) == members(wanted)
    assert selected == selects(match, wanted)


A = Address("02:00:00:00:00:01", "10.0.0.1")
B = Address("02:00:00:00:00:02", "10.0.0.2")
TAGS: list[Tags] = [[], [Tag(10, pcp=3)], [Tag(20, tpid=ETH_8021AD), 10]]
FRAMES = {
    "udp": [udp_frame(A, B, b"x", dport=53, tags=tags) for tags in TAGS],
    "tcp": [tcp_frame(A, B, b"x", dport=80, flags=0x12, tags=tags) for tags in TAGS],
    "icmp": [icmp_frame(A, B, tags=tags) for tags in TAGS],
    "arp": [arp_request(A, B.ip, tags=tags) for tags in TAGS],
    "other": [ethernet(B.mac, A.mac, 0x88CC, b"x" * 46, tags=tags) for tags in TAGS],
}


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(
    ("text", "kinds", "tags"),
    [
        ("", ["udp", "tcp", "icmp", "arp", "other"], [0, 1]),
        ("ip", ["udp", "tcp", "icmp"], [0, 1]),
        ("tcp,nw_src=10.0.0.1,tp_dst=80,tcp_flags=syn|ack", ["tcp"], [0, 1]),
        ("tcp,nw_src=10.0.0.2", [], []),
        ("udp,udp_dst=53,vlan_tci=0", ["udp"], [0]),
        ("dl_vlan=10,icmp,icmp_type=8", ["icmp"], [1]),
        ("dl_vlan_pcp=3", ["udp", "tcp", "icmp", "arp", "other"], [1]),
        ("arp,arp_op=1,arp_sha=02:00:00:00:00:01,arp_tpa=10.0.0.2", ["arp"], [0, 1]),
        ("dl_type=0x88cc,dl_dst=02:00:00:00:00:02", ["other"], [0, 1]),
    ],
)
def test_filters(probe: Probe, text: str, kinds: list[str], tags: list[int], offload: bool) -> None:
    """Of two tags only the outer one is parsed, so nothing is known of what is behind it."""
    match = parse(text)
    for kind, some in FRAMES.items():
        for number, frame in enumerate(some):
            wanted = text == "" or (kind in kinds and number in tags)
            assert probe.run(frame, match, 1, offload)[1] == wanted, (kind, number)
