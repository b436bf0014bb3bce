"""Devices that have the names of others: Open vSwitch goes on with those that it has opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from faults.guests import index_of, make_device, remove_device
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import sequenced
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.observe.packet_sockets import open_sockets

pytestmark = pytest.mark.skipif(
    os.environ.get("OVS_EBPF_TAP_DATAPATH") == "system",
    reason="the kernel's datapath opens what has the name now",
)

FRAMES = 10
NOT_OPEN = "device a0 is not the one that Open vSwitch has open"


@dataclass
class Naming:
    """A switch with ports a0, b0 and m0, the output, and a stranger's device x0."""

    switch: Switch
    tap: SidecarProcess
    a: Host
    b: Host
    m: Host
    x: Host

    def rename(self, *pairs: tuple[str, str]) -> None:
        for old, new in pairs:
            self.switch.ns.run("ip", "link", "set", old, "down")
            self.switch.ns.run("ip", "link", "set", old, "name", new)
        for _, new in pairs:
            self.switch.ns.run("ip", "link", "set", new, "up", check=False)

    def swap(self) -> None:
        self.rename(("a0", "z0"), ("b0", "a0"), ("z0", "b0"))

    def usurp(self) -> None:
        self.rename(("a0", "old0"), ("x0", "a0"))

    def copies(self, sender: Host, receiver: Host) -> int:
        """How many of its frames are copied."""
        sender.send([sequenced(sender, receiver, 2, 0)])  # Makes the flow.
        with Capture.of(self.m) as capture:
            sender.send(sequenced(sender, receiver, 1, n) for n in range(FRAMES))
            capture.wait_quiet(0.2)
            return len(capture.sequences(1))

    def all_copies(self) -> tuple[int, int, int]:
        """Of what a sends to b, b to a, and the stranger to b."""
        a, b, x = self.a, self.b, self.x
        return self.copies(a, b), self.copies(b, a), self.copies(x, b)

    def copies_of_both(self, state: str) -> tuple[int, int, int]:
        """Those that the sidecar has made, if they are what Open vSwitch makes."""
        self.tap.wait_settled("m1", state)
        ours = self.all_copies()
        self.tap.set_mode("m1", "native")
        self.tap.wait_settled("m1", "native")
        assert self.all_copies() == ours
        self.tap.set_mode("m1", "offload")
        self.tap.wait_settled("m1", state)
        return ours

    def programs(self, device: str) -> int:
        return self.switch.ns.call(lambda: bpf.count_tcx(index_of(self.switch, device)))


@pytest.fixture
def naming(switch: Switch, idle: SidecarProcess) -> Iterator[Naming]:
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    x = switch.add_host("x", bridge=None, with_ip=False)
    switch.learn(a, b)
    idle.start()
    yield Naming(switch, idle, a, b, m, x)
    assert "Traceback" not in idle.log()


def test_a_stranger_has_the_name_of_a_source(naming: Naming) -> None:
    """What the port receives is copied on, and nothing of the stranger's."""
    naming.switch.mirror("m1", src=[naming.a], output=naming.m)
    naming.tap.wait_settled("m1", "offloaded")
    naming.usurp()
    assert naming.copies_of_both("offloaded") == (FRAMES, 0, 0)
    assert not naming.programs("a0")
    naming.rename(("a0", "x0"), ("old0", "a0"))
    assert naming.copies_of_both("offloaded") == (FRAMES, 0, 0)


@pytest.mark.parametrize("role", ["dst", "output"])
def test_a_stranger_has_the_name_of_a_port_that_is_sent_to(naming: Naming, role: str) -> None:
    """It is sent what the port would be."""
    if role == "dst":
        naming.switch.mirror("m1", dst=[naming.a], output=naming.m)
    else:
        naming.switch.mirror("m1", src=[naming.b], output=naming.a)
    naming.tap.wait_settled("m1", "offloaded")
    naming.usurp()
    naming.tap.wait_settled("m1", "native")
    assert NOT_OPEN in (naming.tap.reason("m1") or "")
    naming.copies_of_both("native")
    assert not naming.programs("a0")
    naming.rename(("a0", "x0"), ("old0", "a0"))
    naming.tap.wait_settled("m1", "offloaded")
    assert naming.tap.reason("m1") is None


def test_a_sidecar_that_starts_after_that(naming: Naming) -> None:
    """Which device was the port's, it can't know; that this one is not, it can."""
    naming.switch.mirror("m1", src=[naming.a], output=naming.m)
    naming.usurp()
    make_old(naming.switch)
    naming.tap.restart()
    assert naming.copies_of_both("native") == (FRAMES, 0, 0)
    assert NOT_OPEN in (naming.tap.reason("m1") or "")
    assert not naming.programs("a0")
    naming.switch.restart_vswitchd()
    naming.tap.wait_state("m1", "offloaded")
    assert naming.copies(naming.x, naming.b) == FRAMES


def make_old(switch: Switch) -> None:
    """Has ovs-vswitchd look as if it had started long ago."""
    os.utime(switch.rundir / "ovs-vswitchd.pid", (0, 0))


@pytest.mark.parametrize("role", ["src", "dst"])
def test_two_ports_have_swapped_their_names(naming: Naming, role: str) -> None:
    chosen = [naming.a] if role == "src" else []
    others = [naming.a] if role == "dst" else []
    naming.switch.mirror("m1", src=chosen, dst=others, output=naming.m)
    naming.tap.wait_settled("m1", "offloaded")
    naming.swap()
    state = "offloaded" if role == "src" else "native"
    expected = (FRAMES, 0, 0) if role == "src" else (0, FRAMES, 0)
    assert naming.copies_of_both(state) == expected
    naming.swap()
    naming.copies_of_both("offloaded")
    naming.swap()
    naming.switch.restart_vswitchd()  # Each port has the other's device then.
    naming.tap.wait_settled("m1", "offloaded")
    wait_for(lambda: naming.programs("a0") > 0, what="a hook")
    expected = (0, FRAMES, 0) if role == "src" else (FRAMES, 0, 0)
    assert naming.copies_of_both("offloaded") == expected


@pytest.mark.parametrize("watched", [False, True])
def test_a_source_made_anew(naming: Naming, watched: bool) -> None:
    """Also where somebody else has a socket there, like tcpdump."""
    switch, a = naming.switch, naming.a
    switch.mirror("m1", src=[a], output=naming.m)
    naming.tap.wait_settled("m1", "offloaded")
    remove_device(switch, a)
    make_device(switch, a)
    with switch.ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300) as other:
        if watched:
            other.bind(("a0", 3))
        assert naming.copies_of_both("native") == (0, 0, 0)
        assert NOT_OPEN in (naming.tap.reason("m1") or "")
        assert not naming.programs("a0")
    switch.restart_vswitchd()
    naming.tap.wait_state("m1", "offloaded")
    assert naming.copies_of_both("offloaded") == (FRAMES, 0, 0)


def test_sockets_of_open_vswitch(switch: Switch) -> None:
    """They are told from others', and those of devices that are gone from all."""
    ns: Netns = switch.ns
    for name in "ab":
        switch.add_host(name, with_ip=False)
    indexes = [index_of(switch, name) for name in ("a0", "b0")]
    with ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300) as other:
        other.bind(("lo", 3))
        before = ns.call(open_sockets)
        assert before is not None
        assert sorted(before.values()) == sorted(indexes)
        ns.run("ip", "link", "del", "a0")
        after = ns.call(open_sockets)
        assert after is not None
        assert after.keys() == before.keys()
        assert sorted(after.values()) == [0, indexes[1]]
