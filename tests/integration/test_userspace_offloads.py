"""The userspace datapath and what senders leave to their devices: super-packets and checksums."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import (
    ETH_IPV4,
    ETH_IPV6,
    ethernet,
    ip_bytes,
    ipv4,
    tcp,
    udp_frame,
)
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.ovs_daemons import NEWER_OVS
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch

# Of <linux/if_packet.h> and <linux/virtio_net.h>.
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_NEEDS_CSUM = 1
_GSO_NONE, _GSO_TCPV4 = 0, 1

_TCP, _UDP, _SCTP, _OPTIONS = 6, 17, 132, 60
_CHECKSUM_AT = {_TCP: 16, _UDP: 6, _SCTP: 8}
_MTU = 1500
FRAMES = 10


class OffloadingHost:
    """Sends frames of a host as its kernel would, with what is left to the device."""

    def __init__(self, host: Host) -> None:
        self._socket = host.ns.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._socket.bind((host.device, 0))

    def send(self, frame: bytes, start: int, checksum: int, segment: int = 0) -> None:
        """A frame whose transport header, at `start`, has its checksum to be filled in.

        With `segment` it is a super-packet of TCP segments of so many bytes.
        """
        gso, headers = (_GSO_TCPV4, start + 20) if segment else (_GSO_NONE, 0)
        header = struct.pack("=BBHHHH", _NEEDS_CSUM, gso, headers, segment, start, checksum)
        self._socket.send(header + frame)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


@contextmanager
def machine(host: Host) -> Iterator[OffloadingHost]:
    made = OffloadingHost(host)
    try:
        yield made
    finally:
        made.close()


# Super-packets.


def super_packet(a: Host, b: Host, length: int) -> bytes:
    """With a payload of that many bytes."""
    segment = bytearray(tcp(a.ip, b.ip, 1000, 2000, b"s" * length))
    pseudo = ip_bytes(a.ip) + ip_bytes(b.ip) + struct.pack("!HH", _TCP, len(segment))
    segment[16:18] = struct.pack("!H", folded(pseudo))
    return ethernet(b.mac, a.mac, ETH_IPV4, ipv4(a.ip, b.ip, _TCP, bytes(segment)))


def folded(data: bytes) -> int:
    """The sum that is left in the checksum's place."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("attach", attachments())
@pytest.mark.parametrize("selected", ["source", "both"])
def test_super_packets_that_are_dropped_are_not_copied(
    switch: Switch, attach: str, selected: str
) -> None:
    if switch.get("Bridge", "br0", "datapath_type") != "netdev":
        pytest.skip("the kernel's datapath takes them")
    a = switch.add_host("a", with_ip=False, offloads=True)
    b, m = (switch.add_host(name, with_ip=False) for name in "bm")
    switch.learn(a, b)
    switch.mirror("m", src=[a], dst=[b] if selected == "both" else [], output=m)

    def play() -> tuple[Counter[bytes], Counter[bytes]]:
        with Capture.of(b) as arrived, Capture.of(m) as copies, machine(a) as sender:
            for number in range(FRAMES):
                sender.send(super_packet(a, b, 1600 + 3000 * number), 34, 16, 1400)
                # As long as can be, with a tag and without.
                a.send([udp_frame(a, b, b"%04d" % number * 368, tags=tags) for tags in ([], [5])])
            copies.wait_quiet()
            return copies.multiset(), arrived.multiset()

    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.native("m")
        native = play()
        tap.offload("m")
        offloaded = play()
    assert native[1].total() == native[0].total() == 2 * FRAMES
    assert offloaded == native


# Checksums.


def kinds(a: Host, b: Host) -> Iterator[tuple[bytes, int, int]]:
    """Frames of each kind, with where the transport header is, and its checksum in that."""
    for proto, at in _CHECKSUM_AT.items():
        for name, head in networks(a, b):
            payload = b"<%d over %s>" % (proto, name)
            transport = {
                _TCP: struct.pack("!HHIIHHHH", 5, 80, 1, 1, 0x5010, 100, 0, 0),
                _UDP: struct.pack("!HHHH", 5, 80, 8 + len(payload), 0),
                _SCTP: struct.pack("!HHII", 5, 80, 1, 0),
            }[proto]
            frame, start = head(proto, transport + payload)
            yield frame, start, at


def networks(a: Host, b: Host) -> Iterator[tuple[bytes, Callable[[int, bytes], tuple[bytes, int]]]]:
    """Network layers: their names, and what puts a transport header behind them."""

    def made(packet: bytes, addresses: bytes, proto: int, data: bytes, ethertype: int) -> bytes:
        # What a sender leaves in the checksum's place; nothing, if that is not a sum.
        left = folded(addresses + struct.pack("!HH", proto, len(data))) if proto != _SCTP else 0
        at = _CHECKSUM_AT[proto]
        data = data[:at] + struct.pack("!H", left) + data[at + 2 :]
        return ethernet(b.mac, a.mac, ethertype, packet + data)

    def ip4(proto: int, data: bytes, options: bytes = b"") -> tuple[bytes, int]:
        head = bytearray(ipv4(a.ip, b.ip, proto, data)[:20] + options)
        head[0] += len(options) // 4
        head[2:4] = struct.pack("!H", len(head) + len(data))
        head[10:12] = bytes(2)
        head[10:12] = struct.pack("!H", 0xFFFF ^ folded(bytes(head)))
        addresses = ip_bytes(a.ip) + ip_bytes(b.ip)
        return made(bytes(head), addresses, proto, data, ETH_IPV4), 14 + len(head)

    def ip6(proto: int, data: bytes, extension: bytes = b"") -> tuple[bytes, int]:
        following = _OPTIONS if extension else proto
        addresses = b"".join(
            bytes.fromhex("fd00") + bytes(10) + ip_bytes(host.ip) for host in (a, b)
        )
        extension = extension[:1] and bytes([proto]) + extension[1:]
        length = len(extension) + len(data)
        head = struct.pack("!IHBB", 6 << 28, length, following, 64) + addresses
        head += extension
        return made(head, addresses, proto, data, ETH_IPV6), 14 + len(head)

    yield b"IPv4", ip4
    yield b"IPv4 with options", lambda proto, data: ip4(proto, data, b"\1" * 8)
    yield b"IPv6", ip6
    yield b"IPv6 with options", lambda proto, data: ip6(proto, data, bytes([0, 0, 1, 4]) + bytes(4))


@pytest.fixture
def newer() -> Iterator[Switch]:
    """A newer Open vSwitch that takes super-packets, and checksums that are left to devices."""
    with Switch(ovs=NEWER_OVS) as made:
        made.set_columns("Open_vSwitch", ".", other_config={"userspace-tso-enable": "true"})
        made.restart_vswitchd()
        made.add_bridge(datapath_type="netdev")
        yield made


@pytest.mark.parametrize("selected", ["source and destination", "all"])
def test_checksums_that_are_filled_in_on_the_way(newer: Switch, selected: str) -> None:
    a = newer.add_host("a", with_ip=False, offloads=True)
    b, m = (newer.add_host(name, with_ip=False) for name in "bm")
    newer.learn(a, b)
    if selected == "all":
        newer.mirror("m", select_all=True, output=m)
    else:
        newer.mirror("m", src=[a], dst=[b], output=m)
    sent = [*kinds(a, b)]

    def play() -> list[bytes]:
        with Capture.of(m) as copies, machine(a) as sender:
            for frame, start, at in sent:
                sender.send(frame, start, at)
            copies.wait_quiet()
            return [kind_of(frame) for frame in copies.frames()]

    with SidecarProcess(newer) as tap:
        tap.native("m")
        native = play()
        tap.offload("m")
        offloaded = play()
    assert len(native) == len(set(native)) == len(sent)
    assert Counter(offloaded) == Counter(native)


def kind_of(frame: bytes) -> bytes:
    """What tells the kind of frame: its payload."""
    return frame[frame.rindex(b"<") :]


# What the host sends: the kernel cuts its super-packets behind the hook of its device.


SENT = 200_000
"""Bytes, more than a super-packet has."""


def sent_by_tcp(i: Host, b: Host) -> None:
    """More than a super-packet, from the host to a machine behind a port."""
    with b.ns.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((b.ip, 0))
        listener.listen()
        with i.ns.socket(socket.AF_INET, socket.SOCK_STREAM) as sender:
            sender.connect(listener.getsockname())
            receiver, _ = listener.accept()
            with receiver:
                sender.sendall(bytes(SENT))
                left = SENT
                while left:
                    left -= len(receiver.recv(min(left, 65536)))


@pytest.mark.parametrize("snaplen", [0, 100])
def test_the_hosts_super_packets_are_left_to_ovs(
    switch: Switch, tap: SidecarProcess, snaplen: int
) -> None:
    b, m = switch.add_host("b"), switch.add_host("m", with_ip=False)
    i = switch.add_internal("int0", with_ip=True)
    switch.set_columns("Interface", i.port, mtu_request=_MTU)
    switch.learn(b, i)
    if snaplen:
        switch.mirror("m1", src=[i], output=m, snaplen=snaplen)
        reason = "the mirror has a snaplen"
    else:
        switch.mirror("m1", src=[i], dst=[b], output=m)
        reason = "the mirror selects leaving packets, too"
    tap.wait_state("m1", "native")
    assert reason in (tap.reason("m1") or "")
    with Capture.of(m) as capture:
        sent_by_tcp(i, b)
        capture.wait_quiet(0.3)
        longest = max(map(len, capture.frames()))
        segments = [frame for frame in capture.frames() if len(frame) == longest]
    assert longest == (snaplen or _MTU + 14)
    assert len(segments) >= SENT // _MTU
