"""`ovs-tcpdump` of a port, and with `--span` of all: it makes a port, and a mirror to it."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.comparison import Copies
from deployments.due import due
from deployments.mirrors import UserMirror
from deployments.outcome import Outcome
from deployments.outcome_table import PROPERTY
from deployments.places import TRUNK, Watch
from deployments.plain_plans import LIBVIRT
from deployments.planned_bridges import PlannedBridges
from ovs_ebpf_tap.lab.capture import Capture, Direction
from ovs_ebpf_tap.lab.ovs_daemons import NEWER_OVS
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import patience, wait_for

PORT, MADE, MIRROR = "vnet0", "mivnet0", "m_vnet0"
PLAN = replace(LIBVIRT, talks=LIBVIRT.talks[:3], connections=LIBVIRT.connections[:1])
HEADER, EACH = 24, 16
"""Bytes of a file of packets, and of each packet in it, before its frame."""


@contextlib.contextmanager
def tcpdump(switch: Switch, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Has the tool run until the block ends."""
    quiet = subprocess.DEVNULL
    command = ("ovs-tcpdump", "--db-sock", switch.db, "-i", PORT, *options)
    running = switch.ns.popen(*command, stdout=quiet, stderr=quiet, env=switch.env)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def has_mirror(switch: Switch) -> bool:
    return MIRROR in switch.vsctl("--bare", "--columns=name", "list", "Mirror").split()


def copies(bridges: PlannedBridges, mirror: UserMirror) -> Copies:
    """What is due of the traffic, and what comes out of the tool's port."""
    with (
        Watch(bridges.places) as watch,
        Capture(bridges.switch.ns, MADE, Direction.OUT) as delivered,
    ):
        bridges.play()
        for capture in (*watch.captures(), delivered):
            capture.wait_quiet()
        return Copies(due(mirror, watch.passed(), TRUNK), delivered.multiset())


@pytest.mark.parametrize("ovs", [None, NEWER_OVS], ids=["3.1.0", "3.5.0"])
@pytest.mark.parametrize("options", [(), ("--span",)], ids=["port", "span"])
def test_it_prints_the_packets_that_are_due(
    options: tuple[str, ...],
    ovs: Path | None,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    mirror = UserMirror(MIRROR, src=[PORT], dst=[PORT], select_all=bool(options))
    written = tmp_path / "packets"
    with (
        Switch("tcpdump", ovs=ovs) as switch,
        PlannedBridges(PLAN, switch) as bridges,
        SidecarProcess(switch) as sidecar,
        tcpdump(switch, *options, "-U", "-w", str(written)) as running,
    ):
        wait_for(lambda: has_mirror(switch), what=f"mirror {MIRROR}")
        sidecar.native(MIRROR)
        switch.appctl("revalidator/purge")
        native = copies(bridges, mirror)
        sidecar.offload(MIRROR)
        switch.appctl("revalidator/purge")
        offloaded = copies(bridges, mirror)
        running.send_signal(signal.SIGTERM)
        running.wait(patience(10))
        assert not has_mirror(switch)
        wait_for(lambda: not hook_count(switch), what="an end of its hooks")
        outcome = Outcome(
            "ovs-tcpdump",
            " ".join(["-i", PORT, *options]),
            switch.get("Open_vSwitch", ".", "ovs_version"),
            "offloaded",
            **offloaded.counts(),
            **{f"native_{name}": n for name, n in native.counts().items()},
        )
        record_property(PROPERTY, dataclasses.asdict(outcome))
    assert offloaded.due
    assert not offloaded.missing
    assert not offloaded.extra
    both = native.delivered + offloaded.delivered
    size = HEADER + sum((EACH + len(frame)) * count for frame, count in both.items())
    assert written.stat().st_size == size
