"""What the running kernel can do."""

from __future__ import annotations

from functools import cache

from ovs_ebpf_tap import bpf
from ovs_ebpf_tap.wanted import CLSACT, TCX

_LOOPBACK = 1


@cache
def attachments() -> tuple[str, ...]:
    """The kinds of hooks that the kernel has: every test of hooks is for all of them."""
    try:
        return (TCX, CLSACT) if bpf.has_tcx(_LOOPBACK) else (CLSACT,)
    except PermissionError:
        return (CLSACT,)
