"""The time of day is set while mirrors copy and move: nothing that is decided goes by it.

It is the whole machine's: only an emulated one's is set, and no other test runs meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import EMULATED

pytestmark = [
    pytest.mark.vm,
    pytest.mark.alone,
    pytest.mark.skipif(not EMULATED, reason="it would set this machine's clock"),
]

DAY = 86_400.0
STEPS = (DAY, -2 * DAY, -60.0, 3600.0)
"""Seconds."""

RATE = 1_000


@pytest.fixture
def step() -> Iterator[Callable[[float], None]]:
    """Sets the clock by that many seconds; at the end it is right again."""
    ahead = time.time() - time.monotonic()
    yield lambda seconds: time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)
    time.clock_settime(time.CLOCK_REALTIME, time.monotonic() + ahead)


@pytest.fixture
def trio(switch: Switch, tap: SidecarProcess) -> tuple[Host, Host, Host]:
    """Two hosts that talk, and one that sees each frame once, which both their ports select."""
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    switch.mirror("m", src=[a], dst=[b], output=m)
    tap.wait_state("m", "offloaded")
    return a, b, m


def test_copies_are_the_same(trio: tuple[Host, Host, Host], step: Callable[[float], None]) -> None:
    a, b, m = trio
    with Capture.of(m) as copies, Stream(a, b, rate=RATE) as stream:
        for seconds in STEPS:
            time.sleep(0.3)
            step(seconds)
        time.sleep(0.3)
        sent = stream.stop()
        copies.wait_quiet()
        assert copies.sequences(stream.stream_id) == list(range(sent))


def test_moves_end(
    tap: SidecarProcess, trio: tuple[Host, Host, Host], step: Callable[[float], None]
) -> None:
    """And none of them loses a copy."""
    a, b, m = trio
    with Capture.of(m) as copies, Stream(a, b, rate=RATE) as stream:
        for seconds in STEPS:
            tap.set_mode("m", "native")
            step(seconds)
            tap.wait_state("m", "native")
            tap.set_mode("m", "offload")
            step(-seconds)
            tap.wait_state("m", "offloaded")
        sent = stream.stop()
        copies.wait_quiet()
        assert set(copies.sequences(stream.stream_id)) == set(range(sent))
