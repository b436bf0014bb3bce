"""How long attaching to a TCX hook takes: it waits for a grace period of RCU.

The wait is in the kernel (`tcx_entry_sync` in its `include/net/tcx.h`), holds back everybody who
configures devices meanwhile, and takes some ticks of the clock, 8 to 16 ms where a tick is 4 ms:
512 hooks take 8 s. Expedited grace periods take 20 us, and cost a short interrupt on each CPU that
is busy, of all that the machine waits for meanwhile; so it is done for `run --fast-attach` alone.
Where these must not be, `rcu_normal` is set, which outweighs it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ovs_ebpf_tap.ebpf import bpf

EXPEDITED = Path("/sys/kernel/rcu_expedited")

_NOTE = "expedited"


def may_expedite() -> bool:
    """Whether the kernel has the setting and lets us change it."""
    return os.access(EXPEDITED, os.W_OK)


@contextlib.contextmanager
def expedited(directory: Path, fd: int) -> Iterator[None]:
    """Has the kernel expedite grace periods meanwhile, if it lets us.

    The descriptor is pinned in the directory, on a bpffs, meanwhile: so `restore` knows of a
    process that was killed.
    """
    try:
        # Held open: to put it back must not fail for want of a descriptor.
        setting = os.open(EXPEDITED, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # A kernel without it, or a /sys that can't be written.
        yield
        return
    try:
        if int(os.pread(setting, 16, 0)):  # Somebody's, or another sidecar's, who puts it back.
            yield
            return
        bpf.pin(fd, directory / _NOTE)
        try:
            os.pwrite(setting, b"1", 0)
            yield
        finally:
            os.pwrite(setting, b"0", 0)
            (directory / _NOTE).unlink(missing_ok=True)
    finally:
        os.close(setting)


def restore(directory: Path) -> None:
    """Puts the setting back if the directory has the note."""
    note = directory / _NOTE
    if note.exists():
        with contextlib.suppress(OSError):
            EXPEDITED.write_text("0")
        note.unlink()
