"""Names that hold the process that made a thing, to tell left-overs from what is in use."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

PREFIX = "tap-lab"

_serial = itertools.count(1)


def unique_name(label: str, prefix: str = PREFIX) -> str:
    """A name not used before: prefix, this process's pid and start time, a number, `label`."""
    pid = os.getpid()
    return f"{prefix}-{pid}-{_start_time(pid)}-{next(_serial)}-{label}"


def is_leftover(name: str, prefix: str = PREFIX) -> bool:
    """Whether `name` came from `unique_name` in a process that is no more."""
    match = re.match(rf"{re.escape(prefix)}-(\d+)-(\d+)-\d+-", name)
    if match is None:
        return False
    pid, started = int(match[1]), int(match[2])
    return _start_time(pid) != started


def _start_time(pid: int) -> int | None:
    """Start of process `pid` in clock ticks since boot, or None without such a process.

    Pids are used again; a pid together with its start is not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the command in parentheses, may itself hold blanks and parentheses.
    return int(stat.rpartition(")")[2].split()[19])
