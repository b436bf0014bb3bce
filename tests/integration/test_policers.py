"""Other programs' policers and filters beside hooks: mirrors copy what Open vSwitch gets.

A kernel without the police action serves, too: a filter that diverts what it matches stands for
one that drops it. `tests/vm/test_policing.py` has the real ones.
"""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import SEQUENCE_PORT, sequenced
from ovs_ebpf_tap.lab.kernel import has_tcx
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.model.desired import CLSACT, TCX
from ovs_ebpf_tap.observe import notifications
from ovs_ebpf_tap.observe.devices import DeviceMonitor

PASSING, TAKEN = 1, 2
COUNT = 20


def divert(switch: Switch, device: str, direction: str, priority: int) -> None:
    """Has stream `TAKEN` leave through a device that leads nowhere, not go on."""
    what = ("match", "ip", "dport", str(SEQUENCE_PORT + TAKEN), "0xffff")
    where = ("dev", device, direction, "protocol", "ip", "pref", str(priority), "u32", *what)
    switch.ns.run(
        "tc", "filter", "add", *where, *["action", "mirred", "egress", "redirect", "dev", "nowhere"]
    )


def copies(a: Host, b: Host, m: Host) -> dict[int, int]:
    """How many frames of each stream are copied, of as many."""
    with Capture.of(m) as capture:
        for stream in (PASSING, TAKEN):
            a.send([sequenced(a, b, stream, number) for number in range(COUNT)])
        capture.wait_quiet(0.3)
        return {stream: len(capture.sequences(stream)) for stream in (PASSING, TAKEN)}


@pytest.fixture
def nowhere(switch: Switch) -> None:
    switch.ns.run("ip", "link", "add", "nowhere", "up", "type", "veth", "peer", "name", "n1")
    switch.ns.run("ip", "link", "set", "n1", "up")


def wait_for_reason(tap: SidecarProcess, mirror: str, part: str) -> None:
    wait_for(lambda: part in (tap.reason(mirror) or ""), what=f"a reason with {part}")


@pytest.mark.skipif(not has_tcx(), reason="no TCX hooks on this kernel")
@pytest.mark.usefixtures("nowhere")
def test_what_the_host_sends_is_diverted_behind_a_tcx_hook(switch: Switch) -> None:
    a = switch.add_internal("i1")
    b, m = (switch.add_host(name, with_ip=False) for name in "bm")
    switch.learn(a, b)
    switch.mirror("m1", src=[a], output=m)
    with SidecarProcess(switch, "--attach", TCX) as tap:
        tap.wait_state("m1", "offloaded")
        switch.ns.run("tc", "qdisc", "add", "dev", "i1", "clsact")
        divert(switch, "i1", "egress", 50)
        tap.wait_settled("m1", "native")
        wait_for_reason(tap, "m1", "port i1: filter 50 (u32, redirect) on egress of another")
        assert copies(a, b, m) == {PASSING: COUNT, TAKEN: 0}
        switch.ns.run("tc", "filter", "del", "dev", "i1", "egress", "pref", "50")
        tap.wait_state("m1", "offloaded")
        assert copies(a, b, m) == {PASSING: COUNT, TAKEN: COUNT}


@pytest.mark.usefixtures("nowhere")
def test_what_arrives_is_diverted_before_a_clsact_hook(switch: Switch) -> None:
    """Of the userspace datapath, whose packet sockets come before that. It is there at first."""
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    switch.ns.run("tc", "qdisc", "add", "dev", a.port, "clsact")
    divert(switch, a.port, "ingress", 50)
    switch.mirror("m1", src=[a], output=m)
    native = copies(a, b, m)
    with SidecarProcess(switch, "--attach", CLSACT) as tap:
        kept = native[TAKEN] == COUNT
        tap.wait_settled("m1", "native" if kept else "offloaded")
        if kept:
            wait_for_reason(tap, "m1", "keeps packets from its hook")
        assert copies(a, b, m) == native
        switch.ns.run("tc", "filter", "del", "dev", a.port, "ingress", "pref", "50")
        tap.wait_state("m1", "offloaded")
        assert copies(a, b, m) == {PASSING: COUNT, TAKEN: COUNT}


# A clsact qdisc excludes an ingress qdisc.


def limit(switch: Switch, device: str) -> None:
    """Sets a limit as Proxmox does, at the end of plugging a tap in and while a machine runs.

    `tap_rate_limit` of its PVE::Network; raises CommandError if one of those fails that may not.
    """
    switch.ns.run("tc", "filter", "del", "dev", device, "parent", "ffff:", check=False)
    switch.ns.run("tc", "qdisc", "del", "dev", device, "ingress", check=False)
    switch.ns.run("tc", "qdisc", "add", "dev", device, "handle", "ffff:", "ingress")
    matched = ("prio", "50", "u32", "match", "u32", "0", "0", "flowid", ":1")
    switch.ns.run(
        "tc", "filter", "add", "dev", device, "parent", "ffff:", "protocol", "all", *matched
    )


def test_a_new_device_is_left_to_others_for_a_while(switch: Switch) -> None:
    m = switch.add_host("m", with_ip=False)
    switch.add_host("b", with_ip=False)
    with SidecarProcess(switch, "--attach", CLSACT, "--clsact-delay", "6") as tap:
        switch.mirror("m1", select_all=True, output=m)
        tap.wait_state("m1", "offloaded")
        switch.add_tap("tap1")
        wait_for_reason(tap, "m1", "port tap1: its device is new, and another program may add")
        tap.wait_settled("m1", "native")
        limit(switch, "tap1")
        wait_for_reason(tap, "m1", "port tap1: an ingress qdisc excludes clsact")
        wait_for_reason(tap, "m1", "it has filter 50 (u32) on ingress")
        switch.ns.run("tc", "qdisc", "del", "dev", "tap1", "ingress")
        wait_for_reason(tap, "m1", "port tap1: its device has lost its ingress qdisc, and")
        limit(switch, "tap1")
        switch.ns.run("tc", "qdisc", "del", "dev", "tap1", "ingress")
        tap.wait_state("m1", "offloaded", 20)


def test_older_devices_are_not_waited_for(switch: Switch) -> None:
    a, m = (switch.add_host(name, with_ip=False) for name in "am")
    with SidecarProcess(switch, "--attach", CLSACT, "--clsact-delay", "600") as tap:
        switch.mirror("m1", src=[a], dst=[a], output=m)
        tap.wait_state("m1", "offloaded")
        # Those of Open vSwitch's own are policed by nobody.
        i = switch.add_internal("i1")
        switch.mirror("m2", src=[i], output=m)
        tap.wait_state("m2", "offloaded")
        assert "exclude each other" in tap.log()


# Notifications.


@pytest.fixture
def ns() -> Iterator[Netns]:
    with Netns("netlink") as made:
        for name in ("d0", "d1"):
            made.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"p{name}")
            made.run("tc", "qdisc", "add", "dev", name, "clsact")
        yield made


@pytest.mark.parametrize("many", [False, True])
def test_filters_on_other_devices_wake_nobody(ns: Netns, many: bool) -> None:
    """Unless there are too many to be told apart."""

    def change(device: str) -> bool:
        where = ("dev", device, "ingress", "pref", "9", "protocol", "all")
        ns.run("tc", "filter", "add", *where, "u32", "match", "u32", "0", "0")
        ns.run("tc", "filter", "del", *where)
        told = bool(select.select([monitor], [], [], 0)[0])
        ns.call(monitor.run)
        return told

    monitor = ns.call(DeviceMonitor.open)
    try:
        index = monitor.devices["d0"].ifindex
        others = range(1000, 1000 + notifications.MOST_DEVICES) if many else ()
        monitor._foreign._qdiscs.update(dict.fromkeys(others, "clsact"))
        ns.call(lambda: monitor.follow(frozenset({index, *others})))
        assert change("d0")
        assert change("d1") == many
    finally:
        monitor.close()
