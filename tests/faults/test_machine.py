"""Faults of the machine: no room on disks, no file descriptors, a clock that is set."""

from __future__ import annotations

import ast
import contextlib
import itertools
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ovs_ebpf_tap
from faults.fault import Fault
from faults.guests import LATE, await_copies, guest, make_device, remove_device, reopen
from faults.test_device_faults import EVENTS, make_events
from faults.testbed import Testbed
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count
from ovs_ebpf_tap.lab.waiting import patience, wait_for

PACKAGE = Path(ovs_ebpf_tap.__path__[0])

# Disks.


def start_with_mounts(tap: SidecarProcess, script: str, ready: bool = True) -> None:
    """Starts the sidecar in a mount namespace of its own, after a shell's commands there."""
    own = (
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        f'set -e; {script}; exec "$@"',
        "sh",
    )
    with tap.log_file.open("a") as log:
        tap.process = tap.switch.ns.popen(
            *own,
            *tap.command("run", *tap.options),
            stderr=log,
            stdout=log,
            env={"PYTHONPATH": str(PACKAGE.parent)},
        )
    if ready:
        wait_for(lambda: "event=ready" in tap.log() or has_ended(tap), 60, "a ready sidecar")
        assert not has_ended(tap), tap.log()


def has_ended(tap: SidecarProcess) -> bool:
    return tap.process is None or tap.process.poll() is not None


def full(directory: Path, options: str = "size=16k") -> str:
    """Shell commands that mount a small file system there, and fill it."""
    return (
        f"mkdir -p {directory}; mount -t tmpfs -o {options} none {directory};"
        f" dd if=/dev/zero of={directory}/all bs=1k 2>/dev/null || :"
    )


def test_no_room_in_the_run_directory(bare_ground: Testbed, fault: Fault) -> None:
    """There is a lock and a socket, which take no room but their names."""
    tap = bare_ground.tap
    start_with_mounts(tap, full(tap.run_dir))
    bare_ground.mirror()
    with fault("no room in the run directory"):
        bare_ground.tap.native("m")
        bare_ground.tap.offload("m")
    assert tap.stop() == 0


def test_no_names_left_in_the_run_directory(bare_ground: Testbed) -> None:
    """Then it can't start: it says so in a line, and leaves nothing."""
    tap = bare_ground.tap
    bare_ground.forget_programs()
    names = f"mkdir -p {tap.run_dir}; mount -t tmpfs -o nr_inodes=2 none {tap.run_dir}"
    start_with_mounts(tap, names, ready=False)
    assert tap.process is not None
    assert tap.process.wait(patience(20)) == 1
    line, *others = tap.log().splitlines()
    assert not others, tap.log()
    assert line.startswith("ovs-ebpf-tap: ")
    assert "No space left" in line
    assert not tap.pin_dir.exists()
    assert hook_count(bare_ground.switch) == 0
    tap.process = None


def test_no_room_for_the_cache(bare_ground: Testbed, fault: Fault, tmp_path: Path) -> None:
    """What was compiled is made anew at the next start; no half of a file is left."""
    tap = bare_ground.tap
    cache = tmp_path / "cache"
    start_with_mounts(tap, f"{full(cache, 'size=64k')}; export CACHE_DIRECTORY={cache}")
    bare_ground.mirror()
    assert tap.process is not None
    seen = Path(f"/proc/{tap.process.pid}/root{cache}")
    assert [path.name for path in seen.rglob("*") if path.is_file()] == ["all"]
    with fault("no room for the cache"):
        pass


def test_no_room_for_the_log(bare_ground: Testbed, fault: Fault, tmp_path: Path) -> None:
    """Lines are lost, and nothing else."""
    tap = bare_ground.tap
    logs = tmp_path / "logs"
    start_with_mounts(tap, f"{full(logs)}; exec 2>>{logs}/log", ready=False)
    bare_ground.mirror()
    with fault("no room for the log"):
        bare_ground.tap.native("m")
        bare_ground.tap.offload("m")
    assert not has_ended(tap)


def test_nobody_reads_the_log(bare_ground: Testbed, fault: Fault) -> None:
    """The reader of the pipe that its standard error is has gone."""
    tap = bare_ground.tap
    reading, writing = os.pipe()
    tap.process = tap.switch.ns.popen(
        *tap.command("run", *tap.options), stderr=writing, env={"PYTHONPATH": str(PACKAGE.parent)}
    )
    os.close(writing)
    os.close(reading)
    bare_ground.mirror()
    with fault("nobody reads the log"):
        bare_ground.tap.native("m")
        bare_ground.tap.offload("m")
    assert not has_ended(tap)


# File descriptors.


@contextlib.contextmanager
def no_descriptors(tap: SidecarProcess) -> Iterator[None]:
    """The sidecar can open no more than it has open."""
    assert tap.process is not None
    pid = tap.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    there = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    lowest = next(number for number in itertools.count() if number not in there)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("bare_ground", attachments(), indirect=True)
def test_no_descriptors_for_moves(ground: Testbed, fault: Fault) -> None:
    with (
        fault(f"no descriptors while a mirror is to move, {ground.attach}"),
        no_descriptors(ground.tap),
    ):
        for mode in ("native", "offload"):
            ground.tap.set_mode("m", mode)
            time.sleep(0.3)
    assert "Traceback" not in ground.tap.log()


@pytest.mark.parametrize("bare_ground", attachments(), indirect=True)
def test_no_descriptors_for_a_device(ground: Testbed, fault: Fault) -> None:
    """A source's device is made anew, and a mirror comes; those that are there do not mind."""
    switch = ground.switch
    with guest(ground, "x") as x, guest(ground, "y") as y:
        ground.wanted["n"] = "offloaded"
        switch.mirror("n", src=[x], output=y)
        ground.wait_right()
        name = f"no descriptors while devices and mirrors come, {ground.attach}"
        with fault(name), no_descriptors(ground.tap):
            remove_device(switch, x)
            make_device(switch, x)
            reopen(switch, x)
            switch.mirror("o", src=[ground.b], output=y)
            ground.wanted["o"] = "offloaded"
            time.sleep(0.5)
        await_copies(ground, x, y)
        await_copies(ground, ground.b, y)
    assert "Traceback" not in ground.tap.log()


def test_no_descriptors_when_notifications_are_lost(ground: Testbed, fault: Fault) -> None:
    """It can't list the devices, and tries again."""
    switch = ground.switch
    with guest(ground, "x") as x:
        ground.wanted["n"] = "offloaded"
        switch.mirror("n", src=[x], output=ground.monitor)
        ground.wait_right()
        assert ground.tap.process is not None
        with fault("no descriptors when notifications are lost"):
            with no_descriptors(ground.tap):
                ground.tap.process.send_signal(signal.SIGSTOP)
                make_events(switch.ns, "x0", EVENTS)
                remove_device(switch, x)
                make_device(switch, x)
                reopen(switch, x)
                ground.tap.process.send_signal(signal.SIGCONT)
                wait_for(lambda: "pass failed" in ground.tap.log(), what="a failure")
            assert await_copies(ground, x, ground.monitor) < patience(LATE)


def test_no_descriptors_for_open_vswitch(ground: Testbed, fault: Fault) -> None:
    """Open vSwitch restarts, and can't be reached; others knock at the control socket."""
    switch = ground.switch
    socket_path = str(ground.tap.run_dir / "ovs-ebpf-tap.ctl")
    with (
        fault("no descriptors when Open vSwitch restarts"),
        no_descriptors(ground.tap),
        contextlib.ExitStack() as stack,
    ):
        for _ in range(3):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(socket_path)
        switch.stop_vswitchd()
        switch.restart_ovsdb()
        switch.start_vswitchd()
        time.sleep(0.5)
    assert "m" in switch.appctl("-t", socket_path, "status")


# Clocks.

_WALL = {"time", "time_ns", "now", "utcnow", "today", "gmtime", "localtime", "CLOCK_REALTIME"}
_ELSEWHERE = ("lab", "bench", "compare")


def test_no_decision_goes_by_the_time_of_day() -> None:
    """It may be set at any moment; only the log tells it."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in _ELSEWHERE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in _WALL:
                found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                found.append(f"{path.name}:{node.lineno}: from {node.module}")
    assert not found
