"""Beside a newer Open vSwitch than the machine's (`scripts/fetch-ovs`), one with `Mirror.filter`.

It is also the oracle for filters: which frames it copies natively is held against what the parser
(`decide/mirror_filter.py`) and the model of its flow key (`lab/flowkey.py`) say.
"""

from __future__ import annotations

import json
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from ovs_ebpf_tap.decide.mirror_filter import InvalidFilterError, UnsupportedFilterError, parse
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.differences import Difference, difference, stream_difference
from ovs_ebpf_tap.lab.flowkey import key_of, selects
from ovs_ebpf_tap.lab.frames import (
    ETH_8021AD,
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    Address,
    Tag,
    Tags,
    arp_reply,
    ethernet,
    icmp_frame,
    ipv4,
    mac_bytes,
    tcp_frame,
    udp,
    udp_frame,
)
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.ovs_daemons import NEWER_OVS
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import patience, wait_for

MOVES = 10
RATE = 5_000


@pytest.fixture
def switch() -> Iterator[Switch]:
    """The newer Open vSwitch, with the bridge br0."""
    with Switch(ovs=NEWER_OVS) as made:
        made.add_bridge()
        yield made


def test_it_is_newer(switch: Switch) -> None:
    assert switch.appctl("version").splitlines()[0] == "ovs-vswitchd (Open vSwitch) 3.5.0"
    assert switch.appctl("-t", "ovsdb-server", "version").endswith("(Open vSwitch) 3.5.0")


@pytest.mark.alone
@pytest.mark.parametrize("selected", ["source", "destination"])
def test_a_mirror_moves_and_no_copy_is_missing(
    switch: Switch, tap: SidecarProcess, selected: str, figure: Callable[[str], None]
) -> None:
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    src, dst = ([a], []) if selected == "source" else ([], [a])
    switch.mirror("m", src=src, dst=dst, output=m)
    tap.wait_state("m", "offloaded")
    way = (a, b) if selected == "source" else (b, a)
    with Capture.of(m) as copies:
        with Stream(*way, rate=RATE) as stream:
            time.sleep(0.2)
            for _ in range(MOVES):
                tap.native("m")
                time.sleep(patience(0.05))
                tap.offload("m")
                time.sleep(patience(0.05))
        copies.wait_quiet()
        moved = copies.sequences(stream.stream_id)
        # At rest, each is copied once.
        copies.clear()
        with Stream(*way, rate=RATE, stream_id=2, count=1000) as rest:
            rest.wait()
        copies.wait_quiet()
        found = stream_difference(rest.sent, copies.sequences(2))
    counted = Counter(moved)
    missing = stream.sent - len(counted)
    figure(f"{stream.sent} frames, {missing} missing, {len(moved) - len(counted)} doubled")
    assert missing == 0
    assert max(counted.values()) <= 2
    assert not found, found
    assert sum(row["packets"] for row in tap.status()) >= rest.sent


# Filters, and frames to tell them apart.

A = Address("02:00:00:00:00:02", "10.0.0.2")
B = Address("02:00:00:00:00:03", "10.0.0.3")
C = Address("02:00:00:00:00:0c", "10.0.0.12")
A6, B6 = bytes.fromhex("fe80") + bytes(13) + b"\2", bytes.fromhex("fe80") + bytes(13) + b"\3"

Q10 = Tag(10)
Q10_PCP3 = Tag(10, pcp=3)
PRIORITY = Tag(0, pcp=3)
AD20 = Tag(20, tpid=ETH_8021AD)
TAGS: dict[str, Tags] = {
    "untagged": (),
    "vlan 10": (Q10,),
    "vlan 10, priority 3": (Q10_PCP3,),
    "vlan 0, priority 3": (PRIORITY,),
    "802.1ad 20": (AD20,),
    "802.1ad 20 and vlan 10": (AD20, Q10),
    "vlan 10 twice": (Q10, Q10),
}
VLANS = (10, 20)


def ip_frame(proto: int, payload: bytes, tags: Tags = (), **fields: int) -> bytes:
    """Of IPv4, from A to B; `frag` is the header's whole word."""
    frag = fields.pop("frag", 0x4000)
    length = fields.pop("length", None)
    packet = bytearray(ipv4(A.ip, B.ip, proto, payload, **fields))
    packet[6:8] = struct.pack("!H", frag)
    if length is not None:
        packet[2:4] = struct.pack("!H", length)
    return ethernet(B.mac, A.mac, ETH_IPV4, bytes(packet), tags)


def ip6_frame(proto: int, payload: bytes, traffic: int = 0, label: int = 0) -> bytes:
    head = struct.pack("!IHBB", 6 << 28 | traffic << 20 | label, len(payload), proto, 64)
    return ethernet(B.mac, A.mac, ETH_IPV6, head + A6 + B6 + payload)


def arp(operation: int, dl_type: int = ETH_ARP) -> bytes:
    head = struct.pack("!HHBBH", 1, ETH_IPV4, 6, 4, operation)
    sender, target = (
        mac_bytes(A.mac) + bytes([10, 0, 0, 2]),
        mac_bytes(B.mac) + bytes([10, 0, 0, 3]),
    )
    return ethernet(B.mac, A.mac, dl_type, head + sender + target)


def ports(source: int, destination: int, rest: bytes = bytes(20)) -> bytes:
    return struct.pack("!HH", source, destination) + rest


SEGMENT = struct.pack("!HHIIHHHH", 5, 80, 1, 1, 0x5002, 100, 0, 0)
EXTENSION = bytes([6, 0]) + bytes(6)
FIRST = bytes([17, 0]) + struct.pack("!HI", 1, 9)
LATER = bytes([17, 0]) + struct.pack("!HI", 8 | 1, 9)
SNAP = bytes.fromhex("aaaa03000000") + struct.pack("!H", ETH_IPV4)
INNER = ipv4(A.ip, B.ip, 17, udp(A.ip, B.ip, 5, 53, b"in SNAP"))

FRAMES: dict[str, bytes] = {
    **{f"udp, {name}": udp_frame(A, B, b"udp", 5, 53, tags) for name, tags in TAGS.items()},
    **{f"tcp, {name}": tcp_frame(A, B, b"tcp", 5, 80, tags=tags) for name, tags in TAGS.items()},
    "udp from C": udp_frame(Address(A.mac, C.ip), B, b"udp", 5, 53),
    "udp from C's MAC": udp_frame(Address(C.mac, A.ip), B, b"udp", 5, 53),
    "udp to port 80": udp_frame(A, B, b"udp", 80, 80),
    "udp, cut": ip_frame(17, b"\0\5\0\65"),
    "tcp to port 81": tcp_frame(A, B, b"tcp", 5, 81),
    "tcp, syn": tcp_frame(A, B, b"", 5, 80, flags=0x02),
    "tcp, syn and ack": tcp_frame(A, B, b"", 5, 80, flags=0x12),
    "tcp, nonsense in its length": ip_frame(6, SEGMENT[:12] + b"\x40\2" + SEGMENT[14:]),
    "sctp": ip_frame(132, ports(5, 7)),
    "icmp": icmp_frame(A, B, b"icmp"),
    "icmp, unreachable": ip_frame(1, bytes([3, 1]) + bytes(30)),
    "igmp": ip_frame(2, bytes([8, 0]) + bytes(6)),
    "gre": ip_frame(47, bytes(20)),
    "tos": ip_frame(47, b"tos" * 8, tos=0xB9),
    "ttl": ip_frame(47, b"ttl" * 8, ttl=1),
    "fragment, first": ip_frame(17, ports(5, 53, b"first" * 9), frag=0x2000),
    "fragment, later": ip_frame(17, ports(5, 53, b"later" * 9), frag=0x0004),
    "length beyond the end": ip_frame(17, ports(5, 53, b"long" * 9), length=500),
    "length before the ports": ip_frame(17, ports(5, 53, b"short" * 9), length=22),
    "udp6": ip6_frame(17, ports(5, 53)),
    "tcp6": ip6_frame(6, SEGMENT),
    "tcp6 behind options": ip6_frame(0, EXTENSION + SEGMENT),
    "udp6, fragment, first": ip6_frame(44, FIRST + ports(5, 53)),
    "udp6, fragment, later": ip6_frame(44, LATER + ports(5, 53)),
    "sctp6": ip6_frame(132, ports(5, 7)),
    "icmp6": ip6_frame(58, bytes([128, 0]) + bytes(6)),
    "neighbour": ip6_frame(58, bytes([135, 0]) + bytes(6) + B6),
    "traffic class and label": ip6_frame(59, b"", traffic=0xB9, label=0x12345),
    "arp, request": arp(1),
    "arp, reply": arp_reply(A, B),
    "arp, operation 257": arp(257),
    "rarp": arp(3, 0x8035),
    "mpls": ethernet(B.mac, A.mac, 0x8847, b"\0\0\x51\x40" + INNER),
    "lldp": ethernet(B.mac, A.mac, 0x88CC, b"x" * 46),
    "802.2": ethernet(B.mac, A.mac, 46, b"\x42\x42\3" + bytes(43)),
    "snap": ethernet(B.mac, A.mac, len(SNAP + INNER), SNAP + INNER),
}

VALID = [
    " , ",
    "ip",
    "tcp,nw_src=10.0.0.2,tp_dst=80",
    "tcp tp_src:5,tcp_flags(syn|ack)",
    "tcp,tcp_flags=0x18",
    "udp,nw_src=10.0.0.12/32",
    "udp,udp_dst=0x35",
    "udp,udp_dst=0",
    "dl_type=0x0800,nw_proto=17,udp_src=80",
    "ip,nw_proto=0",
    "sctp,sctp_dst=7",
    "icmp,icmp_type=3,icmp_code=1",
    "ip,nw_tos=0xb8,nw_ecn=1",
    "ip,ip_dscp=46",
    "ip,nw_ttl=01",
    "ip,ip_frag=no",
    "udp,ip_frag=first,udp_dst=53",
    "udp,ip_frag=later",
    "dl_src=02:00:00:00:00:0c",
    "eth_dst=2:0:0:0:0:3,dl_type=0x88cc",
    "vlan_tci=0",
    "vlan_tci=0x700a",
    "dl_vlan=10",
    "dl_vlan=0",
    "dl_vlan=0xffff,udp",
    "dl_vlan_pcp=3",
    "dl_vlan=10,dl_vlan_pcp=3,tcp",
    "vlan_vid=0x100a",
    "dl_vlan=10,dl_type=0x8100",
    "dl_type=0x8100",
    "ipv6",
    "ipv6,ipv6_src=fe80::2,ipv6_dst=fe80::3/128,ipv6_label=0x12345,nw_tos=184",
    "tcp6,tcp_src=5,tp_dst=80",
    "udp6,udp_dst=53,ip_frag=no",
    "ipv6,ip_frag=later",
    "ipv6,nw_proto=44",
    "sctp6,sctp_src=5",
    "icmp6,icmpv6_type=135,icmpv6_code=0",
    "arp,arp_op=1,arp_spa=10.0.0.2,arp_tha=02:00:00:00:00:03",
    "arp,arp_op=256",
    "rarp,arp_sha=02:00:00:00:00:02,arp_tpa=10.0.0.3",
    "mpls",
    "dl_type=0x05ff",
    "tcp,tp_dst=0,tp_dst=80",
]
# Of a frame with a tag, vlan_vid has one bit more; and dl_vlan does not take 802.1ad's TPID.
NONE_OF_ALL = ["vlan_vid=10", "dl_vlan=20"]

INVALID = [
    "udp,udp_dst=80/0xff00",
    "ip,nw_src=10.0.0.0/24",
    "dl_src=02:00:00:00:00:00/01:00:00:00:00:00",
    "tcp,tcp_flags=+syn-ack",
    "ip,ip_frag=yes",
    "tp_dst=80,tcp",
    "udp,tp_dst=53",
    "nw_src=10.0.0.2",
    "arp,nw_src=10.0.0.2",
    "vlan_pcp=3",
    "ip,tcp",
    "tcp,nw_proto=6",
    "tcp,tp_dst=80,tcp_dst=80",
    "tcp,tp_dst",
    "tcp,tp_dst=http",
    "tcp,tp_dst=65536",
    "tcp,tcp_flags=SYN",
    "in_port=1",
    "nonsense",
    "TCP",
]

UNSUPPORTED = [
    "pkt_mark=0,udp",
    "mpls,mpls_label=5",
    "icmp6,icmpv6_type=135,icmpv6_code=0,nd_target=fe80::3",
    "metadata=0,reg0=0",
]


@dataclass(frozen=True)
class Oracle:
    """A switch with a mirror of all that A sends to B, to be filtered."""

    switch: Switch
    a: Host
    b: Host
    m: Host

    def copied(self, text: str) -> tuple[list[str], bool]:
        """The names of the frames that it copies, and whether it has refused the filter."""
        refusals = self._refusals()
        self.switch.vsctl("set", "Mirror", "m", f"filter={json.dumps(text)}")
        self.switch.appctl("revalidator/purge")
        with Capture.of(self.m) as copies, Capture.of(self.b) as arrived:
            self.a.send(FRAMES.values())
            arrived.wait_count(len(FRAMES))
            copies.wait_quiet(0.05)
            counts = copies.multiset()
        assert set(counts) <= set(FRAMES.values())
        assert set(counts.values()) <= {1}
        return [name for name, frame in FRAMES.items() if frame in counts], (
            self._refusals() > refusals
        )

    def _refusals(self) -> int:
        return self.switch.vswitchd_log().count("filter is invalid")


def start_oracle(switch: Switch) -> Oracle:
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    assert (a.mac, b.mac) == (A.mac, B.mac)
    switch.learn(a, b)
    # In their VLANs too, so that none of the frames is flooded.
    b.send([udp_frame(B, A, tags=[vlan]) for vlan in VLANS])
    wait_for(
        lambda: switch.appctl("fdb/show", "br0").count(B.mac) == 1 + len(VLANS),
        what="learned VLANs",
    )
    switch.mirror("m", src=[a], output=m)
    return Oracle(switch, a, b, m)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with Switch(ovs=NEWER_OVS) as switch:
        switch.add_bridge()
        yield start_oracle(switch)


def selected(text: str, vlan_limit: int = 1) -> list[str]:
    match = parse(text)
    return [name for name, frame in FRAMES.items() if selects(match, key_of(frame, vlan_limit))]


def test_the_frames_are_told_apart() -> None:
    assert len(set(FRAMES.values())) == len(FRAMES)


@pytest.mark.parametrize("text", [*VALID, *NONE_OF_ALL])
def test_what_a_filter_selects(oracle: Oracle, text: str) -> None:
    expected = selected(text)
    assert bool(expected) == (text in VALID)
    assert oracle.copied(text) == (expected, False)


@pytest.mark.parametrize("text", INVALID)
def test_what_it_refuses(oracle: Oracle, text: str) -> None:
    with pytest.raises(InvalidFilterError):
        parse(text)
    assert oracle.copied(text) == ([], True)


@pytest.mark.parametrize("text", UNSUPPORTED)
def test_what_it_takes_and_we_do_not(oracle: Oracle, text: str) -> None:
    with pytest.raises(UnsupportedFilterError):
        parse(text)
    copied, refused = oracle.copied(text)
    assert copied
    assert not refused


# The same frames by the programs.


@dataclass(frozen=True)
class NewerOvsBench:
    """A sidecar beside a switch with a mirror of what arrives, and one of what leaves."""

    oracle: Oracle
    tap: SidecarProcess
    leaving: Host

    def copied(self) -> tuple[Counter[bytes], Counter[bytes]]:
        """What is copied of arriving and of leaving frames."""
        self.oracle.switch.appctl("revalidator/purge")
        arrived = Capture.of(self.oracle.b)
        with arrived, Capture.of(self.oracle.m) as first, Capture.of(self.leaving) as second:
            self.oracle.a.send(FRAMES.values())
            arrived.wait_count(len(FRAMES))
            first.wait_quiet(0.05)
            second.wait_quiet(0.05)
            return first.multiset(), second.multiset()

    def differences(self, expected: tuple[Counter[bytes], Counter[bytes]]) -> list[Difference]:
        """How the copies differ from those expected."""
        pairs = zip(expected, self.copied(), strict=True)
        return [found for found in (difference(*pair) for pair in pairs) if found]

    def copies_as(self, expected: tuple[Counter[bytes], Counter[bytes]]) -> bool:
        """Whether they do not, once the sidecar has seen the last change of the filter."""
        tries = (not self.differences(expected) for _ in range(3))
        return any(tries)

    def filter(self, text: str) -> None:
        """Filters both mirrors."""
        for mirror in ("m", "n"):
            self.oracle.switch.vsctl("set", "Mirror", mirror, f"filter={json.dumps(text)}")


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[NewerOvsBench]:
    with Switch(ovs=NEWER_OVS) as switch:
        switch.add_bridge()
        oracle = start_oracle(switch)
        leaving = switch.add_host("n", with_ip=False)
        switch.mirror("n", dst=[oracle.b], output=leaving)
        with SidecarProcess(switch, "--attach", request.param) as tap:
            yield NewerOvsBench(oracle, tap, leaving)


@pytest.mark.parametrize("bench", attachments(), indirect=True, scope="module")
def test_offloaded_is_as_native(bench: NewerOvsBench) -> None:
    bench.tap.native("m", "n")
    native = {}
    for text in [*VALID, *NONE_OF_ALL]:
        bench.filter(text)
        native[text] = bench.copied()
        assert bool(native[text][0]) == (text in VALID)
    bench.tap.offload("m", "n")
    for text, expected in native.items():
        bench.filter(text)
        assert bench.copies_as(expected), f"{text}: {bench.differences(expected)}"


@pytest.mark.parametrize("bench", attachments()[:1], indirect=True, scope="module")
@pytest.mark.parametrize(("text", "state"), [(INVALID[0], "invalid"), (UNSUPPORTED[0], "native")])
def test_what_is_not_offloaded(bench: NewerOvsBench, text: str, state: str) -> None:
    bench.filter(text)
    bench.tap.set_mode("m", "offload")
    bench.tap.wait_settled("m", state)
    reason = bench.tap.reason("m")
    assert reason is not None
    assert reason.startswith("filter: ")


def test_with_both_tags_parsed(switch: Switch) -> None:
    switch.set_columns("Open_vSwitch", ".", other_config={"vlan-limit": "0"})
    oracle = start_oracle(switch)
    for text in ("ip", "dl_vlan=10,udp", "dl_vlan=20", "dl_type=0x8100"):
        assert oracle.copied(text) == (selected(text, vlan_limit=2), False), text
