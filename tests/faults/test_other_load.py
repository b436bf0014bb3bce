"""What is measured of others' load."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from faults.other_load import _read, measure_others
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.waiting import wait_for

TICKS = 5

_BUSY = "ulimit -t 2; while :; do :; done >/dev/null 2>&1 & echo $!"
"""It ends after 2 s of CPU time at the latest."""


def test_processes_of_others_alone_are_measured() -> None:
    with Netns("load") as ns:
        inode = Path("/run/netns", ns.name).stat().st_ino
        before = _read(())
        others = measure_others(())
        busy = int(ns.run("sh", "-c", _BUSY).stdout)
        wait_for(lambda: _read(())[busy] >= TICKS, 30, "some CPU time")
        assert others() > 0
        assert busy not in _read({inode})
        os.kill(busy, signal.SIGKILL)
    assert busy not in before
