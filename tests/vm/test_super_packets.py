"""What a VM leaves to its device: super-packets, and checksums that are not filled in.

The kernel's datapath forwards them as they are, and so do copies; the userspace datapath does
not take them. Those of a flow that is not known pass Open vSwitch's process, which has them cut
into frames and their checksums filled in: so what is compared is what the frames carry.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import ethernet, ipv4, tcp, udp, vlans, with_tags
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        os.environ.get("OVS_EBPF_TAP_DATAPATH") != "system", reason="for the kernel's datapath"
    ),
]

# Of <linux/if_packet.h> and <linux/virtio_net.h>.
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_NEEDS_CSUM = 1
_GSO_NONE, _GSO_TCPV4 = 0, 1
_VNET_HEADER = struct.Struct("=BBHHHH")

_IP_TCP, _IP_UDP = 6, 17
_SEGMENT = 1400
LENGTHS = (10, 1000, 3000, 60_000)
_TRANSPORT = 34  # where its header begins, behind Ethernet's and IPv4's


def pseudo_sum(source: str, destination: str, protocol: int, length: int) -> int:
    """What a sender leaves in the checksum's place: the sum over the pseudo header."""
    data = socket.inet_aton(source) + socket.inet_aton(destination)
    total: int = sum(struct.unpack("!4H", data)) + protocol + length
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class SuperPacketSender:
    """Sends frames of a host as its kernel would, with what is left to the device."""

    def __init__(self, host: Host, to: Host) -> None:
        self._host, self._to = host, to
        self._socket = host.ns.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._socket.bind((host.device, 0))

    def close(self) -> None:
        self._socket.close()

    def _send(self, protocol: int, segment: bytes, at: int, gso: int, tags: list[int]) -> None:
        """`at` is where in the segment its checksum is."""
        left = pseudo_sum(self._host.ip, self._to.ip, protocol, len(segment))
        segment = segment[:at] + struct.pack("!H", left) + segment[at + 2 :]
        packet = ipv4(self._host.ip, self._to.ip, protocol, segment)
        frame = with_tags(ethernet(self._to.mac, self._host.mac, 0x0800, packet), tags)
        start = _TRANSPORT + 4 * len(tags)
        headers = start + 20 if gso else 0
        size = _SEGMENT if gso else 0
        header = _VNET_HEADER.pack(_NEEDS_CSUM, gso, headers, size, start, at)
        self._socket.send(header + frame)

    def tcp(self, length: int, *tags: int) -> None:
        """A segment of TCP with `length` bytes, a super-packet if that takes several frames."""
        segment = tcp(self._host.ip, self._to.ip, 1000, 2000, b"t" * length, seq=length)
        gso = _GSO_TCPV4 if length > _SEGMENT else _GSO_NONE
        self._send(_IP_TCP, segment, 16, gso, list(tags))

    def udp(self, length: int, *tags: int) -> None:
        """A datagram of `length` bytes."""
        segment = udp(self._host.ip, self._to.ip, 1000, 2000, b"u" * length)
        self._send(_IP_UDP, segment, 6, _GSO_NONE, list(tags))


Carried = dict[tuple[tuple[int, ...], int], list[tuple[int, bytes]]]
"""By VLANs and protocol: where runs of bytes begin, and the bytes."""


def carried(frames: Counter[bytes]) -> Carried:
    """What frames carry; bytes that come twice are no part of a run."""
    pieces: dict[tuple[tuple[int, ...], int], list[tuple[int, bytes]]] = {}
    for frame in frames.elements():
        tags = tuple(vlans(frame))
        packet = frame[14 + 4 * len(tags) :]
        segment = packet[20 : int.from_bytes(packet[2:4], "big")]
        protocol = packet[9]
        is_tcp = protocol == _IP_TCP
        start = int.from_bytes(segment[4:8], "big") if is_tcp else 0
        piece = (start, segment[20 if is_tcp else 8 :])
        pieces.setdefault((tags, protocol), []).append(piece)
    return {key: _joined(sorted(each)) for key, each in pieces.items()}


def _joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    runs: list[tuple[int, bytes]] = []
    for start, data in pieces:
        if runs and runs[-1][0] + len(runs[-1][1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + data)
        else:
            runs.append((start, data))
    return runs


def play(sender: SuperPacketSender, where: list[Host]) -> dict[str, Carried]:
    """What arrives at hosts of a frame of each kind."""
    captures = {host.name: Capture.of(host) for host in where}
    for capture in captures.values():
        capture.start()
    # Flows may have ended since the last one: those of a new one would be cut into frames.
    for tags in ((), (5,)):
        sender.tcp(1, *tags)
        sender.udp(1, *tags)
    for capture in captures.values():
        capture.wait_quiet(0.1)
        capture.clear()
    for tags in ((), (5,)):
        for length in LENGTHS:
            sender.tcp(length, *tags)
        sender.udp(500, *tags)
    for capture in captures.values():
        capture.wait_quiet(0.3)
        capture.stop()
    return {name: carried(capture.multiset()) for name, capture in captures.items()}


@pytest.fixture
def trio(switch: Switch) -> tuple[Host, Host, Host]:
    a, b, m = (switch.add_host(name, with_ip=False, offloads=True) for name in "abm")
    switch.learn(a, b)
    return a, b, m


@pytest.mark.parametrize("attach", attachments())
def test_copies_are_as_native(switch: Switch, trio: tuple[Host, Host, Host], attach: str) -> None:
    a, b, m = trio
    switch.mirror("m1", src=[a, b], dst=[a, b], output=m)
    sender = SuperPacketSender(a, b)
    try:
        with SidecarProcess(switch, "--attach", attach) as tap:
            found = {}
            for mode, state in (("native", "native"), ("offload", "offloaded")):
                tap.set_mode("m1", mode)
                tap.wait_settled("m1", state)
                found[state] = play(sender, [b, m])
    finally:
        sender.close()
    sizes = sorted(LENGTHS)
    for name, expected in found["native"].items():
        for tags in ((), (5,)):
            assert [len(data) for _, data in expected[tags, _IP_TCP]] == sizes, name
            assert [len(data) for _, data in expected[tags, _IP_UDP]] == [500], name
        assert found["offloaded"][name] == expected, name
