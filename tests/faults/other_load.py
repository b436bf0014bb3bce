"""How much of the machine processes take that do not belong to a test."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container
from pathlib import Path

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD of <linux/sched.h>
_FLAGS, _TIMES = 6, slice(11, 15)
"""Fields of /proc/PID/stat behind the name: flags; utime, stime, cutime and cstime."""
_STEAL = 8
"""The field of /proc/stat's first line: ticks in which the hypervisor ran something else."""


def measure_others(namespaces: Container[int]) -> Callable[[], float]:
    """Begins to measure; call what it returns for the CPUs that others have taken since.

    `namespaces` are the inodes of network namespaces whose processes are the test's own, beside
    this process with its children. Kernel threads are nobody's. 1.0 is one CPU all the time.
    """
    began, before = time.monotonic(), _read(namespaces)

    def taken() -> float:
        after = _read(namespaces)
        ticks = sum(max(0, ticks - before.get(pid, 0)) for pid, ticks in after.items())
        return ticks * _TICK / (time.monotonic() - began)

    return taken


def _read(own: Container[int]) -> dict[int, int]:
    """The ticks that each process of others has taken, by its number; those stolen under 0."""
    found = {0: _stolen()}
    for path in Path("/proc").iterdir():
        if not path.name.isdecimal() or int(path.name) in (1, os.getpid()):
            continue  # init reaps the test's daemons.
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[_FLAGS]) & _KERNEL_THREAD or (path / "ns/net").stat().st_ino in own:
                continue
            if int(fields[1]) == os.getpid():
                continue
        except OSError:  # It has ended.
            continue
        found[int(path.name)] = sum(map(int, fields[_TIMES]))
    return found


def _stolen() -> int:
    with open("/proc/stat") as opened:
        return int(opened.readline().split()[_STEAL])
