"""Some 250 kinds of frames between two stations, each with a number of its own in its payload."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

from deployments.frame_kinds import (
    IP_ICMP6,
    UDP6_HEADER,
    Kind,
    altered,
    arp_packet,
    from_station,
    icmp6_packet,
    icmp_packet,
    ieee_802_3,
    ip6_extension,
    ip6_packet,
    ip_header,
    ip_options,
    ip_packet,
    tagged,
    tcp6_header,
    tcp_packet,
    to_ip,
    to_mac,
    typed,
    udp_packet,
    within_udp,
)
from ovs_ebpf_tap.lab.frames import (
    BROADCAST,
    ETH_8021AD,
    IP_TCP,
    IP_UDP,
    Address,
    Station,
    Tag,
    Tags,
    arp_reply,
    arp_request,
    ipv4,
    pack_seq,
    parse_seq,
)

_FLAGS = {
    "syn": 0x02,
    "syn and ack": 0x12,
    "ack": 0x10,
    "data": 0x18,
    "fin": 0x01,
    "fin and ack": 0x11,
    "reset": 0x04,
    "reset and ack": 0x14,
    "urgent": 0x38,
    "no flag": 0x00,
    "all flags": 0xFF,
    "syn and fin": 0x03,
    "ecn syn": 0xC2,
}
_TAGS: dict[str, Tags] = {
    "vlan 1": (1,),
    "vlan 10": (10,),
    "vlan 20": (20,),
    "vlan 100": (100,),
    "vlan 4094": (4094,),
    "vlan 10, priority 5": (Tag(10, pcp=5),),
    "priority 0": (0,),
    "priority 3": (Tag(0, pcp=3),),
    "vlans 10 and 20": (10, 20),
    "802.1ad 10": (Tag(10, tpid=ETH_8021AD),),
    "802.1ad 10 and vlan 20": (Tag(10, tpid=ETH_8021AD), 20),
}
_SIZES = (58, 60, 61, 64, 65, 90, 127, 128, 129, 255, 256, 512, 1000, 1280, 1400, 1499, 1500, 1514)
_PROTOCOLS = {
    "igmp report": (2, b"\x16\0\0\0\xe0\0\0\x05"),
    "ip in ip": (4, ipv4("192.0.2.1", "192.0.2.2", IP_UDP, bytes(8))),
    "egp": (8, b""),
    "ip6 in ip": (41, b"\x60" + bytes(39)),
    "gre": (47, b"\0\0\x08\0"),
    "gre of ethernet": (47, b"\0\0\x65\x58"),
    "esp": (50, b"\0\0\0\1\0\0\0\1"),
    "ah": (51, b"\x11\4\0\0\0\0\0\1"),
    "eigrp": (88, b""),
    "ospf": (89, b"\2\1"),
    "pim": (103, b"\x20\0"),
    "vrrp": (112, b"\x21\1\x64\1"),
    "l2tp": (115, b""),
    "sctp init": (132, struct.pack("!HHII", 9000, 9000, 0, 0) + b"\1\0\0\x14"),
    "sctp data": (132, struct.pack("!HHII", 9000, 9000, 7, 0) + b"\0\3\0\x20"),
    "udplite": (136, struct.pack("!HHHH", 9000, 9000, 8, 0)),
    "mpls in ip": (137, b""),
    "protocol 253": (253, b""),
    "protocol 255": (255, b""),
}
_APPLICATIONS = {
    "dns": udp_packet(dport=53, before=b"\0\1\1\0\0\1\0\0\0\0\0\0\3www\0\0\1\0\1"),
    "ntp": udp_packet(123, 123, b"\x23"),
    "snmp": udp_packet(dport=161),
    "syslog": udp_packet(dport=514, before=b"<13>"),
    "mdns": to_ip("224.0.0.251", "01:00:5e:00:00:fb", udp_packet(5353, 5353)),
    "ssdp": to_ip("239.255.255.250", "01:00:5e:7f:ff:fa", udp_packet(dport=1900)),
    "netbios": udp_packet(137, 137),
    "quic": udp_packet(dport=443, before=b"\xc0\0\0\0\1"),
    "tftp": udp_packet(dport=69),
    "sip": udp_packet(5060, 5060),
    "radius": udp_packet(dport=1812),
    "ike": udp_packet(500, 500),
    "vxlan": within_udp(4789, b"\x08\0\0\0\0\0\7\0"),
    "geneve": within_udp(6081, b"\0\0\x65\x58\0\0\7\0"),
    "gtp": within_udp(2152, b"\x30\xff\0\x30\0\0\0\1"),
    "http": tcp_packet(dport=80, before=b"GET / HTTP/1.0\r\n"),
    "tls": tcp_packet(dport=443, before=b"\x16\3\1"),
    "ssh": tcp_packet(dport=22, before=b"SSH-2.0-"),
    "ftp": tcp_packet(dport=21, before=b"PORT 10,0,0,2,1,1\r\n"),
    "mysql": tcp_packet(0x02, 3306),
    "bgp": tcp_packet(0x02, 179),
}
_OTHER_TYPES = {
    "arp, who has": lambda src, dst, number: arp_request(src, dst.ip) + number,
    "arp, announcement": lambda src, _, number: arp_request(src, src.ip) + number,
    "arp, reply": lambda src, dst, number: arp_reply(src, dst) + number,
    "arp, operation 3": arp_packet(3),
    "arp, operation 257": arp_packet(257),
    "arp, wrong hardware": altered(14, b"\0\6", arp_packet(1)),
    "rarp": altered(12, b"\x80\x35", arp_packet(3)),
    "lldp": typed(0x88CC, b"\2\7\4", "01:80:c2:00:00:0e"),
    "lacp": typed(0x8809, b"\1\1", "01:80:c2:00:00:02"),
    "pause": typed(0x8808, b"\0\1\0\0", "01:80:c2:00:00:01"),
    "eapol": typed(0x888E, b"\1\1\0\0", "01:80:c2:00:00:03"),
    "spanning tree": ieee_802_3(b"\x42\x42\3" + bytes(35), "01:80:c2:00:00:00"),
    "cdp": ieee_802_3(bytes.fromhex("aaaa0300000c2000"), "01:00:0c:cc:cc:cc"),
    "ip in snap": ieee_802_3(bytes.fromhex("aaaa030000000800") + bytes(28)),
    "ipx": ieee_802_3(b"\xff\xff"),
    "netbeui": ieee_802_3(b"\xf0\xf0\3"),
    "mpls": typed(0x8847, b"\0\0\x51\x40" + ipv4("192.0.2.1", "192.0.2.2", IP_UDP, bytes(8))),
    "mpls, two labels": typed(0x8847, b"\0\0\x50\x40\0\0\x51\x40"),
    "mpls multicast": typed(0x8848, b"\0\0\x51\x40"),
    "pppoe discovery": typed(0x8863, b"\x11\x09\0\0\0\x04", BROADCAST),
    "pppoe session": typed(0x8864, b"\x11\0\0\1\0\x12\0\x21"),
    "nsh": typed(0x894F, b"\x0f\xc6\1\3\0\0\1\xff" + bytes(16)),
    "ptp": typed(0x88F7, b"\0\2"),
    "macsec": typed(0x88E5, b"\x20\0\0\0\0\1"),
    "fcoe": typed(0x8906),
    "wake on lan": typed(0x0842, bytes.fromhex("ff" * 6), BROADCAST),
    "loopback": typed(0x9000),
    "appletalk": typed(0x809B),
    "batman": typed(0x4305),
    "type 0x0600": typed(0x0600),
    "type 0x05ff": typed(0x05FF),
    "type 0xffff": typed(0xFFFF),
    "experimental": typed(0x88B5),
    "experimental, broadcast": typed(0x88B5, mac=BROADCAST),
    "cut ipv4": altered(12, b"\x08\0", typed(0x88B5, b"\x45\0\0")),
    "cut ipv6": altered(12, b"\x86\xdd", typed(0x88B5, b"\x60\0\0")),
}
_NEIGHBOUR = bytes(4) + bytes.fromhex("fd00") + bytes(14)
_OVER_IP6 = {
    "udp6": ip6_packet(IP_UDP, UDP6_HEADER),
    "udp6, long": ip6_packet(IP_UDP, UDP6_HEADER + bytes(1200)),
    "tcp6, syn": ip6_packet(IP_TCP, tcp6_header(0x02)),
    "tcp6, ack": ip6_packet(IP_TCP, tcp6_header(0x10)),
    "tcp6, data": ip6_packet(IP_TCP, tcp6_header(0x18)),
    "tcp6, reset": ip6_packet(IP_TCP, tcp6_header(0x04)),
    "icmp6, echo": icmp6_packet(128),
    "icmp6, echo reply": icmp6_packet(129),
    "icmp6, unreachable": icmp6_packet(1),
    "icmp6, too big": icmp6_packet(2),
    "icmp6, router solicitation": icmp6_packet(133, hops=255),
    "icmp6, router advertisement": icmp6_packet(134, bytes(12), hops=255),
    "icmp6, neighbour solicitation": icmp6_packet(135, _NEIGHBOUR, hops=255),
    "icmp6, neighbour advertisement": icmp6_packet(136, _NEIGHBOUR, hops=255),
    "icmp6, listener report": icmp6_packet(143, hops=1),
    "icmp6, to all nodes": ip6_packet(
        IP_ICMP6, b"\x80" + bytes(7), to=b"\xff\2" + bytes(13) + b"\1"
    ),
    "udp6, hop limit 1": ip6_packet(IP_UDP, UDP6_HEADER, hops=1),
    "udp6, hop limit 0": ip6_packet(IP_UDP, UDP6_HEADER, hops=0),
    "udp6, traffic class": ip6_packet(IP_UDP, UDP6_HEADER, first=0x6B900000),
    "udp6, flow label": ip6_packet(IP_UDP, UDP6_HEADER, first=0x60012345),
    "udp6, link local": ip6_packet(IP_UDP, UDP6_HEADER, source=b"\xfe\x80" + bytes(13) + b"\2"),
    "udp6, unspecified source": ip6_packet(IP_UDP, UDP6_HEADER, source=bytes(16)),
    "udp6, length beyond the end": ip6_packet(IP_UDP, UDP6_HEADER, length=500),
    "udp6, length 0": ip6_packet(IP_UDP, UDP6_HEADER, length=0),
    "ip6, hop by hop": ip6_extension(0, IP_UDP),
    "ip6, destination options": ip6_extension(60, IP_UDP),
    "ip6, routing": ip6_extension(43, IP_UDP),
    "ip6, fragment, first": ip6_extension(44, IP_UDP, struct.pack("!HI", 1, 9)),
    "ip6, fragment, later": ip6_extension(44, IP_UDP, struct.pack("!HI", 8 | 1, 9)),
    "ip6, fragment, only": ip6_extension(44, IP_UDP, struct.pack("!HI", 0, 9)),
    "ip6, nothing behind": ip6_packet(59),
    "ip6, esp": ip6_packet(50, bytes(8)),
    "ip6, sctp": ip6_packet(132, struct.pack("!HHII", 9000, 9000, 0, 0)),
    "ip6, version 5": ip6_packet(IP_UDP, UDP6_HEADER, first=0x50000000),
}
_HEADERS = {
    "ttl 0": ip_header(8, b"\0"),
    "ttl 1": ip_header(8, b"\1"),
    "ttl 2": ip_header(8, b"\2"),
    "ttl 255": ip_header(8, b"\xff"),
    "expedited": ip_header(1, b"\xb8"),
    "congestion": ip_header(1, b"\3"),
    "may be fragmented": ip_header(6, b"\0\0"),
    "evil bit": ip_header(6, b"\x80\0"),
    "fragment, first": ip_header(6, b"\x20\0"),
    "fragment, later": ip_header(6, b"\x20\4"),
    "fragment, last": ip_header(6, b"\0\x08"),
    "tcp fragment, first": ip_header(6, b"\x20\0", of=tcp_packet()),
    "length beyond the end": ip_header(2, b"\2\0"),
    "length before the end": ip_header(2, b"\0\x1c"),
    "length 0": ip_header(2, b"\0\0"),
    "wrong checksum": ip_header(10, b"\xde\xad", mend=False),
    "version 5": ip_header(0, b"\x55"),
    "header too short": ip_header(0, b"\x44"),
    "header too long": ip_header(0, b"\x4f"),
    "no-operation options": ip_options(b"\1\1\1\1"),
    "router alert": ip_options(b"\x94\4\0\0"),
    "record route": ip_options(b"\7\7\4" + bytes(5)),
    "udp, no checksum": altered(40, b"\0\0", udp_packet()),
    "udp, wrong checksum": altered(40, b"\xde\xad", udp_packet()),
    "udp, wrong length": altered(38, b"\0\4", udp_packet()),
    "tcp, wrong checksum": altered(50, b"\xde\xad", tcp_packet()),
    "tcp, header too short": altered(46, b"\x40", tcp_packet()),
    "tcp, header too long": altered(46, b"\xf0", tcp_packet()),
    "to broadcast": to_ip("255.255.255.255", BROADCAST, udp_packet()),
    "to all hosts": to_ip("224.0.0.1", "01:00:5e:00:00:01", udp_packet()),
    "to a group": to_ip("239.1.1.1", "01:00:5e:01:01:01", udp_packet()),
    "to nobody": to_ip("198.51.100.7", "02:ff:ff:00:00:07", udp_packet()),
    "to loopback": lambda src, dst, number: udp_packet()(
        src, Address(dst.mac, "127.0.0.1"), number
    ),
    "to a broadcast address, ip unicast": to_mac(BROADCAST, udp_packet()),
    "to an unknown address": to_mac("02:ff:ff:00:00:01", udp_packet()),
    "to no address": to_mac("00:00:00:00:00:00", udp_packet()),
    "from nobody's ip": from_station(None, "198.51.100.9", udp_packet()),
    "from no ip": from_station(None, "0.0.0.0", udp_packet()),
    "from another's address": from_station("02:ff:ff:00:00:09", None, udp_packet()),
    "from a group's address": from_station("03:00:00:00:00:09", None, udp_packet()),
    "to itself": lambda src, _, number: udp_packet()(src, src, number),
}
_ICMP = {
    "icmp, echo": (8, 0),
    "icmp, echo reply": (0, 0),
    "icmp, host unreachable": (3, 1),
    "icmp, fragmentation needed": (3, 4),
    "icmp, redirect": (5, 1),
    "icmp, time exceeded": (11, 0),
    "icmp, parameter problem": (12, 0),
    "icmp, timestamp": (13, 0),
    "icmp, address mask": (17, 0),
    "icmp, type 200": (200, 7),
}
_PORTS = ((0, 9000), (9000, 0), (65535, 1), (1024, 1025), (9, 9))

KINDS: dict[str, Kind] = {
    **{f"udp, ports {s} and {d}": udp_packet(s, d) for s, d in _PORTS},
    **{f"udp, {size} bytes": udp_packet(size=size) for size in _SIZES},
    **{f"tcp, {size} bytes": tcp_packet(size=size) for size in _SIZES if size > 64},
    **{f"tcp, {name}": tcp_packet(flags) for name, flags in _FLAGS.items()},
    **{name: icmp_packet(*kind) for name, kind in _ICMP.items()},
    **{name: ip_packet(*each) for name, each in _PROTOCOLS.items()},
    **_HEADERS,
    **_APPLICATIONS,
    **_OVER_IP6,
    **_OTHER_TYPES,
    **{f"udp, {name}": tagged(tags, udp_packet()) for name, tags in _TAGS.items()},
    **{f"tcp, {name}": tagged(tags, tcp_packet()) for name, tags in _TAGS.items()},
    **{
        f"udp6, {name}": tagged(tags, ip6_packet(IP_UDP, UDP6_HEADER))
        for name, tags in _TAGS.items()
    },
    **{f"arp, {name}": tagged(tags, arp_packet(1)) for name, tags in _TAGS.items()},
}
_NAMES = tuple(KINDS)


class NumberedFrames:
    """Makes frames of all kinds, each of a number that no other has."""

    def __init__(self) -> None:
        self._streams: Iterator[int] = itertools.count(1)

    def between(self, src: Station, dst: Station) -> list[bytes]:
        """A frame of each kind."""
        stream = next(self._streams)
        return [
            build(src, dst, pack_seq(stream, number)) for number, build in enumerate(KINDS.values())
        ]


def kind_of(frame: bytes) -> str:
    """The name of the kind of frame, or of a part of one."""
    found = parse_seq(frame)
    return "another frame" if found is None else f"{_NAMES[found[1]]} ({found[0]})"
