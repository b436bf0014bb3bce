"""Copies that the kernel does not cut where they are, and the device where they are cut."""

from __future__ import annotations

import os
import socket

import pytest

from ovs_ebpf_tap.apply.cutter import PREFIX
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, cutters
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.waiting import wait_for

SNAPLEN = 200
PORT = 4789


@pytest.fixture
def trio(switch: Switch) -> tuple[Host, Host, Host]:
    a, b, m = (switch.add_host(name, offloads=True) for name in "abm")
    switch.learn(a, b)
    switch.mirror("m1", src=[a], output=m, snaplen=SNAPLEN)
    return a, b, m


def test_encapsulated_packets_are_cut(switch: Switch, trio: tuple[Host, Host, Host]) -> None:
    a, b, m = trio
    options = ("type", "vxlan", "id", "5", "dstport", str(PORT), "remote", b.ip)
    a.ns.run("ip", "link", "add", "vx", *options, "dev", a.device)
    a.ns.run("ip", "address", "add", "192.168.9.1/24", "dev", "vx")
    a.ns.run("ip", "link", "set", "vx", "up")
    for ip, mac, device in (("192.168.9.2", b.mac, "vx"), (b.ip, b.mac, a.device)):
        a.ns.run("ip", "neighbour", "replace", ip, "lladdr", mac, "dev", device)
    sender = a.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found = {}
    with SidecarProcess(switch) as tap:
        for mode, state in (("native", "native"), ("offload", "offloaded")):
            tap.set_mode("m1", mode)
            tap.wait_settled("m1", state)
            capture = Capture.of(m)
            capture.start()
            for _ in range(5):
                sender.sendto(bytes(1000), ("192.168.9.2", 9))
            capture.wait_quiet(0.3)
            capture.stop()
            found[state] = sum(
                n for frame, n in capture.multiset().items() if len(frame) == SNAPLEN
            )
    sender.close()
    assert found == {"native": 5, "offloaded": 5}


@pytest.mark.skipif(os.environ.get("OVS_EBPF_TAP_DATAPATH") == "system", reason="same there")
def test_the_cutter_is_there_while_it_is_needed(
    switch: Switch, trio: tuple[Host, Host, Host]
) -> None:
    with SidecarProcess(switch) as tap:
        tap.wait_settled("m1", "offloaded")
        made = cutters(switch)
        assert made
        switch.ns.run("ip", "link", "delete", min(made, key=len))
        wait_for(lambda: cutters(switch) == made, 5, "another cutter")
        addresses = switch.ns.run("ip", "-6", "address").stdout
        assert PREFIX not in addresses
        switch.vsctl("clear", "Mirror", "m1", "snaplen")
        wait_for(lambda: not cutters(switch), 5, "no cutter")
        switch.vsctl("set", "Mirror", "m1", "snaplen=64")
        wait_for(lambda: cutters(switch) == made, 5, "the cutter")
        tap.kill()
        assert cutters(switch) == made
        done = tap.run("release", "--all")
        assert not done.returncode, done.stderr
        assert not cutters(switch)
