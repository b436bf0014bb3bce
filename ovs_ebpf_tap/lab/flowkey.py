"""The key that Open vSwitch's flow holds for a frame: `miniflow_extract` in its `lib/flow.c`.

A model to hold the programs, and Open vSwitch, against. It knows what a `struct tap_key` has.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.lab.frames import ETH_8021AD, ETH_8021Q, ETH_ARP, ETH_IPV4, ETH_IPV6
from ovs_ebpf_tap.model.match import Match

ETH_RARP = 0x8035

_KEY = abi.layout("key")
_NO_DL_TYPE = 0x05FF
_LOWEST_TYPE = 0x0600
_SNAP = bytes.fromhex("aaaa03000000")
_EXTENSIONS = {0: 8, 43: 8, 60: 8, 51: 4}
"""IPv6 extension headers, and the unit of their length, which does not count the first 8 bytes."""
_FRAGMENT = 44
_TCP = 6
_SHORTEST = {_TCP: 20, 17: 8, 132: 12, 1: 8, 2: 8, 58: 8}
"""Headers with ports, or a type and a code, and how long they are at least."""
_WITH_PORTS = (_TCP, 17, 132)


def key_of(frame: bytes, vlan_limit: int = 1) -> bytes:
    """The frame's `struct tap_key`, with as many VLAN tags parsed as `vlan_limit` says."""
    key = _Key()
    key.parse(frame, vlan_limit)
    packed = bytearray(_KEY.size)
    for member, value in key.members.items():
        place = _KEY.places[member]
        packed[place] = value.to_bytes(place.stop - place.start, "big")
    return bytes(packed)


def selects(match: Match, key: bytes) -> bool:
    """Whether a mirror with that filter copies a frame of that key."""
    together = zip(match.mask, match.value, key, strict=True)
    return all((value ^ found) & mask == 0 for mask, value, found in together)


class _CutError(Exception):
    """The frame ends before the header does."""


@dataclass
class _Key:
    members: dict[str, int] = field(default_factory=dict)

    def set(self, **members: int | bytes) -> None:
        for name, value in members.items():
            self.members[name] = value if isinstance(value, int) else int.from_bytes(value, "big")

    def parse(self, frame: bytes, vlan_limit: int) -> None:
        if len(frame) < 14:
            return
        self.set(dl_dst=frame[:6], dl_src=frame[6:12])
        rest = self._parse_tags(frame[12:], vlan_limit)
        dl_type, rest = _ethertype(rest)
        self.set(dl_type=dl_type)
        parsers = {
            ETH_IPV4: self._parse_ipv4,
            ETH_IPV6: self._parse_ipv6,
            ETH_ARP: self._parse_arp,
            ETH_RARP: self._parse_arp,
        }
        if dl_type in parsers:
            parsers[dl_type](rest)

    def _parse_tags(self, rest: bytes, vlan_limit: int) -> bytes:
        """Takes the tags off; what is left begins with an EtherType."""
        for number in range(vlan_limit):
            tpid = int.from_bytes(rest[:2], "big")
            if tpid not in (ETH_8021Q, ETH_8021AD) or len(rest) < 6:
                break
            if number == 0:
                self.set(vlan_tpid=tpid, vlan_tci=int.from_bytes(rest[2:4], "big") | 0x1000)
            rest = rest[4:]
        return rest

    def _parse_ipv4(self, rest: bytes) -> None:
        if len(rest) < 20:
            return
        length = 4 * (rest[0] & 0xF)
        total, frag = struct.unpack_from("!HxxH", rest, 2)
        if not 20 <= length <= total <= len(rest) <= total + 0xFFFF:
            return
        self.set(nw_src=rest[12:16], nw_dst=rest[16:20])
        self.set(nw_tos=rest[1], nw_ttl=rest[8], nw_proto=rest[9])
        if frag & 0x3FFF:
            self.set(nw_frag=3 if frag & 0x1FFF else 1)
        if not frag & 0x1FFF:
            self._parse_ports(rest[9], rest[length:total])

    def _parse_ipv6(self, rest: bytes) -> None:
        if len(rest) < 40:
            return
        head, length, proto, ttl = struct.unpack_from("!IHBB", rest)
        if not length <= len(rest) - 40 <= length + 0xFFFF:
            return
        self.set(ipv6_src=rest[8:24], ipv6_dst=rest[24:40])
        try:
            proto, frag, rest = _pass_extensions(proto, rest[40 : 40 + length])
        except _CutError:
            return
        self.set(ipv6_label=head & 0xFFFFF, nw_tos=head >> 20 & 0xFF)
        self.set(nw_ttl=ttl, nw_proto=proto, nw_frag=frag)
        if frag != 3:
            self._parse_ports(proto, rest)

    def _parse_ports(self, proto: int, rest: bytes) -> None:
        if len(rest) < _SHORTEST.get(proto, len(rest) + 1):
            return
        if proto == _TCP:
            ctl = int.from_bytes(rest[12:14], "big")
            if not 20 <= 4 * (ctl >> 12) <= len(rest):
                return
            self.set(tcp_flags=ctl & 0xFFF)
        size = 2 if proto in _WITH_PORTS else 1
        self.set(tp_src=rest[:size], tp_dst=rest[size : 2 * size])

    def _parse_arp(self, rest: bytes) -> None:
        if len(rest) < 28 or rest[:6] != bytes.fromhex("000108000604"):
            return
        self.set(arp_sha=rest[8:14], nw_src=rest[14:18], arp_tha=rest[18:24], nw_dst=rest[24:28])
        # An operation of two bytes does not fit.
        self.set(nw_proto=rest[7] if rest[6] == 0 else 0)


def _ethertype(rest: bytes) -> tuple[int, bytes]:
    """The EtherType, and what is behind it or, of IEEE 802.3, behind a SNAP header."""
    dl_type = int.from_bytes(rest[:2], "big")
    rest = rest[2:]
    if dl_type >= _LOWEST_TYPE:
        return dl_type, rest
    if len(rest) < 8 or rest[:6] != _SNAP:
        return _NO_DL_TYPE, rest
    dl_type = int.from_bytes(rest[6:8], "big")
    return (dl_type if dl_type >= _LOWEST_TYPE else _NO_DL_TYPE), rest[8:]


def _pass_extensions(proto: int, rest: bytes) -> tuple[int, int, bytes]:
    """Protocol and fragment kind behind the extension headers, and the rest. Raises _CutError."""
    frag = 0
    while proto in _EXTENSIONS or proto == _FRAGMENT:
        if len(rest) < 8:
            raise _CutError
        following, length, offset = struct.unpack_from("!BBH", rest)
        if proto == _FRAGMENT:
            length = 8
            frag = 3 if offset & 0xFFF8 else 1 if offset else frag
        else:
            length = 8 + _EXTENSIONS[proto] * length
        if len(rest) < length:
            raise _CutError
        rest = rest[length:]
        if proto == _FRAGMENT and frag == 3:
            return _FRAGMENT, frag, rest
        proto = following
    return proto, frag, rest
