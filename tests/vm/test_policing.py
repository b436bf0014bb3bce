"""OVS's ingress policing goes on working on the ports that we hook.

It needs the kernel's police action, and OVS's kernel datapath, whose packets it applies to.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.sidecar import Tap
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.traffic import Stream

LIMIT = 1_000_000  # bit/s
SIZE = 1400  # bytes
SECONDS = 2.0


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


def expect_policed(switch: Switch, tap: Tap, attach: str) -> None:
    """TCX leaves the ingress qdisc to OVS; clsact excludes it, so the mirror stays native."""
    if attach != "clsact":
        tap.wait_state("m1", "offloaded")
    else:
        tap.wait_state("m1", "native")
        assert "ingress_policing" in (tap.reason("m1") or "")


@pytest.mark.parametrize("attach", attachments())
def test_policed_before(
    switch: Switch, trio: tuple[Host, Host, Host], attach: str, figure: Callable[[str], None]
) -> None:
    a, b, m = trio
    free = rate(a, b)
    police(switch, a.port, LIMIT)
    before = rate(a, b)
    switch.mirror("m1", src=[a], dst=[a], output=m)
    with Tap(switch, "--attach", attach) as tap:
        expect_policed(switch, tap, attach)
        after = rate(a, b)
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
    switch.mirror("m1", src=[a], dst=[a], output=m)
    with Tap(switch, "--attach", attach) as tap:
        tap.wait_state("m1", "offloaded")
        free = rate(a, b)
        police(switch, a.port, LIMIT)
        expect_policed(switch, tap, attach)
        time.sleep(1)
        later = rate(a, b)
        police(switch, a.port, 0)
        tap.wait_state("m1", "offloaded")
        again = rate(a, b)
    figure(f"Mbit/s free {free / 1e6:.1f}, policed later {later / 1e6:.2f}, off {again / 1e6:.1f}")
    assert free > 5 * LIMIT
    assert later < 2 * LIMIT
    assert later > LIMIT / 4
    assert again > 5 * LIMIT
