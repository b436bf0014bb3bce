"""The flow that `Mirror.filter` stands for: its fields, and what each requires and sets.

Fields are those of OVS's `lib/meta-flow.c` (`mf_are_prereqs_ok`, `mf_is_set`, `mf_set_flow_value`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.decide.filter_syntax import (
    ones,
    read_fragment,
    read_integer,
    read_ipv4,
    read_ipv6,
    read_mac,
    read_tcp_flags,
)
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


@dataclass(frozen=True)
class FilterField:
    """A field: the bits of a key's member that it is, moved up by `shift`.

    `size` is the length of its value in bytes. Setting it also sets the bits `besides`.
    """

    member: str
    size: int
    read: Callable[[str, int], int]
    ready: Callable[[FilterFlow], bool]
    bits: int
    shift: int = 0
    besides: int = 0


def _size(member: str) -> int:
    place = _KEY.places[member]
    return int(place.stop - place.start)


def _plain(
    member: str, read: Callable[[str, int], int], ready: Callable[[FilterFlow], bool]
) -> FilterField:
    """A field that is a whole member."""
    size = _size(member)
    return FilterField(member, size, read, ready, ones(size))


@dataclass
class FilterFlow:
    """`struct flow`, and its `struct flow_wildcards`: the members that are in a key."""

    values: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KEY.places, 0))
    masks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KEY.places, 0))

    def set_protocol(self, dl_type: int, nw_proto: int) -> None:
        """A word such as `tcp`."""
        for member, value in (("dl_type", dl_type), ("nw_proto", nw_proto)):
            if value:
                if self.values[member]:
                    raise ValueError(f"{member} is set more than once")
                self.values[member] = value
                self.masks[member] = ones(_size(member))

    def set_field(self, name: str, field: FilterField, text: str) -> None:
        """A word such as `tp_dst=80`."""
        if not field.ready(self):
            raise ValueError(f"what {name} requires is not set before it")
        # Having been set to 0 does not count.
        if self.values[field.member] & field.bits:
            raise ValueError(f"{name} is set more than once")
        try:
            value = field.read(text, field.size)
        except ValueError:
            raise ValueError(f"bad or masked value of {name}: {text!r}") from None
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

    def match(self) -> Match:
        """Which frames the flow selects."""
        return Match(_pack(self.masks), _pack(self.values))

    def is_type(self, *types: int) -> bool:
        """Whether dl_type is set to one of these."""
        return self.values["dl_type"] in types

    def carries(self, protocol: int, *types: int) -> bool:
        """Whether it is of that transport protocol over one of these."""
        return self.is_type(*types) and self.values["nw_proto"] == protocol


def _always(flow: FilterFlow) -> bool:
    return True


def _tagged(flow: FilterFlow) -> bool:
    return bool(flow.values["vlan_tci"] & _VLAN_PRESENT)


def _of(*types: int) -> Callable[[FilterFlow], bool]:
    return lambda flow: flow.is_type(*types)


def _ported(protocol: int) -> Callable[[FilterFlow], bool]:
    """Only the first of several fragments has ports."""

    def ready(flow: FilterFlow) -> bool:
        return flow.carries(protocol, _ETH_IP, _ETH_IPV6) and not (
            flow.values["nw_frag"] & _FRAG_LATER
        )

    return ready


_arp = _of(_ETH_ARP, _ETH_RARP)
_ip4 = _of(_ETH_IP)
_ip6 = _of(_ETH_IPV6)
_ip = _of(_ETH_IP, _ETH_IPV6)


def _icmp(flow: FilterFlow) -> bool:
    return flow.carries(_ICMP, _ETH_IP)


def _icmp6(flow: FilterFlow) -> bool:
    return flow.carries(_ICMPV6, _ETH_IPV6)


def _with_aliases(fields: Mapping[str, FilterField]) -> dict[str, FilterField]:
    return {alias: each for names, each in fields.items() for alias in names.split()}


# `include/openvswitch/meta-flow.h`
FIELDS = _with_aliases(
    {
        "eth_src dl_src": _plain("dl_src", read_mac, _always),
        "eth_dst dl_dst": _plain("dl_dst", read_mac, _always),
        "eth_type dl_type": _plain("dl_type", read_integer, _always),
        "vlan_tci": _plain("vlan_tci", read_integer, _always),
        "dl_vlan": FilterField("vlan_tci", 2, read_integer, _always, 0x0FFF, besides=_VLAN_PRESENT),
        "vlan_vid": FilterField("vlan_tci", 2, read_integer, _always, 0x0FFF | _VLAN_PRESENT),
        "dl_vlan_pcp": FilterField("vlan_tci", 1, read_integer, _always, 0xE000, 13, _VLAN_PRESENT),
        "vlan_pcp": FilterField("vlan_tci", 1, read_integer, _tagged, 0xE000, 13, _VLAN_PRESENT),
        "ip_src nw_src": _plain("nw_src", read_ipv4, _ip4),
        "ip_dst nw_dst": _plain("nw_dst", read_ipv4, _ip4),
        "ipv6_src": _plain("ipv6_src", read_ipv6, _ip6),
        "ipv6_dst": _plain("ipv6_dst", read_ipv6, _ip6),
        "ipv6_label": FilterField("ipv6_label", 4, read_integer, _ip6, 0xFFFFF),
        "nw_proto ip_proto": _plain("nw_proto", read_integer, _ip),
        "nw_tos": FilterField("nw_tos", 1, read_integer, _ip, 0xFC),
        "ip_dscp": FilterField("nw_tos", 1, read_integer, _ip, 0xFC, 2),
        "nw_ecn ip_ecn": FilterField("nw_tos", 1, read_integer, _ip, 0x03),
        "nw_ttl": _plain("nw_ttl", read_integer, _ip),
        "ip_frag nw_frag": FilterField("nw_frag", 1, read_fragment, _ip, _FRAG_ANY | _FRAG_LATER),
        "arp_op": FilterField("nw_proto", 2, read_integer, _arp, 0xFF),
        "arp_spa": _plain("nw_src", read_ipv4, _arp),
        "arp_tpa": _plain("nw_dst", read_ipv4, _arp),
        "arp_sha": _plain("arp_sha", read_mac, _arp),
        "arp_tha": _plain("arp_tha", read_mac, _arp),
        "tcp_src tp_src": _plain("tp_src", read_integer, _ported(_TCP)),
        "tcp_dst tp_dst": _plain("tp_dst", read_integer, _ported(_TCP)),
        "tcp_flags": _plain("tcp_flags", read_tcp_flags, _ported(_TCP)),
        "udp_src": _plain("tp_src", read_integer, _ported(_UDP)),
        "udp_dst": _plain("tp_dst", read_integer, _ported(_UDP)),
        "sctp_src": _plain("tp_src", read_integer, _ported(_SCTP)),
        "sctp_dst": _plain("tp_dst", read_integer, _ported(_SCTP)),
        "icmp_type": FilterField("tp_src", 1, read_integer, _icmp, 0xFF),
        "icmp_code": FilterField("tp_dst", 1, read_integer, _icmp, 0xFF),
        "icmpv6_type": FilterField("tp_src", 1, read_integer, _icmp6, 0xFF),
        "icmpv6_code": FilterField("tp_dst", 1, read_integer, _icmp6, 0xFF),
    }
)

# `mirror_set` refuses these itself.
IN_PORTS = ("in_port", "in_port_oxm")

# Not of the frame, or not in the key.
UNSUPPORTED = re.compile(
    r"dp_hash|recirc_id|packet_type|conj_id|tun_id|tunnel_id|tun_(ipv6_)?(src|dst)"
    r"|tun_(flags|ttl|tos|gbp_id|gbp_flags|erspan_(idx|ver|dir|hwid)|gtpu_(flags|msgtype))"
    r"|tun_metadata([0-9]|[1-5][0-9]|6[0-3])|metadata|actset_output|skb_priority|pkt_mark"
    r"|ct_(state|zone|mark|label|nw_proto|nw_src|nw_dst|ipv6_src|ipv6_dst|tp_src|tp_dst)"
    r"|reg([0-9]|[12][0-9]|3[01])|xreg([0-9]|1[0-5])|xxreg[0-7]"
    r"|mpls_(label|tc|bos|ttl)|nd_(target|sll|tll|reserved|options_type)"
    r"|nsh_(flags|mdtype|np|spi|si|c[1-4]|ttl)|nsp|nsi|nshc[1-4]"
)

# `ofp_parse_protocol`
PROTOCOLS = {
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
