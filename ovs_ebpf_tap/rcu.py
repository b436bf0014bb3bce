"""How long attaching to a TCX hook takes: it waits for a grace period of RCU.

The wait is in the kernel (`tcx_entry_sync` in its `include/net/tcx.h`), holds back everybody who
configures devices meanwhile, and takes some ticks of the clock, 8 to 16 ms where a tick is 4 ms:
512 hooks take 8 s. Expedited grace periods take 20 us, and cost a short interrupt on each CPU that
is busy. Where these must not be, `rcu_normal` is set, which outweighs what is done here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_EXPEDITED = Path("/sys/kernel/rcu_expedited")


@contextlib.contextmanager
def expedited() -> Iterator[None]:
    """Has the kernel expedite grace periods meanwhile, if it lets us; puts the setting back."""
    try:
        before = _EXPEDITED.read_text()
        _EXPEDITED.write_text("1")
    except OSError:  # A kernel without it, or a /sys that can't be written.
        yield
        return
    try:
        yield
    finally:
        _EXPEDITED.write_text(before)
