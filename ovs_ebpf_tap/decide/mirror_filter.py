"""`Mirror.filter`: the text of an exact-match flow, as a mask and a value for a frame's key.

Open vSwitch 3.4 and later: `parse_ofp_exact_flow` in `lib/ofp-flow.c`, with the grammar of
`ofputil_parse_key_value` in `lib/ofp-parse.c` and the fields of `lib/meta-flow.c`
(`mf_are_prereqs_ok`, `mf_is_set`, `mf_parse_value`, `mf_set_flow_value`). What these functions
take, and refuse, is what counts here, also where it is odd: fields are set in the order of the
text, so prerequisites have to come first, and `tp_dst` is the port of TCP alone.

What this takes, OVS takes. OVS takes more spellings of numbers, e.g. 300.0.0.1 for 44.0.0.1.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.model.match import Match

_KEY = abi.layout("key")

_ETH_IP = 0x0800
_ETH_ARP = 0x0806
_ETH_RARP = 0x8035
_ETH_8021Q = 0x8100
_ETH_IPV6 = 0x86DD
_ETH_MPLS = 0x8847
_ETH_MPLS_MCAST = 0x8848

_ICMP = 1
_TCP = 6
_UDP = 17
_ICMPV6 = 58
_SCTP = 132

_VLAN_PRESENT = abi.constant("VLAN_PRESENT")
_NO_VLAN = 0xFFFF  # OFP10_VLAN_NONE, as a value of dl_vlan.
_FRAG_ANY = abi.constant("FRAG_ANY")
_FRAG_LATER = abi.constant("FRAG_LATER")


class InvalidFilterError(ValueError):
    """Open vSwitch refuses the filter, and the mirror with it; the text says why."""


class UnsupportedFilterError(ValueError):
    """Open vSwitch may take the filter, but matches on more than frames; the text is the field."""


@lru_cache(1024)
def parse(text: str) -> Match:
    """The match that a filter stands for; without any field it selects every frame.

    Raises InvalidFilterError, or UnsupportedFilterError if all else in the filter is valid.
    """
    flow = _Flow()
    unsupported = []
    for name, value in _split(text):
        if name in _PROTOCOLS:
            flow.set_protocol(*_PROTOCOLS[name])
        elif name in _FIELDS:
            flow.set_field(name, _FIELDS[name], value)
        elif name in _IN_PORTS:
            raise InvalidFilterError(f"{name} is for select_src_port to say")
        elif _UNSUPPORTED.fullmatch(name):
            unsupported.append(name)
        else:
            raise InvalidFilterError(f"unknown field {name!r}")
    if unsupported:
        raise UnsupportedFilterError(unsupported[0])
    return Match(_pack(flow.masks), _pack(flow.values))


# The grammar.

_SEPARATORS = ", \t\r\n"
_NAME = re.compile(rf"[{_SEPARATORS}]*([^:=({_SEPARATORS}]*)([:=(]?)")


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Names and values, the latter empty where there is none: `tcp,tp_src=1 tp_dst(2)`."""
    place = 0
    while found := _NAME.match(text, place):
        name, opened = found.groups()
        place = end = found.end()
        if opened:
            end = _value_end(text, place, ")" if opened == "(" else _SEPARATORS)
        elif not name:
            return
        yield name, text[place:end]
        place = min(end + 1, len(text))


def _value_end(text: str, place: int, delimiters: str) -> int:
    """Where the value that starts at `place` ends: at a delimiter outside of parentheses."""
    level = 0
    while place < len(text) and (level or text[place] not in delimiters):
        if text[place] == "(":
            level += 1
        elif text[place] == ")" and level:
            level -= 1
        place += 1
    return place


# Values. Each reader takes the text and the field's length in bytes, and returns a number; it
# raises ValueError for what is none, or masked.

_SPACE = r"[ \t\n\v\f\r]*"
_NUMBER = re.compile(rf"{_SPACE}([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_HEX = re.compile(r"0[xX]((?:[0-9a-fA-F]|[ \t\r\n])*)")
_DECIMAL_BYTE = rf"{_SPACE}([+-]?[0-9]+)"
_HEX_BYTE = rf"{_SPACE}([+-]?(?:0[xX])?[0-9a-fA-F]+)"
_IPV4 = re.compile(r"\.".join([_DECIMAL_BYTE] * 4))
_MAC = re.compile(":".join([_HEX_BYTE] * 6))
_IPV6 = re.compile(rf"{_SPACE}([0-9a-fA-F:.]{{1,46}})")


def _number(found: re.Match[str]) -> int:
    """What `_NUMBER` found, by C's rules for octal and hexadecimal."""
    sign, digits = found.groups()
    octal = digits[0] == "0" and digits[1:].isdecimal()
    value = int(digits, 8 if octal else 0)
    if sign == "-" and value:
        raise ValueError
    return value


def _scan_integer(text: str, size: int) -> tuple[int, str]:
    """`parse_int_string`: the number that the text starts with, and the rest."""
    if found := _HEX.match(text):
        value = int("".join(found[1].split()) or "0", 16)
    elif found := _NUMBER.match(text):
        value = _number(found)
    else:
        raise ValueError
    if value >> 8 * size:
        raise ValueError
    return value, text[found.end() :]


def _integer(text: str, size: int) -> int:
    value, rest = _scan_integer(text, size)
    if rest.startswith("/"):
        mask, rest = _scan_integer(rest[1:], size)
        if mask != _ones(size):
            raise ValueError
    if rest:
        raise ValueError
    return value


def _scan_bytes(pattern: re.Pattern[str], text: str, base: int) -> tuple[bytes, str]:
    """Bytes in a notation of `ovs_scan`, and the rest."""
    found = pattern.match(text)
    if not found:
        raise ValueError
    numbers = [int(each, base) for each in found.groups()]
    if not all(0 <= number <= 255 for number in numbers):
        raise ValueError
    return bytes(numbers), text[found.end() :]


def _scan_ipv6(text: str) -> tuple[bytes, str]:
    found = _IPV6.match(text)
    if not found:
        raise ValueError
    try:
        return socket.inet_pton(socket.AF_INET6, found[1]), text[found.end() :]
    except OSError:
        raise ValueError from None


def _address(scan: Callable[[str], tuple[bytes, str]], prefix: bool) -> Callable[[str, int], int]:
    """A reader of addresses, which may have an exact mask (or, if `prefix`, its length) too."""

    def read(text: str, size: int) -> int:
        value, rest = scan(text)
        if rest and not (prefix and rest == f"/{8 * size}"):
            mask, more = scan(rest[1:])
            if rest[0] != "/" or mask != b"\xff" * size or more:
                raise ValueError
        return int.from_bytes(value, "big")

    return read


_mac = _address(lambda text: _scan_bytes(_MAC, text, 16), prefix=False)
_ipv4 = _address(lambda text: _scan_bytes(_IPV4, text, 10), prefix=True)
_ipv6 = _address(_scan_ipv6, prefix=True)

# `mf_from_frag_string`; "yes" and "not_later" are masked.
_FRAGMENTS = {"no": 0, "first": _FRAG_ANY, "later": _FRAG_ANY | _FRAG_LATER}


def _fragment(text: str, size: int) -> int:
    try:
        return _FRAGMENTS[text.lower()]
    except KeyError:
        raise ValueError from None


# `packet_tcp_flag_to_string`
_TCP_FLAGS = (
    *("fin", "syn", "rst", "psh", "ack", "urg"),
    *("ece", "cwr", "ns", "[200]", "[400]", "[800]"),
)


def _tcp_flags(text: str, size: int) -> int:
    """Flags as `syn|ack`, numbers among them; `parse_flags` takes none too.

    `+syn-ack` is masked, also where it names every flag.
    """
    flags = 0
    while text:
        if text[0] not in "+-" and (found := _NUMBER.match(text)):
            flags |= _number(found)
            text = text[found.end() :].removeprefix("|")
        else:
            name, _, text = text.partition("|")
            if name not in _TCP_FLAGS:
                raise ValueError
            flags |= 1 << _TCP_FLAGS.index(name)
    if flags >> len(_TCP_FLAGS):
        raise ValueError
    return flags


# Fields.


@dataclass(frozen=True)
class _Field:
    """A field: the bits of a key's member that it is, moved up by `shift`.

    `size` is the length of its value in bytes. Setting it also sets the bits `besides`.
    """

    member: str
    size: int
    read: Callable[[str, int], int]
    ready: Callable[[_Flow], bool]
    bits: int
    shift: int = 0
    besides: int = 0


def _ones(size: int) -> int:
    return (1 << 8 * size) - 1


def _size(member: str) -> int:
    place = _KEY.places[member]
    return int(place.stop - place.start)


def _plain(member: str, read: Callable[[str, int], int], ready: Callable[[_Flow], bool]) -> _Field:
    """A field that is a whole member."""
    size = _size(member)
    return _Field(member, size, read, ready, _ones(size))


@dataclass
class _Flow:
    """`struct flow`, and its `struct flow_wildcards`: the members that are in a key."""

    values: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KEY.places, 0))
    masks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KEY.places, 0))

    def set_protocol(self, dl_type: int, nw_proto: int) -> None:
        """A word such as `tcp`."""
        for member, value in (("dl_type", dl_type), ("nw_proto", nw_proto)):
            if value:
                if self.values[member]:
                    raise InvalidFilterError(f"{member} is set more than once")
                self.values[member] = value
                self.masks[member] = _ones(_size(member))

    def set_field(self, name: str, field: _Field, text: str) -> None:
        """A word such as `tp_dst=80`."""
        if not field.ready(self):
            raise InvalidFilterError(f"what {name} requires is not set before it")
        # Having been set to 0 does not count.
        if self.values[field.member] & field.bits:
            raise InvalidFilterError(f"{name} is set more than once")
        try:
            value = field.read(text, field.size)
        except ValueError:
            raise InvalidFilterError(f"bad or masked value of {name}: {text!r}") from None
        if name == "dl_vlan" and value == _NO_VLAN:
            self.values[field.member] = 0
        else:
            self.values[field.member] |= value << field.shift & field.bits | field.besides
        self.masks[field.member] |= field.bits | field.besides
        if field.member == "vlan_tci":
            # `flow_fix_vlan_tpid`, which is applied to the mask as if that were a flow.
            if self.values["vlan_tci"]:
                self.values["vlan_tpid"] = _ETH_8021Q
            self.masks["vlan_tpid"] = _ETH_8021Q

    def is_type(self, *types: int) -> bool:
        """Whether dl_type is set to one of these."""
        return self.values["dl_type"] in types

    def carries(self, protocol: int, *types: int) -> bool:
        """Whether it is of that transport protocol over one of these."""
        return self.is_type(*types) and self.values["nw_proto"] == protocol


def _always(flow: _Flow) -> bool:
    return True


def _tagged(flow: _Flow) -> bool:
    return bool(flow.values["vlan_tci"] & _VLAN_PRESENT)


def _of(*types: int) -> Callable[[_Flow], bool]:
    return lambda flow: flow.is_type(*types)


def _ported(protocol: int) -> Callable[[_Flow], bool]:
    """Only the first of several fragments has ports."""

    def ready(flow: _Flow) -> bool:
        return flow.carries(protocol, _ETH_IP, _ETH_IPV6) and not (
            flow.values["nw_frag"] & _FRAG_LATER
        )

    return ready


_arp = _of(_ETH_ARP, _ETH_RARP)
_ip4 = _of(_ETH_IP)
_ip6 = _of(_ETH_IPV6)
_ip = _of(_ETH_IP, _ETH_IPV6)


def _icmp(flow: _Flow) -> bool:
    return flow.carries(_ICMP, _ETH_IP)


def _icmp6(flow: _Flow) -> bool:
    return flow.carries(_ICMPV6, _ETH_IPV6)


def _with_aliases(fields: Mapping[str, _Field]) -> dict[str, _Field]:
    return {alias: each for names, each in fields.items() for alias in names.split()}


# `include/openvswitch/meta-flow.h`
_FIELDS = _with_aliases(
    {
        "eth_src dl_src": _plain("dl_src", _mac, _always),
        "eth_dst dl_dst": _plain("dl_dst", _mac, _always),
        "eth_type dl_type": _plain("dl_type", _integer, _always),
        "vlan_tci": _plain("vlan_tci", _integer, _always),
        "dl_vlan": _Field("vlan_tci", 2, _integer, _always, 0x0FFF, besides=_VLAN_PRESENT),
        "vlan_vid": _Field("vlan_tci", 2, _integer, _always, 0x0FFF | _VLAN_PRESENT),
        "dl_vlan_pcp": _Field("vlan_tci", 1, _integer, _always, 0xE000, 13, _VLAN_PRESENT),
        "vlan_pcp": _Field("vlan_tci", 1, _integer, _tagged, 0xE000, 13, _VLAN_PRESENT),
        "ip_src nw_src": _plain("nw_src", _ipv4, _ip4),
        "ip_dst nw_dst": _plain("nw_dst", _ipv4, _ip4),
        "ipv6_src": _plain("ipv6_src", _ipv6, _ip6),
        "ipv6_dst": _plain("ipv6_dst", _ipv6, _ip6),
        "ipv6_label": _Field("ipv6_label", 4, _integer, _ip6, 0xFFFFF),
        "nw_proto ip_proto": _plain("nw_proto", _integer, _ip),
        "nw_tos": _Field("nw_tos", 1, _integer, _ip, 0xFC),
        "ip_dscp": _Field("nw_tos", 1, _integer, _ip, 0xFC, 2),
        "nw_ecn ip_ecn": _Field("nw_tos", 1, _integer, _ip, 0x03),
        "nw_ttl": _plain("nw_ttl", _integer, _ip),
        "ip_frag nw_frag": _Field("nw_frag", 1, _fragment, _ip, _FRAG_ANY | _FRAG_LATER),
        "arp_op": _Field("nw_proto", 2, _integer, _arp, 0xFF),
        "arp_spa": _plain("nw_src", _ipv4, _arp),
        "arp_tpa": _plain("nw_dst", _ipv4, _arp),
        "arp_sha": _plain("arp_sha", _mac, _arp),
        "arp_tha": _plain("arp_tha", _mac, _arp),
        "tcp_src tp_src": _plain("tp_src", _integer, _ported(_TCP)),
        "tcp_dst tp_dst": _plain("tp_dst", _integer, _ported(_TCP)),
        "tcp_flags": _plain("tcp_flags", _tcp_flags, _ported(_TCP)),
        "udp_src": _plain("tp_src", _integer, _ported(_UDP)),
        "udp_dst": _plain("tp_dst", _integer, _ported(_UDP)),
        "sctp_src": _plain("tp_src", _integer, _ported(_SCTP)),
        "sctp_dst": _plain("tp_dst", _integer, _ported(_SCTP)),
        "icmp_type": _Field("tp_src", 1, _integer, _icmp, 0xFF),
        "icmp_code": _Field("tp_dst", 1, _integer, _icmp, 0xFF),
        "icmpv6_type": _Field("tp_src", 1, _integer, _icmp6, 0xFF),
        "icmpv6_code": _Field("tp_dst", 1, _integer, _icmp6, 0xFF),
    }
)

# `mirror_set` refuses these itself.
_IN_PORTS = ("in_port", "in_port_oxm")

# Not of the frame, or not in the key.
_UNSUPPORTED = re.compile(
    r"dp_hash|recirc_id|packet_type|conj_id|tun_id|tunnel_id|tun_(ipv6_)?(src|dst)"
    r"|tun_(flags|ttl|tos|gbp_id|gbp_flags|erspan_(idx|ver|dir|hwid)|gtpu_(flags|msgtype))"
    r"|tun_metadata([0-9]|[1-5][0-9]|6[0-3])|metadata|actset_output|skb_priority|pkt_mark"
    r"|ct_(state|zone|mark|label|nw_proto|nw_src|nw_dst|ipv6_src|ipv6_dst|tp_src|tp_dst)"
    r"|reg([0-9]|[12][0-9]|3[01])|xreg([0-9]|1[0-5])|xxreg[0-7]"
    r"|mpls_(label|tc|bos|ttl)|nd_(target|sll|tll|reserved|options_type)"
    r"|nsh_(flags|mdtype|np|spi|si|c[1-4]|ttl)|nsp|nsi|nshc[1-4]"
)

# `ofp_parse_protocol`
_PROTOCOLS = {
    "ip": (_ETH_IP, 0),
    "ipv4": (_ETH_IP, 0),
    "ip4": (_ETH_IP, 0),
    "arp": (_ETH_ARP, 0),
    "icmp": (_ETH_IP, _ICMP),
    "tcp": (_ETH_IP, _TCP),
    "udp": (_ETH_IP, _UDP),
    "sctp": (_ETH_IP, _SCTP),
    "ipv6": (_ETH_IPV6, 0),
    "ip6": (_ETH_IPV6, 0),
    "icmp6": (_ETH_IPV6, _ICMPV6),
    "tcp6": (_ETH_IPV6, _TCP),
    "udp6": (_ETH_IPV6, _UDP),
    "sctp6": (_ETH_IPV6, _SCTP),
    "rarp": (_ETH_RARP, 0),
    "mpls": (_ETH_MPLS, 0),
    "mplsm": (_ETH_MPLS_MCAST, 0),
}


def _pack(members: Mapping[str, int]) -> bytes:
    """As a `struct tap_key`."""
    key = bytearray(_KEY.size)
    for member, place in _KEY.places.items():
        key[place] = members[member].to_bytes(place.stop - place.start, "big")
    return bytes(key)
