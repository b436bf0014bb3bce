"""The frame builders against what the standards, and other implementations, say."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.lab import frames
from ovs_ebpf_tap.lab.differences import difference, stream_difference
from ovs_ebpf_tap.lab.frames import Address, Tag

A = Address("02:00:00:00:00:0a", "10.0.0.1")
B = Address("02:00:00:00:00:0b", "10.0.0.2")

numbers = st.integers(0, 2**32 - 1)
streams = st.integers(0, 2**16 - 1)
tag_lists = st.lists(st.integers(0, 4095), max_size=3)


def test_checksum_of_a_known_header() -> None:
    header = bytes.fromhex("450000730000400040110000c0a80001c0a800c7")
    assert frames.checksum(header) == 0xB861


def test_layout_of_a_tagged_arp_request() -> None:
    frame = frames.arp_request(A, B.ip, tags=[Tag(7, pcp=5, tpid=frames.ETH_8021AD), 100])
    assert frame == bytes.fromhex(
        "ffff ffff ffff 0200 0000 000a 88a8 a007 8100 0064 0806 0001 0800 0604 0001 "
        "0200 0000 000a 0a00 0001 0000 0000 0000 0a00 0002"
    )


@pytest.mark.parametrize("build", [frames.udp_frame, frames.tcp_frame])
@given(payload=st.binary(max_size=40))
def test_checksums_sum_up_to_nothing(build: type, payload: bytes) -> None:
    packet = frames.payload_of(build(A, B, payload, tags=[1]))
    header, segment = packet[:20], packet[20:]
    pseudo = header[12:20] + struct.pack("!BBH", 0, header[9], len(segment))
    assert frames.checksum(header) == 0
    assert frames.checksum(pseudo + segment) == 0


def test_icmp_checksum_sums_up_to_nothing() -> None:
    assert frames.checksum(frames.payload_of(frames.icmp_frame(A, B, b"odd"))[20:]) == 0


@given(stream=streams, seq=numbers, tags=tag_lists, length=st.integers(72, 1500))
def test_sequenced_frames_tell_their_number(
    stream: int, seq: int, tags: list[int], length: int
) -> None:
    frame = frames.sequenced(A, B, stream, seq, length, tags)
    assert len(frame) == length
    assert frames.parse_seq(frame) == (stream, seq)
    assert frames.vlans(frame) == tags


@given(seq=numbers)
def test_frames_of_a_stream_differ_in_the_number_only(seq: int) -> None:
    first, other = (frames.sequenced(A, B, 1, number) for number in (0, seq))
    assert first.replace(frames.pack_seq(1, 0), frames.pack_seq(1, seq)) == other


def test_no_number_in_other_frames() -> None:
    frame = frames.sequenced(A, B, 1, 5)
    assert frames.parse_seq(frames.udp_frame(A, B, b"hello")) is None
    assert frames.parse_seq(frame[:-15]) is None
    assert frames.parse_seq(frame[:52] + b"\0" + frame[53:]) is None


def test_too_short_for_a_number() -> None:
    assert len(frames.sequenced(A, B, 1, 1, frames.SHORTEST_SEQUENCED)) == 56
    with pytest.raises(ValueError, match="too short by 4"):
        frames.sequenced(A, B, 1, 1, frames.SHORTEST_SEQUENCED, tags=[1])


@given(before=tag_lists, after=tag_lists)
def test_with_tags_replaces_them(before: list[int], after: list[int]) -> None:
    assert frames.with_tags(frames.udp_frame(A, B, tags=before), after) == frames.udp_frame(
        A, B, tags=after
    )


@given(data=st.binary(max_size=40))
def test_any_bytes_can_be_described(data: bytes) -> None:
    assert frames.describe(data).startswith(f"{len(data)} bytes")


def test_equal_multisets_do_not_differ() -> None:
    seen = Counter([b"a" * 20, b"b" * 20, b"a" * 20])
    assert not difference(seen, Counter(seen))
    assert str(difference(seen, Counter(seen))) == "no difference"


def test_difference_names_every_kind() -> None:
    one, two, three, four = (frames.sequenced(A, B, 1, seq) for seq in range(4))
    retagged = frames.with_tags(three, [9])
    plain = frames.udp_frame(A, B, b"no number")
    readdressed = frames.udp_frame(B, A, b"no number")[:14] + frames.payload_of(plain)
    found = difference(
        Counter([one, one, two, three, plain]), Counter([one, four, retagged, two, readdressed])
    )
    assert found.missing == Counter([one])
    assert found.extra == Counter([four])
    assert found.altered == [(three, retagged), (plain, readdressed)]
    report = str(found).splitlines()
    assert report[0] == "1 missing, 1 extra, 2 altered"
    assert "vlan 9 type 0x0800 stream 1 number 2" in "".join(report)


@given(expected=st.lists(st.binary(max_size=16)), seen=st.lists(st.binary(max_size=16)))
def test_difference_accounts_for_every_frame(expected: list[bytes], seen: list[bytes]) -> None:
    found = difference(Counter(expected), Counter(seen))
    rebuilt = Counter(expected) - found.missing - Counter(pair[0] for pair in found.altered)
    assert rebuilt + found.extra + Counter(pair[1] for pair in found.altered) == Counter(seen)
    assert bool(found) == (Counter(expected) != Counter(seen))


def test_account_of_a_stream() -> None:
    assert not stream_difference(3, [2, 0, 1])
    found = stream_difference(6, [0, 1, 1, 5, 9])
    assert found.missing == [2, 3, 4]
    assert found.extra == Counter({1: 1, 9: 1})
    assert str(found) == "6 sent, 5 seen, 3 missing (2..4), 2 extra (1, 9)"
