"""The sidecar's loop stands still, while packets pass and the database changes under it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from faults.fault import Fault
from faults.testbed import Testbed
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import udp_frame
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.switch import Host
from ovs_ebpf_tap.model.desired import NATIVE, OFFLOADED

STALL = float(os.environ.get("OVS_EBPF_TAP_STALL", "10"))
"""Seconds that it stands still."""


@contextlib.contextmanager
def stalled(ground: Testbed, seconds: float) -> Iterator[None]:
    """The sidecar stands still for so long, and for as long as the block takes."""
    process = ground.tap.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + seconds
    try:
        yield
        time.sleep(max(0.0, end - time.monotonic()))
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("bare_ground", attachments(), indirect=True)
def test_the_loop_stands_still(ground: Testbed, fault: Fault) -> None:
    with fault(f"loop stalled for {STALL:g} s, {ground.attach}"), stalled(ground, STALL):
        pass


@pytest.mark.parametrize("bare_ground", attachments(), indirect=True)
@pytest.mark.parametrize("state", [NATIVE, OFFLOADED])
def test_a_mirror_is_moved_meanwhile(ground: Testbed, fault: Fault, state: str) -> None:
    other = OFFLOADED if state == NATIVE else NATIVE
    ground.move("m", other)
    ground.wait_right()
    with fault(f"moved to {state} while stalled, {ground.attach}"), stalled(ground, 1.0):
        ground.move("m", state)


def test_the_database_changes_meanwhile(ground: Testbed, fault: Fault) -> None:
    """Mirrors come, go, change and move, and ports go, while another mirror is not touched."""
    switch, b, c, monitor = ground.switch, ground.b, ground.c, ground.other_monitor
    for name in ("removed", "turned", "moved", "bereft"):
        switch.mirror(name, src=[b, c], output=monitor)
        ground.wanted[name] = OFFLOADED
    ground.wait_right()
    move = ("--id=@port", "get", "Port", ground.monitor.port, "--")
    with fault(f"database changed while stalled, {ground.attach}"), stalled(ground, STALL):
        switch.remove_mirror("removed")
        del ground.wanted["removed"]
        ground.move("turned", NATIVE)
        switch.vsctl(*move, "set", "Mirror", "moved", "output_port=@port")
        switch.mirror("added", src=[b], output=monitor)
        switch.vsctl("del-port", c.port)
        # Those with the output of one that is Open vSwitch's are, too.
        ground.wanted["added"] = ground.wanted["bereft"] = NATIVE
    assert copies(ground, monitor) == 1
    assert copies(ground, ground.monitor) == 1


def copies(ground: Testbed, monitor: Host) -> int:
    """How often a frame of `b` is copied there."""
    with Capture.of(monitor) as capture:
        frame = udp_frame(ground.b, ground.a, b"copied")
        ground.b.send([frame])
        capture.wait_quiet(0.2)
        return capture.multiset()[frame]
