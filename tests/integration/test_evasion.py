"""Whatever a machine says beside its frames, they are copied and delivered as natively.

The kernel keeps some fields of a packet across a veth pair, so a program on a machine's own end of
the pair can set them for the hooks on ours; and a packet socket sets a packet's type.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from played import Sent, play

from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.lab.differences import difference
from ovs_ebpf_tap.lab.frames import ETH_8021AD, ETH_8021Q, ETH_IPV4, Tag, ethernet
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.names import unique_name
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.sidecar_process import BPFFS, SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.tap import TapDevice

EXPERIMENTAL = 0x88B5

# Fields of `struct __sk_buff`: their places.
FIELDS = {
    "tc_index": 44,
    "mark": 8,
    "priority": 32,
    "queue_mapping": 12,
    **{f"cb{n}": 48 + 4 * n for n in range(5)},
}
SO_MARK = 36
HEADER = 14  # bytes of an Ethernet header


def obeying() -> bytes:
    """The code of a program that sets a packet's fields to what its payload begins with."""
    room = 4 * len(FIELDS)
    begin = (
        (0xBF, 0x16, 0, 0),  # r6 = skb
        (0xB7, 2, 0, HEADER),
        (0xBF, 0xA3, 0, 0),  # r3 = the frame pointer - room
        (0x07, 3, 0, -room),
        (0xB7, 4, 0, room),
        (0x85, 0, 0, 26),  # bpf_skb_load_bytes
        (0x55, 0, 2 * len(FIELDS), 0),  # A shorter frame says nothing.
    )
    stores: list[tuple[int, int, int, int]] = []
    for number, place in enumerate(FIELDS.values()):
        stores += [(0x61, 0xA2, 4 * number - room, 0), (0x63, 0x26, place, 0)]
    end = ((0xB7, 0, 0, -1), (0x95, 0, 0, 0))  # The packet goes on.
    return b"".join(struct.pack("=BBhi", *each) for each in (*begin, *stores, *end))


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    """The pin of that program."""
    path = BPFFS / unique_name("obeying")
    fd = bpf.load_classifier(obeying(), "obeying")
    try:
        bpf.pin(fd, path)
        yield path
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


def obey(ns: Netns, device: str, program: Path) -> None:
    """Has what is sent through the device carry the fields that it asks for."""
    ns.run("tc", "qdisc", "add", "dev", device, "clsact")
    how = ("bpf", "direct-action", "object-pinned", str(program))
    ns.run("tc", "filter", "add", "dev", device, "egress", "pref", "1", *how)


def asking() -> list[dict[str, int]]:
    """Fields that have been a mark of ours once, look like one, or are anything."""
    any_of = random.Random(14)
    word = 0xFFFFFFFF
    return [
        *({"tc_index": value} for value in (1, 0x7FFF, *range(0x8000, 0x8004), 0xBFFF, 0xFFFF)),
        *({"mark": value} for value in (1, 0x8000, word)),
        *({"priority": value} for value in (7, 0x8001, word)),
        *({"queue_mapping": value} for value in (1, 64, 0xFFFE)),
        *({f"cb{n}": value} for n in range(5) for value in (1, word)),
        {f"cb{n}": word for n in range(5)},
        {f"cb{n}": n for n in range(5)},
        *({f"cb{n}": any_of.getrandbits(32) for n in range(5)} for _ in range(4)),
        dict.fromkeys(FIELDS, 0x8001),
    ]


def frames(source: Host | TapDevice, to: Host | TapDevice) -> list[bytes]:
    """One for each of these, each of another content."""
    values = [[fields.get(name, 0) for name in FIELDS] for fields in asking()]
    return [
        ethernet(to.mac, source.mac, EXPERIMENTAL, struct.pack("=9I", *each) + bytes([n]) * 250)
        for n, each in enumerate(values)
    ]


@dataclass
class EvasionTestbed:
    """Machines that ask for fields: behind a veth pair, a bridge, an internal port and a tap.

    `b` is an honest one, `m` and `n` monitor.
    """

    switch: Switch
    askers: list[Host | TapDevice]
    b: Host
    m: Host
    n: Host

    @property
    def machines(self) -> list[Host | TapDevice]:
        """The askers that are not the host itself."""
        return [each for each in self.askers if each.name != "int0"]

    @property
    def everyone(self) -> list[Host | TapDevice]:
        return [*self.askers, self.b, self.m, self.n]

    def sent(self) -> Sent:
        """What each of them asks for, and some frames to each."""
        return [
            *((each, frames(each, self.b)) for each in self.askers),
            *((self.b, frames(self.b, each)[:3]) for each in self.askers),
        ]


@pytest.fixture(scope="module")
def ground(program: Path) -> Iterator[EvasionTestbed]:
    """For all tests."""
    with Switch() as switch:
        switch.add_bridge()
        a, b, m, n = (switch.add_host(name, with_ip=False) for name in "abmn")
        c = add_behind_bridge(switch, "c")
        i = switch.add_internal("int0")
        t = switch.add_tap("tap0")
        for each in (a, b, c, i):
            obey(each.ns, each.device, program)
        switch.learn(a, b, c, i, t)
        yield EvasionTestbed(switch, [a, c, i, t], b, m, n)


def add_behind_bridge(switch: Switch, name: str) -> Host:
    """A host whose veth pair ends in a Linux bridge, which another pair joins to the switch."""
    host = switch.add_host(name, bridge=None, with_ip=False)
    bridge, inner, port = f"qbr{name}", f"qvb{name}", f"qvo{name}"
    switch.ns.run("ip", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
    switch.ns.run("ip", "link", "add", port, "type", "veth", "peer", "name", inner)
    for device in (host.port, inner):
        switch.ns.run("ip", "link", "set", device, "master", bridge)
    for device in (bridge, inner, port):
        switch.ns.run("ip", "link", "set", device, "up")
    switch.vsctl("add-port", "br0", port)
    return Host(host.name, host.ns, host.device, port, host.mac, host.ip)


MIRRORS = {
    # A plain copy of what arrives: no hook receives copies.
    "arrivals": lambda g: [{"src": g.askers, "output": g.m}],
    # What leaves, in a VLAN of the output: its hook receives copies and changes them.
    "departures": lambda g: [{"dst": [g.b], "output": g.m, "snaplen": 200}],
    # Copies of copies in a ring, of which some are changed.
    "ring": lambda g: [
        {"src": g.machines, "dst": [g.n], "output": g.m, "snaplen": 200},
        {"dst": [g.b, g.m], "output": g.n, "snaplen": 200},
    ],
}


@contextlib.contextmanager
def mirrors(ground: EvasionTestbed, name: str) -> Iterator[list[str]]:
    made = []
    try:
        for number, values in enumerate(MIRRORS[name](ground), start=1):
            made.append(f"m{number}")
            ground.switch.mirror(made[-1], **values)
        yield made
    finally:
        for each in made:
            ground.switch.remove_mirror(each)


def compare(
    sidecar: SidecarProcess, names: list[str], everyone: list[Host | TapDevice], sent: Sent
) -> dict[str, Counter[bytes]]:
    """Asserts that everyone gets what he does natively, and returns that."""
    sidecar.native(*names)
    native = play(everyone, sent)
    sidecar.offload(*names)
    offloaded = play(everyone, sent)
    status = sidecar.status()
    assert {each["state"] for each in status} == {"offloaded"}
    for place, expected in native.items():
        found = difference(expected, offloaded[place])
        assert not found, f"at {place}: {found}\n{status}"
    return native


@pytest.fixture(scope="module", params=attachments())
def sidecar(request: pytest.FixtureRequest, ground: EvasionTestbed) -> Iterator[SidecarProcess]:
    with SidecarProcess(ground.switch, "--attach", request.param) as started:
        yield started


@pytest.mark.parametrize(
    "name", ["arrivals", "departures", pytest.param("ring", marks=pytest.mark.vm)]
)
def test_fields_of_a_packet_are_of_no_consequence(
    ground: EvasionTestbed, sidecar: SidecarProcess, name: str
) -> None:
    with mirrors(ground, name) as names:
        sent = ground.sent()
        native = compare(sidecar, names, ground.everyone, sent)
    expected: Counter[bytes] = Counter()
    for sender, each in sent:
        if sender is not ground.b:
            expected.update(each)
    assert native["b"] == expected
    assert native["m"].total() >= native["b"].total()


@dataclass(frozen=True)
class Liar:
    """Sends through a host's device, with a type that the frames do not have."""

    host: Host
    type: int

    def send(self, frames: Iterable[bytes]) -> int:
        sent = 0
        with self.host.ns.socket(socket.AF_PACKET, socket.SOCK_RAW) as opened:
            for frame in frames:
                opened.sendto(frame, (self.host.device, self.type))
                sent += 1
        return sent


@pytest.mark.parametrize("attach", attachments())
def test_the_type_is_what_the_frame_says(switch: Switch, attach: str) -> None:
    """Not what the sender says that it is: OVS reads the frame."""
    a, b = (switch.add_host(name, with_ip=False) for name in "ab")
    trunk = switch.add_host("m", mtu=1000, with_ip=False)
    access = switch.add_host("n", with_ip=False, tag=40)
    i, o = switch.add_internal("int0"), switch.add_internal("int1", tag=40)
    for each in (i, o):  # Else Open vSwitch gives them the least of the bridge's.
        switch.set_columns("Interface", each.port, mtu_request=1500)
    switch.learn(a, b, i)
    switch.mirror("m1", src=[a, i], output=trunk, select_vlan=[20])
    switch.mirror("m2", src=[a], output=access, snaplen=200)
    switch.mirror("m3", src=[i], output=o)
    sent: list[tuple[Liar, list[bytes]]] = []
    for said in (ETH_IPV4, ETH_8021Q, ETH_8021AD):
        sent += [(Liar(each, said), lies(each, b, said)) for each in (a, i)]
        # One by one: a frame that a device refuses takes others with it.
        sent += [(Liar(i, said), [frame]) for frame in border(i, b, said)]
    with SidecarProcess(switch, "--attach", attach) as sidecar:
        compare(sidecar, ["m1", "m2", "m3"], [a, b, trunk, access, i, o], sent)


IN_VLAN_20 = ([Tag(20)], [Tag(20), Tag(7)], [Tag(20, tpid=ETH_8021AD)])


def lies(source: Host, to: Host, said: int) -> list[bytes]:
    """Frames of several tags, short and long; `said` tells them from others."""
    tags: list[list[Tag]] = [[], [Tag(21)], *IN_VLAN_20]
    return [sized(source, to, said, each, length) for each in tags for length in (100, 400)]


def border(source: Host, to: Host, said: int) -> list[bytes]:
    """Frames about as long as a device with an MTU of 1000 takes."""
    lengths = (1014, 1018, 1022)
    return [sized(source, to, said, each, length) for each in IN_VLAN_20 for length in lengths]


def sized(source: Host, to: Host, said: int, tags: Sequence[Tag], length: int) -> bytes:
    payload = struct.pack("=I", said)
    return ethernet(to.mac, source.mac, EXPERIMENTAL, payload, tags).ljust(length, b"x")


@pytest.mark.vm
def test_what_an_ifb_sends_is_not_seen_to_arrive(switch: Switch) -> None:
    """A machine's own ifb device has the kernel pass over all that looks at arriving packets.

    The kernel's datapath forwards them. They are copied where they leave, not where they arrive.
    """
    a, b, m, n = (switch.add_host(name, with_ip=False) for name in "abmn")
    switch.learn(a, b)
    switch.mirror("m1", src=[a], output=m)
    switch.mirror("m2", dst=[b], output=n)
    through_ifb(a)
    sent: Sent = [(Marked(a), frames(a, b))]
    count = len(sent[0][1])
    with SidecarProcess(switch) as sidecar:
        sidecar.offload("m1", "m2")
        got = play([b, m, n], sent)
    passed = count if os.environ.get("OVS_EBPF_TAP_DATAPATH") == "system" else 0
    assert {name: each.total() for name, each in got.items()} == {"b": passed, "m": 0, "n": passed}


def through_ifb(host: Host) -> None:
    """Has packets with a mark go through an ifb device, and from there out without one."""
    code = (
        (0xB7, 0, 0, 0),
        (0x61, 0x12, FIELDS["mark"], 0),
        (0x55, 2, 3, Marked.MARK),
        (0xB7, 2, 0, 0),
        (0x63, 0x21, FIELDS["mark"], 0),
        (0xB7, 0, 0, -1),  # The action runs.
        (0x95, 0, 0, 0),
    )
    path = BPFFS / unique_name("marked")
    fd = bpf.load_classifier(b"".join(struct.pack("=BBhi", *each) for each in code), "marked")
    try:
        bpf.pin(fd, path)
        host.ns.run("ip", "link", "add", "ifb0", "type", "ifb")
        host.ns.run("ip", "link", "set", "ifb0", "up")
        host.ns.run("tc", "qdisc", "add", "dev", host.device, "clsact")
        action = ("action", "mirred", "egress", "redirect", "dev", "ifb0")
        which = ("dev", host.device, "egress", "pref", "1", "bpf", "object-pinned", str(path))
        host.ns.run("tc", "filter", "add", *which, *action)
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Marked:
    """Sends packets with a mark."""

    MARK: ClassVar[int] = 5
    host: Host

    def send(self, frames: Iterable[bytes]) -> int:
        sent = 0
        with self.host.ns.socket(socket.AF_PACKET, socket.SOCK_RAW) as opened:
            opened.bind((self.host.device, 0))
            opened.setsockopt(socket.SOL_SOCKET, SO_MARK, self.MARK)
            for frame in frames:
                sent += bool(opened.send(frame))
        return sent
