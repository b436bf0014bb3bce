"""`snaplen`: copies that are cut."""

from __future__ import annotations

import struct

from ovs_ebpf_tap.lab.frames import (
    ETH_8021AD,
    ETH_IPV4,
    ETH_IPV6,
    Tag,
    Tags,
    arp_request,
    ethernet,
    tcp_frame,
)
from ovs_ebpf_tap.model.desired import NATIVE
from parity.case import (
    NOBODY,
    Case,
    CaseMirror,
    CasePort,
    Sent,
    flood,
    one_by_one,
    ports,
    sized,
    station,
    whole_for_hooks,
)

LENGTHS = (20, 34, 54, 60, 64, 96, 128, 159, 160, 200, 1500, 65535)
AROUND = (16, 59, 60, 61, 159, 160, 161, 163, 164, 165, 199, 200, 201, 204, 300, 1499, 1500, 1501)
"""Lengths of frames: about those that are cut to."""
_IP = bytes([10, 0, 0, 9])
LONGEST = 1514
"""What devices take; with a tag more some do not."""


def frames(name: str, tags: Tags = ()) -> list[Sent]:
    """Frames of many lengths, those of at least one byte behind their tags."""
    head = 14 + 4 * len(tags)
    short = [
        *(sized(name, length, tags) for length in AROUND if length >= head),
        *flood(name, tags),
        tcp_frame(station(name, tags), NOBODY, b"t" * 700, tags=tags),
        arp_request(station(name, tags), "10.255.0.3", tags),
    ]
    return one_by_one(name, short, [sized(name, LONGEST, tags)])


def ip_frames(name: str, tags: Tags = ()) -> list[bytes]:
    """IPv4 with options, IPv6 with extension headers, and both cut off within their headers."""
    source = station(name, tags).mac
    segment = bytes(range(200))
    options = struct.pack("!BBHHHBBH4s4s", 0x4F, 0, 260, 1, 0, 64, 17, 0, _IP, _IP) + bytes(40)
    extended = bytes([43, 1, *bytes(14)]) + bytes([17, 0, *bytes(6)])
    six = struct.pack("!IHBB16s16s", 6 << 28, 224, 0, 64, bytes(15) + b"\1", bytes(15) + b"\2")
    return [
        ethernet(NOBODY.mac, source, kind, packet[:length], tags)
        for kind, packet in ((ETH_IPV4, options + segment), (ETH_IPV6, six + extended + segment))
        for length in (8, 30, 50, 90, 240)
    ]


def to_outputs(src: str = "", dst: str = "") -> list[CaseMirror]:
    """A mirror for each length."""
    return [CaseMirror(src=src, dst=dst, output=f"m{each}", snaplen=each) for each in LENGTHS]


def outputs(port: CasePort) -> dict[str, CasePort]:
    return {f"m{each}": port for each in LENGTHS}


CASES = [
    Case(
        "source",
        ports("a b", **outputs(CasePort())),
        to_outputs(src="a"),
        [*frames("a"), *frames("a", [10]), *frames("a", [10, 20])],
        all_hooks=True,
    ),
    Case(
        "destination",
        ports("a b", **outputs(CasePort())),
        to_outputs(dst="b"),
        [*frames("a"), *frames("a", [10])],
    ),
    Case(
        "access_source",
        ports("b", a=CasePort(tag=10), **outputs(CasePort())),
        to_outputs(src="a"),
        [*frames("a"), *frames("a", [Tag(0, pcp=3)])],
    ),
    Case(
        "access_output",
        ports("a b", **outputs(CasePort(tag=10))),
        to_outputs(src="a"),
        [*frames("a"), *frames("a", [10]), *frames("a", [Tag(10, tpid=ETH_8021AD)])],
        all_hooks=True,
        in_vm=True,
    ),
    Case(
        "access_destination",
        ports("a", b=CasePort(tag=10), **outputs(CasePort())),
        to_outputs(dst="b"),
        [*frames("a", [10])],
    ),
    Case(
        "tunnel_source",
        ports("b", a=CasePort(tag=10, vlan_mode="dot1q-tunnel"), **outputs(CasePort())),
        to_outputs(src="a"),
        [*frames("a"), *frames("a", [20])],
    ),
    Case(
        "tunnel_output",
        ports("a b", **outputs(CasePort(tag=10, vlan_mode="dot1q-tunnel"))),
        to_outputs(src="a"),
        [*frames("a"), *frames("a", [10, 20])],
    ),
    Case(
        "internal_output",
        ports("a b i", m=CasePort("internal"), n=CasePort("internal")),
        [
            CaseMirror(src="a", output="m", snaplen=200, state=NATIVE, reason="is internal"),
            CaseMirror(src="a", output="n", snaplen=65535),
        ],
        [*frames("a"), *frames("a", [10])],
    ),
    Case(
        "ip_headers",
        ports("a b", **outputs(CasePort())),
        to_outputs(src="a", dst="b"),
        one_by_one("a", [*ip_frames("a"), *ip_frames("a", [10]), *ip_frames("a", [10, 20])]),
        all_hooks=True,
    ),
    Case(
        "shortest",
        ports("a b m n"),
        [CaseMirror(src="a", output="m", snaplen=14), CaseMirror(src="a", output="n", snaplen=17)],
        [*frames("a"), *frames("a", [10]), *frames("a", [10, 20])],
        datapaths=("system",),
    ),
    Case(
        "within_tags",
        ports("a b m n"),
        [
            CaseMirror(src="a", output="m", snaplen=14, state=NATIVE, reason="less than 20"),
            CaseMirror(src="a", output="n", snaplen=19, state=NATIVE, reason="less than 20"),
        ],
        [*frames("a")],
        datapaths=("netdev",),
    ),
    Case(
        "internal_source",
        ports("b", i=CasePort("internal"), **outputs(CasePort())),
        whole_for_hooks(*to_outputs(src="i", dst="i")),
        [*frames("i"), *frames("b", [10])],
    ),
    Case(
        "one_output_equal",
        ports("a b m"),
        [
            CaseMirror(src="a", output="m", snaplen=170),
            CaseMirror(dst="b", output="m", snaplen=170),
            CaseMirror(src="b", output="m", snaplen=170),
        ],
        [*frames("a"), *frames("b")],
    ),
    Case(
        "one_output_different_packets",
        ports("a b c m"),
        [
            CaseMirror(src="a", output="m", snaplen=170),
            CaseMirror(src="b", output="m", snaplen=190),
        ],
        [*frames("a"), *frames("b")],
    ),
    Case(
        "one_output_cut_on_arrival",
        ports("a b m"),
        [
            CaseMirror(src="a", output="m", snaplen=170, state=NATIVE, reason="of another snaplen"),
            CaseMirror(dst="b", output="m", state=NATIVE, reason="of another snaplen"),
        ],
        [*frames("a"), *frames("b")],
    ),
    Case(
        "one_output_cut_on_leaving",
        ports("a b c m"),
        [
            CaseMirror(src="a", output="m", state=NATIVE, reason="of another snaplen"),
            CaseMirror(dst="b", output="m", snaplen=170, state=NATIVE, reason="of another snaplen"),
        ],
        [*frames("a"), *frames("c")],
    ),
    Case(
        "one_output_same_packets",
        ports("a b m"),
        [
            CaseMirror(src="a", output="m", snaplen=170, state=NATIVE, reason="it shares"),
            CaseMirror(src="a", output="m", snaplen=190, state=NATIVE, reason="it shares"),
        ],
        [*frames("a")],
    ),
    Case(
        "source_and_destination",
        ports("a b c m"),
        [CaseMirror(src="a", dst="b c", output="m", snaplen=180)],
        [*frames("a"), *frames("b")],
    ),
    Case(
        "chain_cut_first",
        ports("a b m n"),
        [CaseMirror(src="a", output="m", snaplen=180), CaseMirror(dst="m", output="n")],
        [*frames("a")],
    ),
    Case(
        "chain_cut_second",
        ports("a b m n"),
        [CaseMirror(src="a", output="m"), CaseMirror(dst="m", output="n", snaplen=180)],
        [*frames("a")],
    ),
    Case(
        "chain_cut_twice",
        ports("a b m n"),
        [
            CaseMirror(src="a", output="m", snaplen=180),
            CaseMirror(dst="m", output="n", snaplen=200),
        ],
        [*frames("a")],
    ),
    Case(
        "longer_than_the_output_takes",
        ports("a b", m=CasePort(mtu=576)),
        [CaseMirror(src="a", output="m", snaplen=200)],
        [*frames("a"), *frames("a", [10])],
    ),
    Case(
        "select_all",
        ports("a b m"),
        [CaseMirror(select_all=True, output="m", snaplen=190)],
        [*frames("a"), *frames("b", [10])],
    ),
]
