"""Frames between two stations, built kind by kind."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable

from ovs_ebpf_tap.lab.frames import (
    ETH_IPV4,
    ETH_IPV6,
    IP_ICMP,
    IP_TCP,
    IP_UDP,
    Address,
    Station,
    Tags,
    arp_reply,
    checksum,
    ethernet,
    icmp_echo,
    ip_bytes,
    ipv4,
    tcp,
    udp,
    with_tags,
)

Kind = Callable[[Station, Station, bytes], bytes]
"""Makes a frame from the first to the second station; the bytes are its number."""

IP_ICMP6 = 58
_FIRST_PORT = 16384


def ip6_bytes(ip: str) -> bytes:
    """The IPv6 address that a station of this IPv4 address has: fd00::, and its four bytes."""
    return b"\xfd" + bytes(11) + ip_bytes(ip)


def ip6_text(ip: str) -> str:
    """The same as it is written."""
    return str(ipaddress.IPv6Address(ip6_bytes(ip)))


def _own_port(number: bytes) -> int:
    """A port that no other frame of the last hundred streams has."""
    stream, sequence = int.from_bytes(number[4:6]), int.from_bytes(number[6:10])
    return _FIRST_PORT + (stream * 479 + sequence) % (0x10000 - _FIRST_PORT)


# Packets of IPv4.


def ip_packet(protocol: int, payload: bytes = b"") -> Kind:
    """IPv4 with any protocol behind it; the number follows `payload`."""

    def build(src: Station, dst: Station, number: bytes) -> bytes:
        packet = ipv4(src.ip, dst.ip, protocol, payload + number)
        return ethernet(dst.mac, src.mac, ETH_IPV4, packet)

    return build


def udp_packet(sport: int = 9000, dport: int = 9000, before: bytes = b"", size: int = 0) -> Kind:
    def build(src: Station, dst: Station, number: bytes) -> bytes:
        payload = before + number
        payload += bytes(max(0, size - 42 - len(payload)))
        segment = udp(src.ip, dst.ip, sport, dport, payload)
        return ethernet(dst.mac, src.mac, ETH_IPV4, ipv4(src.ip, dst.ip, IP_UDP, segment))

    return build


def tcp_packet(flags: int = 0x18, dport: int = 9000, before: bytes = b"", size: int = 0) -> Kind:
    """TCP from a port of its own: conntrack takes each for another connection."""

    def build(src: Station, dst: Station, number: bytes) -> bytes:
        payload = before + number
        payload += bytes(max(0, size - 54 - len(payload)))
        segment = tcp(src.ip, dst.ip, _own_port(number), dport, payload, flags=flags)
        return ethernet(dst.mac, src.mac, ETH_IPV4, ipv4(src.ip, dst.ip, IP_TCP, segment))

    return build


def icmp_packet(kind: int, code: int = 0) -> Kind:
    def build(src: Station, dst: Station, number: bytes) -> bytes:
        # Its own identifier for each, or conntrack takes all for one.
        message = bytearray(icmp_echo(_own_port(number), 1, number))
        message[:4] = struct.pack("!BBH", kind, code, 0)
        message[2:4] = struct.pack("!H", checksum(bytes(message)))
        packet = ipv4(src.ip, dst.ip, IP_ICMP, bytes(message))
        return ethernet(dst.mac, src.mac, ETH_IPV4, packet)

    return build


def ip_header(offset: int, value: bytes, mend: bool = True, of: Kind | None = None) -> Kind:
    """With other bytes at an offset of the IPv4 header."""
    make = of or udp_packet()

    def build(src: Station, dst: Station, number: bytes) -> bytes:
        frame = bytearray(make(src, dst, number))
        frame[14 + offset : 14 + offset + len(value)] = value
        if mend:
            frame[24:26] = b"\0\0"
            frame[24:26] = struct.pack("!H", checksum(bytes(frame[14:34])))
        return bytes(frame)

    return build


def ip_options(options: bytes) -> Kind:
    def build(src: Station, dst: Station, number: bytes) -> bytes:
        frame = udp_packet()(src, dst, number)
        head = bytearray(frame[14:34] + options)
        head[0] = 0x40 | len(head) // 4
        head[2:4] = struct.pack("!H", len(frame) - 14 + len(options))
        head[10:12] = b"\0\0"
        head[10:12] = struct.pack("!H", checksum(bytes(head)))
        return frame[:14] + bytes(head) + frame[34:]

    return build


def altered(offset: int, value: bytes, of: Kind) -> Kind:
    """With other bytes at an offset of the frame."""

    def build(src: Station, dst: Station, number: bytes) -> bytes:
        frame = bytearray(of(src, dst, number))
        frame[offset : offset + len(value)] = value
        return bytes(frame)

    return build


def to_mac(mac: str, of: Kind) -> Kind:
    return lambda src, dst, number: of(src, Address(mac, dst.ip), number)


def to_ip(ip: str, mac: str, of: Kind) -> Kind:
    return lambda src, _, number: of(src, Address(mac, ip), number)


def from_station(mac: str | None, ip: str | None, of: Kind) -> Kind:
    return lambda src, dst, number: of(Address(mac or src.mac, ip or src.ip), dst, number)


def tagged(tags: Tags, of: Kind) -> Kind:
    return lambda src, dst, number: with_tags(of(src, dst, number), tags)


# Packets of IPv6.


def ip6_packet(
    protocol: int,
    payload: bytes = b"",
    first: int = 0x60000000,
    hops: int = 64,
    to: bytes | None = None,
    source: bytes | None = None,
    length: int | None = None,
) -> Kind:
    def build(src: Station, dst: Station, number: bytes) -> bytes:
        body = payload + number
        if protocol == IP_TCP:
            body = struct.pack("!H", _own_port(number)) + body[2:]
        sender, receiver = source or ip6_bytes(src.ip), to or ip6_bytes(dst.ip)
        body = _with_checksum(protocol, body, sender, receiver)
        size = len(body) if length is None else length
        head = struct.pack("!IHBB", first, size, protocol, hops)
        mac = dst.mac if to is None else "33:33:00:00:00:01"
        return ethernet(mac, src.mac, ETH_IPV6, head + sender + receiver + body)

    return build


_CHECKSUM_AT = {IP_TCP: 16, IP_UDP: 6, IP_ICMP6: 2}


def _with_checksum(protocol: int, body: bytes, sender: bytes, receiver: bytes) -> bytes:
    at = _CHECKSUM_AT.get(protocol)
    if at is None:
        return body
    if protocol == IP_UDP:
        body = body[:4] + struct.pack("!H", len(body)) + body[6:]
    pseudo = sender + receiver + struct.pack("!II", len(body), protocol)
    found = checksum(pseudo + body) or 0xFFFF
    return body[:at] + struct.pack("!H", found) + body[at + 2 :]


UDP6_HEADER = struct.pack("!HHHH", 9000, 9000, 0, 0)


def tcp6_header(flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 9000, 9000, 1, 1, 5 << 4, flags, 65535, 0, 0)


def icmp6_packet(kind: int, body: bytes = bytes(4), hops: int = 64) -> Kind:
    return ip6_packet(IP_ICMP6, bytes([kind, 0, 0, 0]) + body, hops=hops)


def ip6_extension(kind: int, inner: int, rest: bytes = bytes(6)) -> Kind:
    """An extension header and UDP, whose checksum is not right."""
    return ip6_packet(kind, bytes([inner, 0]) + rest + UDP6_HEADER)


# Of other types.


def typed(ethertype: int, before: bytes = b"", mac: str | None = None) -> Kind:
    return lambda src, dst, number: ethernet(mac or dst.mac, src.mac, ethertype, before + number)


def ieee_802_3(before: bytes, mac: str | None = None) -> Kind:
    """IEEE 802.3, with a length in place of the type."""

    def build(src: Station, dst: Station, number: bytes) -> bytes:
        payload = before + number
        return ethernet(mac or dst.mac, src.mac, len(payload), payload)

    return build


def arp_packet(operation: int) -> Kind:
    def build(src: Station, dst: Station, number: bytes) -> bytes:
        frame = arp_reply(src, dst) + number
        return frame[:20] + struct.pack("!H", operation) + frame[22:]

    return build


def within_udp(dport: int, head: bytes) -> Kind:
    """A frame within UDP, as tunnels have it."""

    def build(src: Station, dst: Station, number: bytes) -> bytes:
        return udp_packet(dport=dport, before=head + udp_packet()(src, dst, b""))(src, dst, number)

    return build
