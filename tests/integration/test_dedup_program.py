"""`bpf/dedup.h` in the running kernel: hooks' programs with frames that a sender might craft."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest
from dedup_hooks import Hooks, loaded

from ovs_ebpf_tap.ebpf import bpf, object_cache
from ovs_ebpf_tap.lab.frames import (
    ETH_IPV4,
    ETH_IPV6,
    Address,
    ethernet,
    ipv4,
    udp_frame,
)

FORGOTTEN = 2**24
"""In ticks: nothing is, in a test."""

A = Address("02:00:00:00:00:02", "10.0.0.2")
B = Address("02:00:00:00:00:03", "10.0.0.3")
A6, B6 = bytes.fromhex("fe80") + bytes(13) + b"\2", bytes.fromhex("fe80") + bytes(13) + b"\3"


@pytest.fixture(scope="module")
def programs_of_hooks() -> Iterator[Hooks]:
    made = object_cache.ensure_object()
    with loaded(made, forget_ticks=FORGOTTEN, race_ticks=FORGOTTEN) as hooks:
        yield hooks


@pytest.fixture
def hooks(programs_of_hooks: Hooks) -> Hooks:
    """For hooks that count apart from those of other tests."""
    programs_of_hooks.group += 1
    return programs_of_hooks


def flipped(frame: bytes, *bits: tuple[int, int]) -> bytes:
    """The frame with bits, by byte and number, the other way round."""
    made = bytearray(frame)
    for place, bit in bits:
        made[place] ^= 1 << bit
    return bytes(made)


@pytest.mark.parametrize("word", range(7))
def test_no_difference_cancels_out(hooks: Hooks, word: int) -> None:
    """Of a digest that multiplies by a known number and shifts, these would: whatever its seed."""
    one, other = hooks.add(), hooks.add()
    a = udp_frame(A, B, b"payload" * 10)
    b = flipped(a, (8 * word + 7, 7), (8 * word + 15, 7), (8 * word + 12, 2))
    assert hooks.see(one, a) == 1
    assert hooks.see(other, b) == 1


def test_any_difference_counts(hooks: Hooks) -> None:
    one, other = hooks.add(), hooks.add()
    rng = random.Random(1)
    frame = ethernet(B.mac, A.mac, 0x88B5, bytes(60))
    contents = {frame}
    for _ in range(2000):
        places = rng.sample(range(64), rng.choice([1, 1, 2, 3]))
        contents.add(flipped(frame, *((at, rng.randrange(8)) for at in places)))
    kept = [each for each in contents if each[12:14] not in (b"\x81\x00", b"\x88\xa8")]
    for each in kept:
        assert hooks.see(one, each) == 1
        assert hooks.see(other, each) == 0


def ip6(proto: int, payload: bytes, tags: tuple[int, ...] = ()) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), proto, 64)
    return ethernet(B.mac, A.mac, ETH_IPV6, head + A6 + B6 + payload, tags)


def with_options(proto: int, payload: bytes, length: int = 8) -> bytes:
    """In IPv4 with options of that many bytes."""
    packet = bytearray(ipv4(A.ip, B.ip, proto, payload))
    packet[0] += length // 4
    packet[2:4] = struct.pack("!H", len(packet) + length)
    made = bytes(packet[:20]) + b"\1" * length + bytes(packet[20:])
    return ethernet(B.mac, A.mac, ETH_IPV4, made)


def tcp(port: int = 80, flags: int = 0x10, checksum: int = 0) -> bytes:
    return struct.pack("!HHIIHHHH", 5, port, 1, 1, 0x5000 | flags, 100, checksum, 0) + b"data" * 9


def datagram(port: int = 80, checksum: int = 0) -> bytes:
    return struct.pack("!HHHH", 5, port, 44, checksum) + b"data" * 9


def chunk(port: int = 80, checksum: int = 0) -> bytes:
    return struct.pack("!HHII", 5, port, 1, checksum) + b"data" * 9


def options(following: int, length: int = 64) -> bytes:
    """An extension header of that many bytes."""
    return bytes([following, length // 8 - 1]) + bytes(length - 2)


def vxlan(inner: bytes) -> bytes:
    return udp_frame(A, B, struct.pack("!II", 8 << 24, 7 << 8) + inner, 5, 4789)


LATER = bytes([6, 0]) + struct.pack("!HI", 8 | 1, 9)

# By what Open vSwitch may send them different ways.
TOLD_APART = {
    "flags of TCP over IPv6": [ip6(6, tcp()), ip6(6, tcp(flags=2))],
    "port behind IPv4 options": [with_options(6, tcp(p), 40) for p in (80, 81)],
    "flags behind IPv4 options": [with_options(6, tcp(flags=f), 20) for f in (2, 18)],
    "port behind an IPv6 option": [ip6(60, options(17) + datagram(p)) for p in (80, 81)],
    "port behind a long IPv6 option": [ip6(60, options(6, 1024) + tcp(p)) for p in (80, 81)],
    "port behind tags": [ip6(17, datagram(p), (7, 8)) for p in (80, 81)],
    "protocol behind an IPv6 option": [ip6(60, options(p) + bytes(40)) for p in (47, 50)],
    "neighbour's address": [
        ip6(0, options(58, 8) + bytes([135, 0]) + bytes(6) + bytes(15) + each + bytes(8))
        for each in (b"\1", b"\2")
    ],
    "length": [ip6(17, datagram()), ip6(17, datagram() + b"\0")],
}


@pytest.mark.parametrize("name", TOLD_APART)
def test_what_a_flow_may_tell_apart(hooks: Hooks, name: str) -> None:
    first, second = TOLD_APART[name]
    assert first != second
    one, other = hooks.add(), hooks.add()
    assert hooks.see(one, first) == 1
    assert hooks.see(other, second) == 1
    # And what is the same is so at every hook.
    assert hooks.see(other, first) == 0
    assert hooks.see(one, second) == 0


def test_what_cannot_be_told_is_copied(hooks: Hooks) -> None:
    one, other = hooks.add(), hooks.add()
    frame = ip6(60, b"".join(options(60, 8) for _ in range(6)) + options(17, 8) + datagram())
    assert hooks.see(one, frame) == 1
    assert hooks.see(other, frame) == 1


def ip_checksum(frame: bytes) -> bytes:
    return frame[:24] + b"\xab\xcd" + frame[26:]


INNER = ethernet(B.mac, A.mac, ETH_IPV4, ipv4(A.ip, B.ip, 6, tcp()))
# Of two, one has another checksum in some header: the way has filled it in.
FILLED_IN = {
    "IPv4 header": [udp_frame(A, B, b"x" * 30), ip_checksum(udp_frame(A, B, b"x" * 30))],
    "IPv4 header with options": [
        with_options(17, datagram()),
        ip_checksum(with_options(17, datagram())),
    ],
    **{
        f"{name} over {over}": [make(proto, build(checksum=c)) for c in (0, full)]
        for name, proto, build, full in (
            ("TCP", 6, tcp, 0x1234),
            ("UDP", 17, datagram, 0x1234),
            ("SCTP", 132, chunk, 0x12345678),
        )
        for over, make in (
            ("IPv4", lambda p, t: ethernet(B.mac, A.mac, ETH_IPV4, ipv4(A.ip, B.ip, p, t))),
            ("IPv4 with options", with_options),
            ("IPv4 with many options", lambda p, t: with_options(p, t, 40)),
            ("IPv6", ip6),
            ("IPv6 with an option", lambda p, t: ip6(60, options(p, 8) + t)),
            ("IPv6 with a long option", lambda p, t: ip6(60, options(p, 80) + t)),
            ("IPv6 behind tags", lambda p, t: ip6(p, t, (7, 8))),
        )
    },
    "UDP in IPv4 in IPv4": [
        ethernet(B.mac, A.mac, ETH_IPV4, ipv4(A.ip, B.ip, 4, ipv4(A.ip, B.ip, 17, datagram(1, c))))
        for c in (0, 0x1234)
    ],
    "TCP in VXLAN": [vxlan(INNER), vxlan(INNER[:50] + b"\x12\x34" + INNER[52:])],
}


@pytest.mark.parametrize("name", FILLED_IN)
def test_what_the_way_fills_in_does_not_count(hooks: Hooks, name: str) -> None:
    before, after = FILLED_IN[name]
    assert before != after
    arriving, leaving = hooks.add(arrival=True), hooks.add()
    assert hooks.see(arriving, before) == 1
    assert hooks.see(leaving, after) == 0


def test_an_answer_of_the_same_content_is_another_packet(hooks: Hooks) -> None:
    arriving, leaving = hooks.add(arrival=True, device=1000), hooks.add(device=1000)
    elsewhere = hooks.add(arrival=True)
    frame = udp_frame(A, B, b"content" * 9)
    answer = frame[:64] + b"another" + frame[71:]
    assert hooks.see(leaving, frame) == 1
    assert hooks.see(arriving, answer) == 1
    # What comes from elsewhere may have been seen too late: a copy was made as it left.
    assert hooks.see(leaving, frame, frame) == 2
    assert hooks.see(elsewhere, frame) == 0


def test_no_flood_of_contents_hides_one(hooks: Hooks) -> None:
    """Counts that make room for others are forgotten with the copies that they stand for."""
    port, *others = (hooks.add() for _ in range(4))
    watched = [udp_frame(A, B, b"watched", number) for number in range(100)]
    for _ in range(3):
        assert hooks.see(port, *watched) == len(watched)
    # These leave by several ports: of each, more is kept where departures are counted.
    for number in range(3 * hooks.maps["frames"].max_entries):
        frame = struct.pack("!6s6sHI", bytes(5) + b"\4", bytes(5) + b"\2", 0x88B5, number)
        for other in others:
            bpf.run_classifier(hooks.programs[other], frame.ljust(60, b"\0"))
    for _ in range(3):
        assert hooks.see(port, *watched) == len(watched)
