"""Ports whose device is not where the sidecar looks, or is another one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import sequenced
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.waiting import wait_for

KERNELS = os.environ.get("OVS_EBPF_TAP_DATAPATH") == "system"
FRAMES = 10
ELSEWHERE = "is not in this network namespace"
NAME = "int0"
MOVED = NAME if KERNELS else "eth0"
"""What the device is called elsewhere. The kernel's datapath finds a port by its device's name
(`ovs_vport_locate` in `net/openvswitch/vport.c`): of one that is renamed, Open vSwitch makes
another device (`bridge_delete_or_reconfigure_ports` in `vswitchd/bridge.c`)."""


@dataclass
class Moving:
    """A switch with an internal port that can be moved, mirrored by m1 or m1's output."""

    switch: Switch
    tap: SidecarProcess
    elsewhere: Netns
    hosts: dict[str, Host]

    def add_mirror(self, role: str) -> None:
        a, i, m = (self.hosts[name] for name in "aim")
        if role == "output":
            self.switch.mirror("m1", src=[a], output=i)
        else:
            chosen = ([i], []) if role == "src" else ([], [i])
            self.switch.mirror("m1", src=chosen[0], dst=chosen[1], output=m)

    def move(self) -> None:
        """As who makes a container's interface of it."""
        self.switch.ns.run("ip", "link", "set", NAME, "netns", self.elsewhere.path.name)
        self.elsewhere.run("ip", "link", "set", NAME, "name", MOVED)
        self.elsewhere.run("ip", "link", "set", MOVED, "up")
        self.hosts["i"] = replace(self.hosts["i"], ns=self.elsewhere, device=MOVED)

    def move_back(self) -> None:
        self.elsewhere.run("ip", "link", "set", MOVED, "down")
        self.elsewhere.run("ip", "link", "set", MOVED, "name", NAME)
        self.elsewhere.run("ip", "link", "set", NAME, "netns", self.switch.ns.path.name)
        self.switch.ns.run("ip", "link", "set", NAME, "up")
        self.hosts["i"] = replace(self.hosts["i"], ns=self.switch.ns, device=NAME)

    def copies(self, role: str) -> set[int]:
        """How often frames that the mirror selects are copied."""
        a, b, i, m = (self.hosts[name] for name in "abim")
        sender, receiver, output = {
            "src": (i, b, m),
            "dst": (b, i, m),
            "output": (a, b, i),
            "all": (a, b, m),
        }[role]
        sender.send([sequenced(sender, receiver, 2, 0)])  # Makes the flow.
        with Capture.of(output) as capture:
            sender.send(sequenced(sender, receiver, 1, n) for n in range(FRAMES))
            capture.wait_quiet(0.2)
            seen = capture.sequences(1)
        return {seen.count(n) for n in range(FRAMES)}

    def assert_copied_once(self, role: str) -> None:
        """Once the move that the row tells of is over."""
        wait_for(lambda: self.copies(role) == {1}, what="one copy of each")
        assert self.copies(role) == {1}

    def assert_native(self, role: str) -> None:
        self.tap.wait_settled("m1", "native")
        assert f"device {NAME} {ELSEWHERE}" in (self.tap.reason("m1") or "")
        self.assert_copied_once(role)

    def assert_offloaded(self, role: str) -> None:
        self.tap.wait_state("m1", "offloaded")
        wait_for(lambda: self.tap.reason("m1") is None, what="no reason")
        self.assert_copied_once(role)


@pytest.fixture
def moving(switch: Switch, idle: SidecarProcess) -> Iterator[Moving]:
    with Netns("elsewhere") as elsewhere:
        hosts = {name: switch.add_host(name, with_ip=False) for name in "abm"}
        hosts["i"] = switch.add_internal(NAME)
        switch.ns.run("ip", "link", "set", NAME, "up")
        switch.learn(hosts["a"], hosts["b"], hosts["i"])
        yield Moving(switch, idle, elsewhere, hosts)


def programs_on(switch: Switch, device: str) -> int:
    """How many programs of ours are on a device's hooks."""
    tcx = switch.ns.call(lambda: bpf.count_tcx(socket.if_nametoindex(device)))
    return tcx + switch.ns.run("tc", "qdisc", "show", "dev", device).stdout.count("clsact")


@pytest.mark.parametrize("role", ["src", "dst", "output"])
def test_an_internal_port_that_is_moved(moving: Moving, role: str) -> None:
    """Open vSwitch goes on with its device, wherever that is."""
    moving.tap.start()
    moving.add_mirror(role)
    moving.assert_offloaded(role)
    moving.move()
    moving.assert_native(role)
    moving.move_back()
    moving.assert_offloaded(role)
    assert "Traceback" not in moving.tap.log()


@pytest.mark.skipif(KERNELS, reason="the kernel's datapath gives the port up for the other device")
@pytest.mark.parametrize("kind", ["veth", "tap"])
def test_another_device_has_the_name(moving: Moving, kind: str) -> None:
    """It gets no hook, also after the row tells of its ifindex; one of another kind never does."""
    moving.add_mirror("src")
    moving.tap.start()
    moving.assert_offloaded("src")
    moving.move()
    moving.assert_native("src")
    index = add_stranger(moving.switch, kind)
    moving.switch.wait_until("Interface", NAME, f"ifindex={index}")
    moving.assert_native("src")
    assert "another one has its name" in (moving.tap.reason("m1") or "")
    if kind == "veth":
        moving.tap.stop()
        moving.tap.start()
        moving.assert_native("src")
    assert not programs_on(moving.switch, NAME)
    moving.switch.ns.run("ip", "link", "del", NAME)
    moving.move_back()
    moving.assert_offloaded("src")


def add_stranger(switch: Switch, kind: str) -> int:
    if kind == "tap":
        switch.ns.run("ip", "tuntap", "add", NAME, "mode", "tap")
    else:
        switch.ns.run("ip", "link", "add", NAME, "type", "veth", "peer", "name", "strange0")
    switch.ns.run("ip", "link", "set", NAME, "up")
    return switch.ns.call(lambda: socket.if_nametoindex(NAME))


def test_a_sidecar_that_starts_when_it_has_moved(moving: Moving) -> None:
    moving.move()
    moving.switch.wait_until("Interface", NAME, "ifindex=0")
    hosts = moving.hosts
    moving.switch.mirror("m1", src=[hosts["i"], hosts["a"]], output=hosts["m"])
    moving.tap.start()
    moving.assert_native("src")
    moving.move_back()
    moving.assert_offloaded("src")


@pytest.mark.skipif(KERNELS, reason="the kernel's datapath lets go of a device that leaves")
def test_another_device_has_the_name_of_a_ports_that_was_moved(moving: Moving) -> None:
    """Open vSwitch sends to the one, and receives from neither, until it is restarted."""
    switch, a = moving.switch, moving.hosts["a"]
    moving.add_mirror("output")
    moving.tap.start()
    moving.assert_offloaded("output")
    switch.ns.run("ip", "link", "set", a.port, "netns", moving.elsewhere.path.name)
    moving.tap.wait_settled("m1", "native")
    assert f"device {a.port} {ELSEWHERE}" in (moving.tap.reason("m1") or "")
    switch.ns.run("ip", "link", "add", a.port, "up", "type", "veth", "peer", "name", "strange0")
    index = switch.ns.call(lambda: socket.if_nametoindex(a.port))
    switch.wait_until("Interface", a.port, f"ifindex={index}")
    moving.tap.wait_settled("m1", "native")
    assert not programs_on(switch, a.port)
    switch.restart_vswitchd()
    moving.tap.wait_state("m1", "offloaded")
    wait_for(lambda: programs_on(switch, a.port) > 0, what="a hook")


def test_a_device_that_open_vswitch_does_not_take(moving: Moving) -> None:
    """What goes through it, no mirror of the bridge selects."""
    switch, hosts = moving.switch, moving.hosts
    switch.vsctl("del-port", "br0", NAME)
    add_stranger(switch, "veth")
    switch.vsctl(
        "--no-wait", "add-port", "br0", NAME, "--", "set", "Interface", NAME, "type=internal"
    )
    switch.wait_until("Interface", NAME, "ofport=-1")
    switch.mirror("m1", select_all=True, output=hosts["m"])
    moving.tap.start()
    moving.assert_offloaded("all")
    assert not programs_on(switch, NAME)
