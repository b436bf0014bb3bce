"""Frames of any kind, and matches that select some of them."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.lab.frames import ETH_8021AD, ETH_8021Q, ETH_ARP, ETH_IPV4, ETH_IPV6
from ovs_ebpf_tap.model.match import Match

KEY = abi.layout("key")
LONGEST_REFUSED = 14
"""Bytes of a frame that the kernel's test run does not take."""

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
