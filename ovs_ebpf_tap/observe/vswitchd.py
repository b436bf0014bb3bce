"""ovs-vswitchd as a process: whether it runs and works, and its control socket."""

from __future__ import annotations

import contextlib
import os
import time
from errno import ENOENT
from pathlib import Path

from ovs_ebpf_tap.observe import rpc

_AT_WORK = "RDT"
"""States in `/proc/PID/task/TID/stat`: it runs or is to, is in the kernel, or was stopped."""

_STARTED_AT = 19
"""The place of `starttime` in the same file, counted from the state."""

_CONNECT = 0.1  # s
_MAX_ANSWERS = 1 << 20  # bytes


def read_pid(run_dir: Path) -> int | None:
    """The process id that ovs-vswitchd has written down, None if there is none."""
    try:
        return int((run_dir / "ovs-vswitchd.pid").read_text())
    except (OSError, ValueError):
        return None


def seconds_since_start(run_dir: Path) -> float | None:
    """How long ago ovs-vswitchd started, None if it does not run."""
    try:
        stat = Path(f"/proc/{read_pid(run_dir)}/stat").read_text()
    except OSError:
        return None
    ticks = int(stat.rpartition(") ")[2].split()[_STARTED_AT])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def is_revalidating(pid: int | None) -> bool:
    """Whether a revalidator thread runs, waits for a CPU, or was stopped."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            name, _, rest = (task / "stat").read_text().rpartition(") ")
            if "(revalidator" in name and rest[0] in _AT_WORK:
                return True
    return False


def is_running(run_dir: Path) -> bool:
    """Whether ovs-vswitchd takes connections."""
    try:
        connect(run_dir, read_pid(run_dir)).close()
    except OSError:
        return False
    return True


def connect(run_dir: Path, pid: int | None) -> rpc.Client:
    """To the control socket of that process. Raises OSError."""
    if pid is None:
        raise FileNotFoundError(ENOENT, "no ovs-vswitchd")
    return rpc.Client.open(run_dir / f"ovs-vswitchd.{pid}.ctl", _MAX_ANSWERS, _CONNECT)
