"""Tunnel ports that a mirror selects, on the kernel's datapath: copies are Open vSwitch's.

One device of the host carries the frames of all tunnel ports of a kind. So there are several
ports of each, whose options overlap, and peers that send and take frames by the kernel's own
tunnels.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.differences import difference
from ovs_ebpf_tap.lab.frames import Address, parse_seq, sequenced
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.waiting import wait_for

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        os.environ.get("OVS_EBPF_TAP_DATAPATH") != "system", reason="for the kernel's datapath"
    ),
]

EVERYBODY = Address("ff:ff:ff:ff:ff:ff", "10.0.0.255")
KNOWN = (
    "{class=0x102,type=0x80,len=4}->tun_metadata0",
    "{class=0x103,type=1,len=4}->tun_metadata1",
)
OPTIONS = {
    "unknown": ("99990101 00000000",),
    "unknown, critical": ("99998101 00000000",),
    "known, critical": ("01028001 00010002",),
    "known": ("01030101 00000000",),
    "known, critical, of another length": ("01028002 00010002 00000000",),
    "known, of another length": ("01030100",),
    "critical, of another class": ("01038001 00010002",),
    "known, and an unknown one": ("01028001 00010002", "99990100"),
    "known, and an unknown, critical one": ("01028001 00010002", "99998000"),
    "many": 62 * ("99990100",),
    "many, the last one critical": (*(62 * ("99990100",)), "99998000"),
}
"""The Geneve options of a frame, by what they are to a bridge with `KNOWN`."""
TAKEN = {"unknown", "known, critical", "known", "known, and an unknown one", "many"}
OPTION_STREAM = 300
"""The stream of the first of those."""

FRAMES = 4
"""In each direction of each tunnel."""


@dataclass(frozen=True)
class Tunnel:
    """A tunnel to a peer: the switch's port, and the peer's device."""

    port: str
    options: str
    """Of the switch's port."""
    peer: int
    device: str
    """The rest of the arguments of `ip link add DEVICE type`."""
    tag: int | None = None


def _vxlan(key: int, peer: int) -> str:
    return f"vxlan id {key} remote 172.16.{peer}.1 local 172.16.{peer}.2 dstport 4789 noudpcsum"


TUNNELS = (
    Tunnel("vx1", "type=vxlan options:remote_ip=172.16.1.2 options:key=10", 1, _vxlan(10, 1)),
    Tunnel("vx2", "type=vxlan options:remote_ip=172.16.1.2 options:key=20", 1, _vxlan(20, 1), 5),
    # What has a narrower port goes there, be it mirrored or not.
    Tunnel("vx3", "type=vxlan options:remote_ip=172.16.2.2 options:key=flow", 2, _vxlan(40, 2)),
    Tunnel("vx4", "type=vxlan options:remote_ip=172.16.2.2 options:key=30", 2, _vxlan(30, 2)),
    Tunnel(
        "gn1",
        "type=geneve options:remote_ip=172.16.1.2 options:key=10",
        1,
        "geneve id 10 remote 172.16.1.1",
    ),
    Tunnel(
        "gn2",
        "type=geneve options:remote_ip=flow options:key=flow",
        2,
        "geneve id 11 remote 172.16.2.1",
    ),
    Tunnel(
        "gr1",
        "type=gre options:remote_ip=172.16.1.2 options:key=7",
        1,
        "gretap remote 172.16.1.1 local 172.16.1.2 key 7",
    ),
    # To another address of the switch's machine.
    Tunnel(
        "gr3",
        "type=gre options:remote_ip=172.16.1.2 options:local_ip=172.16.1.3 options:key=7",
        1,
        "gretap remote 172.16.1.3 local 172.16.1.2 key 7",
    ),
    Tunnel(
        "gr2",
        "type=gre options:remote_ip=172.16.1.2",
        1,
        "gretap remote 172.16.1.1 local 172.16.1.2",
    ),
    Tunnel(
        "v6",
        "type=vxlan options:remote_ip=fd00:3::2 options:key=10",
        3,
        "vxlan id 10 remote fd00:3::1 local fd00:3::2 dstport 4789 udp6zerocsumrx",
    ),
)


class Underlay:
    """The peers, which the switch's machine reaches by networks of its own."""

    def __init__(self, switch: Switch, stack: ExitStack) -> None:
        self.hosts: dict[str, Host] = {}
        peers = {}
        for number in (1, 2, 3):
            peers[number] = stack.enter_context(Netns(f"peer{number}"))
            self._join(switch, peers[number], number)
        for index, tunnel in enumerate(TUNNELS):
            self._add(switch, peers[tunnel.peer], tunnel, index)

    def _join(self, switch: Switch, peer: Netns, number: int) -> None:
        ours, theirs = f"under{number}", "eth0"
        switch.ns.run(*f"ip link add {ours} type veth peer name {theirs} netns {peer.name}".split())
        for ns, device, last in ((switch.ns, ours, 1), (peer, theirs, 2)):
            if number == 3:
                ns.run("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=0")
                ns.run(*f"ip addr add fd00:3::{last}/64 dev {device} nodad".split())
            else:
                for each in (last, last + 2):
                    ns.run(*f"ip addr add 172.16.{number}.{each}/24 dev {device}".split())
            ns.run("ip", "link", "set", device, "up")

    def _add(self, switch: Switch, peer: Netns, tunnel: Tunnel, index: int) -> None:
        mac = f"02:00:00:00:01:{index:02x}"
        peer.run(
            *f"ip link add {tunnel.port} address {mac} type {tunnel.device}".split(),
        )
        peer.run("ip", "link", "set", tunnel.port, "up")
        switch.vsctl(
            *f"add-port br0 {tunnel.port} -- set Interface {tunnel.port}".split(),
            *tunnel.options.split(),
            *(() if tunnel.tag is None else ("--", "set", "Port", tunnel.port, "tag=5")),
        )
        assert switch.get("Interface", tunnel.port, "error") == "[]"
        self.hosts[tunnel.port] = Host(
            tunnel.port, peer, tunnel.port, tunnel.port, mac, f"10.0.1.{index + 1}"
        )


@dataclass(frozen=True)
class Lab:
    switch: Switch
    a: Host
    """A machine at the switch, in no VLAN."""
    b: Host
    """One in the VLAN of a tunnel."""
    m: Host
    peers: dict[str, Host]

    def learn(self) -> None:
        """Has the switch learn all addresses."""
        hosts = (*self.peers.values(), self.a, self.b)
        for host in hosts:
            host.send([sequenced(host, EVERYBODY, 300, 0)])
        wait_for(
            lambda: all(host.mac in self.switch.appctl("fdb/show", "br0") for host in hosts),
            what="br0 learning its hosts",
        )

    def send_options(self) -> None:
        """Sends frames with Geneve options, a stream of each kind.

        Where no flow matches options, flows in the kernel tell them by their length alone, and
        what becomes of a frame depends on the one before it. So all lengths differ.
        """
        peer = self.peers["gn1"]
        with peer.ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number, options in enumerate(OPTIONS.values()):
                body = bytes.fromhex("".join(options))
                if len(options) <= 2:
                    body = struct.pack("!HBB", 0x9999, 0, 3 * number) + bytes(12 * number) + body
                critical = any(bytes.fromhex(each)[2] & 0x80 for each in options)
                header = struct.pack("!BBHI", len(body) // 4, critical << 6, 0x6558, 10 << 8)
                for n in range(2):  # The first one has no flow in the kernel yet.
                    frame = sequenced(peer, self.a, OPTION_STREAM + number, n)
                    sender.sendto(header + body + frame, ("172.16.1.1", 6081))

    def play(self) -> tuple[Counter[bytes], Counter[bytes]]:
        """Sends frames each way, and floods; returns what arrived, and what was copied."""
        everyone = [*self.peers.values(), self.a, self.b]
        with ExitStack() as stack:
            arriving = [stack.enter_context(host.capture()) for host in everyone]
            copies = stack.enter_context(self.m.capture())
            for number, peer in enumerate(self.peers.values()):
                host = self.b if peer.name == "vx2" else self.a
                peer.send([sequenced(peer, EVERYBODY, 100 + number, 0)])
                peer.send([sequenced(peer, host, number, n) for n in range(FRAMES)])
                host.send([sequenced(host, peer, 50 + number, n) for n in range(FRAMES)])
            for host in (self.a, self.b):
                host.send([sequenced(host, EVERYBODY, 200, 0)])
            self.send_options()
            copies.wait_quiet(0.2)
            return sum((_ours(each) for each in arriving), Counter()), _ours(copies)


def _ours(capture: Capture) -> Counter[bytes]:
    found = capture.multiset().items()
    return Counter({frame: n for frame, n in found if parse_seq(frame) is not None})


def _options(frames: Counter[bytes]) -> set[str]:
    """Which of `OPTIONS` the frames had."""
    streams = {found[0] for frame in frames if (found := parse_seq(frame)) is not None}
    return {name for n, name in enumerate(OPTIONS, OPTION_STREAM) if n in streams}


def _without_options(frames: Counter[bytes]) -> Counter[bytes]:
    return Counter({frame: n for frame, n in frames.items() if not _options(Counter([frame]))})


@pytest.fixture
def lab(switch: Switch) -> Iterator[Lab]:
    with ExitStack() as stack:
        a, m = (switch.add_host(name, with_ip=False) for name in "am")
        b = switch.add_host("b", with_ip=False, tag=5)
        yield Lab(switch, a, b, m, Underlay(switch, stack).hosts)


SOURCES = ("vx1", "vx2", "vx3", "gr3", "gn1", "gn2", "gr1", "v6")
DESTINATIONS = ("vx1", "vx2", "gr3", "gr1", "gr2", "v6")
EVERYTHING = tuple(tunnel.port for tunnel in TUNNELS)
SELECTIONS = (
    (SOURCES, ()),
    ((), DESTINATIONS),
    (("vx1", "gr1", "a0"), ("vx1", "gr2", "a0")),
    (EVERYTHING, EVERYTHING),
)


def select(lab: Lab, src: Sequence[str], dst: Sequence[str]) -> None:
    gets = [word for name in {*src, *dst} for word in ("--", f"--id=@{name}", "get", "Port", name)]
    lab.switch.vsctl(
        *gets,
        *("--", "set", "Mirror", "m1", f"select_all={str(src == EVERYTHING).lower()}"),
        f"select_src_port=[{','.join(f'@{name}' for name in src)}]",
        f"select_dst_port=[{','.join(f'@{name}' for name in dst)}]",
    )


@pytest.mark.parametrize("attach", attachments())
def test_copies_are_as_native(lab: Lab, attach: str) -> None:
    lab.switch.mirror("m1", output=lab.m, external_ids={"ebpf-tap-mode": "native"})
    with SidecarProcess(lab.switch, "--attach", attach) as tap:
        tap.wait_settled("m1", "native")
        lab.learn()
        lab.switch.ofctl("add-tlv-map", "br0", ",".join(KNOWN))
        for src, dst in SELECTIONS:
            tap.native("m1")
            select(lab, src, dst)
            lab.switch.appctl("revalidator/purge")
            arrived, expected = lab.play()
            if "gn1" in src:
                assert _options(expected) == TAKEN
            assert expected.total() >= FRAMES * len({*src, *dst})
            tap.offload("m1")
            tap.wait_settled("m1", "offloaded")
            arrived_then, copies = lab.play()
            assert not (found := difference(arrived, arrived_then)), found
            assert not (found := difference(expected, copies)), f"{src} {dst}: {found}"
        # It makes the devices of tunnels anew, and knows no options any more.
        lab.switch.restart_vswitchd()
        lab.learn()
        tap.wait_settled("m1", "offloaded")
        _, copies = lab.play()
        found = difference(_without_options(expected), _without_options(copies))
        assert not found, found
        # Of the same peer's packets, flows may give others the same key.
        select(lab, (), ("vx4",))
        tap.wait_settled("m1", "native")
        assert "vx4, and port vx3 may send with the same key" in (tap.reason("m1") or "")
