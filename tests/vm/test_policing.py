"""Policing goes on working on mirrored ports, and what it drops is not copied.

It needs the kernel's police action, and OVS's kernel datapath, whose packets it applies to.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import sequenced
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.tap import TapDevice
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.model.desired import CLSACT

pytestmark = pytest.mark.vm

LIMIT = 1_000_000  # bit/s
SIZE = 1400  # bytes
SECONDS = 2.0
COUNT = 400
"""Frames sent at once: more than pass a limit."""
LIMITED = ("rate", "100kbit", "burst", "15k", "mtu", "64kb")


def rate(a: Host, b: Host) -> float:
    """What gets from one to the other, in bit/s, of as much as it can send."""
    with Capture.of(b) as arrived, Stream(a, b, rate=0, size=SIZE):
        time.sleep(SECONDS)
        count = len(arrived.frames())
    return count * SIZE * 8 / SECONDS


def police(switch: Switch, port: str, limit: int) -> None:
    switch.vsctl(
        "set",
        "Interface",
        port,
        f"ingress_policing_rate={limit // 1000}",
        f"ingress_policing_burst={limit // 10_000}",
    )


@pytest.fixture
def trio(switch: Switch) -> tuple[Host, Host, Host]:
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    return a, b, m


def expect_policed(tap: SidecarProcess) -> None:
    """A TCX hook comes before the policer, and clsact excludes it: the mirror is native."""
    tap.wait_settled("m1", "native")
    assert "port a0 has ingress_policing" in (tap.reason("m1") or "")


def wait_for_reason(tap: SidecarProcess, part: str) -> None:
    wait_for(lambda: part in (tap.reason("m1") or ""), what=f"a reason with {part}")


def passed_and_copied(a: Host | TapDevice, b: Host, m: Host) -> tuple[list[int], list[int]]:
    """The numbers of the frames that get to the other, and of those that are copied."""
    with Capture.of(b) as arrived, Capture.of(m) as copies:
        # The first of a flow wait for ovs-vswitchd; of many at once, it would lose some.
        a.send([sequenced(a, b, 1, COUNT, length=SIZE)])
        arrived.wait_quiet(0.1)
        copies.wait_quiet(0.1)
        arrived.clear()
        copies.clear()
        a.send([sequenced(a, b, 1, number, length=SIZE) for number in range(COUNT)])
        arrived.wait_quiet(0.1)
        copies.wait_quiet(0.1)
        return arrived.sequences(1), copies.sequences(1)


def settle(switch: Switch) -> None:
    """Waits until ovs-vswitchd has heard of changed devices.

    It removes others' ingress qdiscs of these (`netdev_linux_set_policing` in
    `lib/netdev-linux.c`, also where the rate is 0).
    """
    switch.set_columns("Bridge", "br0", external_ids={"settled": "yes"})
    switch.vsctl("remove", "Bridge", "br0", "external_ids", "settled")


def assert_exact(a: Host | TapDevice, b: Host, m: Host, *, limited: bool) -> None:
    """Whether a limit is in force, and exactly what passes it is copied."""
    passed, copied = passed_and_copied(a, b, m)
    assert (len(passed) < COUNT) == limited
    assert copied == passed


@pytest.mark.parametrize("attach", attachments())
def test_policed_before(
    switch: Switch, trio: tuple[Host, Host, Host], attach: str, figure: Callable[[str], None]
) -> None:
    a, b, m = trio
    free = rate(a, b)
    police(switch, a.port, LIMIT)
    before = rate(a, b)
    switch.mirror("m1", src=[a], output=m)
    with SidecarProcess(switch, "--attach", attach) as tap:
        expect_policed(tap)
        after = rate(a, b)
        assert_exact(a, b, m, limited=True)
    figure(f"Mbit/s free {free / 1e6:.1f}, policed {before / 1e6:.2f}, and us {after / 1e6:.2f}")
    assert free > 5 * LIMIT
    assert before < 2 * LIMIT
    assert after < 2 * LIMIT
    assert after > LIMIT / 4


@pytest.mark.parametrize("attach", attachments())
def test_policed_later(
    switch: Switch, trio: tuple[Host, Host, Host], attach: str, figure: Callable[[str], None]
) -> None:
    a, b, m = trio
    switch.mirror("m1", src=[a], output=m)
    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.wait_state("m1", "offloaded")
        free = rate(a, b)
        police(switch, a.port, LIMIT)
        expect_policed(tap)
        time.sleep(1)
        later = rate(a, b)
        assert_exact(a, b, m, limited=True)
        police(switch, a.port, 0)
        tap.wait_state("m1", "offloaded")
        assert_exact(a, b, m, limited=False)
        again = rate(a, b)
    figure(f"Mbit/s free {free / 1e6:.1f}, policed later {later / 1e6:.2f}, off {again / 1e6:.1f}")
    assert free > 5 * LIMIT
    assert later < 2 * LIMIT
    assert later > LIMIT / 4
    assert again > 5 * LIMIT


# Other programs.


@pytest.mark.parametrize("attach", attachments())
@pytest.mark.parametrize("qdisc", ["ingress", "clsact"])
def test_policed_by_another_program(
    switch: Switch, trio: tuple[Host, Host, Host], attach: str, qdisc: str
) -> None:
    a, b, m = trio
    settle(switch)
    switch.ns.run("tc", "qdisc", "add", "dev", a.port, qdisc)
    filters = ("tc", "filter", "add", "dev", a.port, "ingress", "protocol", "all")
    everything = ("matchall", "action")
    switch.mirror("m1", src=[a], output=m)
    with SidecarProcess(switch, "--attach", attach) as tap:
        if (attach, qdisc) != (CLSACT, "ingress"):
            tap.wait_state("m1", "offloaded")
            assert_exact(a, b, m, limited=False)
        # A filter of ours comes before this one, and a TCX program before all.
        switch.ns.run(*filters, "pref", "60000", *everything, "police", *LIMITED, "drop")
        tap.wait_settled("m1", "native")
        wait_for_reason(tap, "filter 60000 (matchall, police 100000 bit/s) on ingress")
        assert_exact(a, b, m, limited=True)
        switch.ns.run("tc", "filter", "del", "dev", a.port, "ingress", "pref", "60000")
        switch.ns.run(*filters, "pref", "50", *everything, "drop")
        if (attach, qdisc) == (CLSACT, "clsact"):  # It comes before ours.
            tap.wait_state("m1", "offloaded")
        else:
            wait_for_reason(tap, "filter 50 (matchall, drop) on ingress")
        assert passed_and_copied(a, b, m) == ([], [])
        switch.ns.run("tc", "qdisc", "del", "dev", a.port, qdisc)
        tap.wait_state("m1", "offloaded")
        assert_exact(a, b, m, limited=False)


def limit(switch: Switch, device: str, *, limited: bool = True) -> None:
    """Sets a limit as Proxmox does, at the end of plugging a tap in and while a machine runs.

    `tap_rate_limit` of its PVE::Network; raises CommandError if one of those fails that may not.
    """
    matching = ("parent", "ffff:", "protocol", "all", "prio", "50", "u32")
    switch.ns.run("tc", "filter", "del", "dev", device, *matching, check=False)
    switch.ns.run("tc", "qdisc", "del", "dev", device, "ingress", check=False)
    if limited:
        switch.ns.run("tc", "qdisc", "add", "dev", device, "handle", "ffff:", "ingress")
        every = ("match", "u32", "0", "0", "police", *LIMITED, "drop", "flowid", ":1")
        switch.ns.run("tc", "filter", "add", "dev", device, *matching, *every)


@pytest.mark.parametrize("attach", attachments())
def test_a_machine_is_plugged_in_and_limited(
    switch: Switch, trio: tuple[Host, Host, Host], attach: str
) -> None:
    _, b, m = trio
    with SidecarProcess(switch, "--attach", attach, "--clsact-delay", "30") as tap:
        switch.mirror("m1", select_all=True, output=m)
        tap.wait_state("m1", "offloaded")
        machine = switch.add_tap("tap1")
        settle(switch)
        limit(switch, "tap1")
        tap.wait_settled("m1", "native")
        wait_for_reason(tap, "filter 50 (u32, police 100000 bit/s) on ingress")
        assert_exact(machine, b, m, limited=True)
        for limited in (True, False):
            limit(switch, "tap1", limited=limited)
            assert_exact(machine, b, m, limited=limited)
        tap.wait_state("m1", "offloaded")
        assert_exact(machine, b, m, limited=False)
        tap.native("m1")
        settle(switch)
        limit(switch, "tap1")
        assert_exact(machine, b, m, limited=True)
