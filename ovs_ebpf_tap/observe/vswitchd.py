"""ovs-vswitchd as a process: whether it runs and works, and its control socket."""

from __future__ import annotations

import contextlib
import os
import time
from errno import ENOENT
from itertools import pairwise
from pathlib import Path

from ovs_ebpf_tap.observe import rpc

_AT_WORK = "RDT"
"""States in `/proc/PID/task/TID/stat`: it runs or is to, is in the kernel, or was stopped."""

_STARTED_AT = 19
"""The place of `starttime` in the same file, counted from the state."""

_UNIXCTL = "--unixctl"
_SHORTEST = len("--un")
"""Characters of its shortest abbreviation: there is `--user`, too."""

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


def control_socket(run_dir: Path, pid: int) -> Path | None:
    """Where that process takes commands; None if it was told to take none.

    As `unixctl_server_create` (`lib/unixctl.c`) reads `--unixctl`: a relative path is one in the
    run directory. `getopt_long` takes an abbreviation, too.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="surrogateescape").split("\0")
    except OSError:
        words = []
    chosen = f"ovs-vswitchd.{pid}.ctl"
    for word, following in pairwise(words):
        option, equals, value = word.partition("=")
        if len(option) >= _SHORTEST and _UNIXCTL.startswith(option):
            chosen = value if equals else following
    return None if chosen == "none" else run_dir / chosen


def is_running(run_dir: Path) -> bool:
    """Whether ovs-vswitchd takes connections, or runs and takes none."""
    pid = read_pid(run_dir)
    if pid is not None and control_socket(run_dir, pid) is None:
        return True
    try:
        connect(run_dir, pid).close()
    except OSError:
        return False
    return True


def connect(run_dir: Path, pid: int | None) -> rpc.Client:
    """To the control socket of that process. Raises OSError."""
    path = None if pid is None else control_socket(run_dir, pid)
    if path is None:
        raise FileNotFoundError(ENOENT, "no control socket of ovs-vswitchd")
    return rpc.Client.open(path, _MAX_ANSWERS, _CONNECT)
