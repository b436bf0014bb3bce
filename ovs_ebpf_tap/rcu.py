"""How long attaching to a TCX hook takes: it waits for a grace period of RCU.

The wait is in the kernel (`tcx_entry_sync` in its `include/net/tcx.h`), holds back everybody who
configures devices meanwhile, and takes some ticks of the clock, 8 to 16 ms where a tick is 4 ms:
512 hooks take 8 s. Expedited grace periods take 20 us, and cost a short interrupt on each CPU that
is busy. Where these must not be, `rcu_normal` is set, which outweighs what is done here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_EXPEDITED = Path("/sys/kernel/rcu_expedited")


@contextlib.contextmanager
def expedited() -> Iterator[None]:
    """Has the kernel expedite grace periods meanwhile, if it lets us."""
    try:
        setting = os.open(_EXPEDITED, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # A kernel without it, or a /sys that can't be written.
        yield
        return
    try:
        if int(os.pread(setting, 16, 0)):
            yield  # Somebody's, or another sidecar's, who puts it back.
            return
        os.pwrite(setting, b"1", 0)
        try:
            yield
        finally:
            os.pwrite(setting, b"0", 0)
    finally:
        os.close(setting)
