"""Ethernet frames built and read as plain bytes: no frame check sequence, no padding.

Every length is in bytes and counts the whole frame, Ethernet header and VLAN tags included.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

BROADCAST = "ff:ff:ff:ff:ff:ff"

ETH_IPV4 = 0x0800
ETH_ARP = 0x0806
ETH_IPV6 = 0x86DD
ETH_8021Q = 0x8100
ETH_8021AD = 0x88A8

IP_ICMP = 1
IP_TCP = 6
IP_UDP = 17

SEQUENCE_PORT = 9000
SHORTEST_SEQUENCED = 56

_TAG_TYPES = (ETH_8021Q, ETH_8021AD)
_MARKER = b"\xf0tap"
# The sequence number is followed by its complement: whatever it is, the checksum stays the same.
_SEQUENCE = struct.Struct("!4sHII")
_ETHERNET_LENGTH = 14
_TAG_LENGTH = 4


class Station(Protocol):
    """What has addresses: a lab Host, for one."""

    @property
    def mac(self) -> str:
        """The Ethernet address."""

    @property
    def ip(self) -> str:
        """The IPv4 address."""


@dataclass(frozen=True)
class Address:
    """A Station that is nothing but its addresses."""

    mac: str
    ip: str = "0.0.0.0"


@dataclass(frozen=True)
class Tag:
    """An 802.1Q (or, by `tpid`, 802.1ad) VLAN tag."""

    vid: int
    pcp: int = 0
    dei: int = 0
    tpid: int = ETH_8021Q

    def pack(self) -> bytes:
        """The tag's four bytes."""
        return struct.pack("!HH", self.tpid, self.pcp << 13 | self.dei << 12 | self.vid)


Tags = Sequence[Tag | int]


def ethernet(dst: str, src: str, ethertype: int, payload: bytes = b"", tags: Tags = ()) -> bytes:
    """A frame. `tags` go from the outer to the inner one; a number is the VLAN of a plain Tag.

    Of several numbers all are 802.1Q; give a Tag for an outer 802.1ad one.
    """
    packed = b"".join((Tag(tag) if isinstance(tag, int) else tag).pack() for tag in tags)
    return mac_bytes(dst) + mac_bytes(src) + packed + struct.pack("!H", ethertype) + payload


def arp_request(src: Station, target_ip: str, tags: Tags = ()) -> bytes:
    """A broadcast "who has `target_ip`"; for one's own address it is a gratuitous one."""
    payload = _arp(1, src, Address("00:00:00:00:00:00", target_ip))
    return ethernet(BROADCAST, src.mac, ETH_ARP, payload, tags)


def arp_reply(src: Station, dst: Station, tags: Tags = ()) -> bytes:
    """The answer "`src.ip` is at `src.mac`"."""
    return ethernet(dst.mac, src.mac, ETH_ARP, _arp(2, src, dst), tags)


def udp_frame(
    src: Station,
    dst: Station,
    payload: bytes = b"",
    sport: int = SEQUENCE_PORT,
    dport: int = SEQUENCE_PORT,
    tags: Tags = (),
) -> bytes:
    """UDP over IPv4."""
    segment = udp(src.ip, dst.ip, sport, dport, payload)
    packet = ipv4(src.ip, dst.ip, IP_UDP, segment)
    return ethernet(dst.mac, src.mac, ETH_IPV4, packet, tags)


def tcp_frame(
    src: Station,
    dst: Station,
    payload: bytes = b"",
    sport: int = SEQUENCE_PORT,
    dport: int = SEQUENCE_PORT,
    flags: int = 0x18,
    tags: Tags = (),
) -> bytes:
    """TCP over IPv4, of no real connection; `flags` are PSH and ACK unless told."""
    segment = tcp(src.ip, dst.ip, sport, dport, payload, flags=flags)
    packet = ipv4(src.ip, dst.ip, IP_TCP, segment)
    return ethernet(dst.mac, src.mac, ETH_IPV4, packet, tags)


def icmp_frame(
    src: Station, dst: Station, payload: bytes = b"", seq: int = 1, tags: Tags = ()
) -> bytes:
    """An ICMP echo request over IPv4."""
    packet = ipv4(src.ip, dst.ip, IP_ICMP, icmp_echo(1, seq, payload))
    return ethernet(dst.mac, src.mac, ETH_IPV4, packet, tags)


def sequenced(
    src: Station, dst: Station, stream: int, seq: int, length: int = 64, tags: Tags = ()
) -> bytes:
    """Frame number `seq` of `stream`, which `parse_seq` knows again; all are of one flow.

    ValueError if `length` is below SHORTEST_SEQUENCED and 4 for each tag.
    """
    rest = length - SHORTEST_SEQUENCED - _TAG_LENGTH * len(tags)
    if rest < 0:
        raise ValueError(f"a sequenced frame of {length} bytes is too short by {-rest}")
    payload = pack_seq(stream, seq) + bytes(i & 0xFF for i in range(rest))
    return udp_frame(src, dst, payload, dport=SEQUENCE_PORT + stream % 1000, tags=tags)


def pack_seq(stream: int, seq: int) -> bytes:
    """The part of a sequenced frame that tells it from the others of its stream."""
    return _SEQUENCE.pack(_MARKER, stream, seq, seq ^ 0xFFFFFFFF)


def parse_seq(frame: bytes) -> tuple[int, int] | None:
    """(stream, seq) of a sequenced frame, also of a tagged, cut or encapsulated one."""
    start = frame.find(_MARKER)
    if start < 0 or len(frame) < start + _SEQUENCE.size:
        return None
    stream: int
    seq: int
    _, stream, seq, complement = _SEQUENCE.unpack_from(frame, start)
    return (stream, seq) if seq ^ complement == 0xFFFFFFFF else None


def ipv4(src: str, dst: str, protocol: int, payload: bytes, ttl: int = 64, tos: int = 0) -> bytes:
    """An IPv4 packet without options, not to be fragmented."""
    length = 20 + len(payload)
    head = struct.pack("!BBHHHBBH", 0x45, tos, length, 0, 0x4000, ttl, protocol, 0)
    head += ip_bytes(src) + ip_bytes(dst)
    return _put_checksum(head, 10, checksum(head)) + payload


def udp(src: str, dst: str, sport: int, dport: int, payload: bytes) -> bytes:
    """A UDP datagram between the IPv4 addresses `src` and `dst`."""
    datagram = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    # A sum of 0 would mean "none": the standard has its other representation sent.
    found = checksum(_pseudo_header(src, dst, IP_UDP, datagram) + datagram) or 0xFFFF
    return _put_checksum(datagram, 6, found)


def tcp(
    src: str,
    dst: str,
    sport: int,
    dport: int,
    payload: bytes,
    seq: int = 1,
    ack: int = 1,
    flags: int = 0x18,
) -> bytes:
    """A TCP segment without options between the IPv4 addresses `src` and `dst`."""
    segment = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 5 << 4, flags, 65535, 0, 0)
    segment += payload
    found = checksum(_pseudo_header(src, dst, IP_TCP, segment) + segment)
    return _put_checksum(segment, 16, found)


def icmp_echo(ident: int, seq: int, payload: bytes = b"", reply: bool = False) -> bytes:
    """An ICMP echo request, or the reply to one."""
    message = struct.pack("!BBHHH", 0 if reply else 8, 0, 0, ident, seq) + payload
    return _put_checksum(message, 2, checksum(message))


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def with_tags(frame: bytes, tags: Tags) -> bytes:
    """The frame with these tags (outer first) in place of those that it has."""
    ethertype, payload = _behind_tags(frame)
    dst, src = mac_text(frame[:6]), mac_text(frame[6:12])
    return ethernet(dst, src, ethertype, payload, tags)


def vlans(frame: bytes) -> list[int]:
    """The VLAN numbers of the frame's tags, from the outer to the inner one."""
    found = []
    offset = 12
    while _type_at(frame, offset) in _TAG_TYPES:
        found.append((_type_at(frame, offset + 2) or 0) & 0xFFF)
        offset += _TAG_LENGTH
    return found


def describe(frame: bytes) -> str:
    """One line about a frame: length, addresses, VLANs, type, stream and number, first bytes."""
    if len(frame) < _ETHERNET_LENGTH:
        return f"{len(frame)} bytes {frame.hex()}"
    ethertype, payload = _behind_tags(frame)
    words = [f"{len(frame)} bytes", f"{mac_text(frame[6:12])} > {mac_text(frame[:6])}"]
    words += [f"vlan {vid}" for vid in vlans(frame)]
    words.append(f"type {ethertype:#06x}")
    sequence = parse_seq(frame)
    if sequence is not None:
        words.append(f"stream {sequence[0]} number {sequence[1]}")
    words.append(payload[:24].hex())
    return " ".join(words)


def payload_of(frame: bytes) -> bytes:
    """What is behind the Ethernet header and all VLAN tags."""
    return _behind_tags(frame)[1]


def mac_bytes(text: str) -> bytes:
    """An Ethernet address's six bytes; ValueError for what is none."""
    packed = bytes.fromhex(text.replace(":", ""))
    if len(packed) != 6:
        raise ValueError(f"not an Ethernet address: {text}")
    return packed


def mac_text(packed: bytes) -> str:
    """Six bytes as an Ethernet address is written."""
    return packed.hex(":")


def ip_bytes(text: str) -> bytes:
    """An IPv4 address's four bytes; ValueError for what is none."""
    return ipaddress.IPv4Address(text).packed


def _arp(operation: int, src: Station, dst: Station) -> bytes:
    head = struct.pack("!HHBBH", 1, ETH_IPV4, 6, 4, operation)
    return head + mac_bytes(src.mac) + ip_bytes(src.ip) + mac_bytes(dst.mac) + ip_bytes(dst.ip)


def _pseudo_header(src: str, dst: str, protocol: int, segment: bytes) -> bytes:
    return ip_bytes(src) + ip_bytes(dst) + struct.pack("!BBH", 0, protocol, len(segment))


def _put_checksum(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + struct.pack("!H", value) + data[offset + 2 :]


def _type_at(frame: bytes, offset: int) -> int | None:
    """The EtherType at `offset`, None behind the frame's end."""
    if len(frame) < offset + 2:
        return None
    return int.from_bytes(frame[offset : offset + 2], "big")


def _behind_tags(frame: bytes) -> tuple[int, bytes]:
    """The EtherType and the payload behind all tags."""
    offset = 12 + _TAG_LENGTH * len(vlans(frame))
    return _type_at(frame, offset) or 0, frame[offset + 2 :]
