"""The sidecar ends and starts, over and over, or twice at once."""

from __future__ import annotations

import time

import pytest

from faults.fault import Fault
from faults.testbed import Testbed
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.model.desired import NATIVE, OFFLOADED

TIMES = 20


@pytest.mark.parametrize("bare_ground", attachments(), indirect=True)
def test_killed_many_times(ground: Testbed, fault: Fault) -> None:
    with fault(f"killed {TIMES} times, {ground.attach}"):
        for _ in range(TIMES):
            ground.tap.kill()
            ground.tap.start()
    assert hook_count(ground.switch) == 1


@pytest.mark.parametrize("bare_ground", attachments(), indirect=True)
def test_killed_many_times_as_it_moves_a_mirror(ground: Testbed, fault: Fault) -> None:
    """Wherever it happens to be."""
    with fault(f"killed {TIMES} times as it moved a mirror, {ground.attach}") as during:
        during.unattended()
        for number in range(TIMES):
            ground.move("m", NATIVE if number % 2 == 0 else OFFLOADED)
            time.sleep(number * 0.004)
            ground.tap.kill()
            during.ended()
            ground.tap.start()
    assert hook_count(ground.switch) == 1


def test_two_start_at_once(bare_ground: Testbed, fault: Fault) -> None:
    bare_ground.tap.start()
    bare_ground.mirror()
    with fault("two start at once, 3 times"):
        for _ in range(3):
            bare_ground.tap.kill()
            start_two(bare_ground.tap)
    assert hook_count(bare_ground.switch) == 1


def start_two(tap: SidecarProcess) -> None:
    """One of them runs, the other is refused."""
    known = len(tap.log())
    pair = []
    for _ in range(2):
        tap.start(ready=False)
        assert tap.process is not None
        pair.append(tap.process)
    wait_for(lambda: any(each.poll() is not None for each in pair), what="one refused")
    wait_for(lambda: "event=ready" in tap.log()[known:], what="the other ready")
    (tap.process,) = (each for each in pair if each.poll() is None)
    assert "another ovs-ebpf-tap runs" in tap.log()[known:]


def test_the_next_starts_before_the_last_has_ended(bare_ground: Testbed, fault: Fault) -> None:
    bare_ground.tap.start()
    bare_ground.mirror()
    with fault("next started before the last has ended, 3 times"):
        for _ in range(3):
            start_overlapping(bare_ground.tap)
    assert hook_count(bare_ground.switch) == 1


def start_overlapping(tap: SidecarProcess) -> None:
    """Starts one, again and again, while the last is told to end, until it is let."""
    last = tap.process
    assert last is not None
    last.terminate()
    known = len(tap.log())

    def ready() -> bool:
        if tap.process is None or tap.process.poll() is not None:
            tap.start(ready=False)
        return "event=ready" in tap.log()[known:]

    tap.process = None
    wait_for(ready, what="the next ready")
    assert last.wait(patience(5)) == 0
