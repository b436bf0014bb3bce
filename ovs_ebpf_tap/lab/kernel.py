"""What the running kernel can do."""

from __future__ import annotations

from functools import cache

from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.desired import CLSACT, TCX

_LOOPBACK = 1


@cache
def has_tcx() -> bool:
    """Whether the kernel has TCX hooks; without root it is not asked."""
    try:
        return bpf.has_tcx(_LOOPBACK)
    except PermissionError:
        return False


def attachments() -> tuple[str, ...]:
    """The kinds of hooks that the kernel has; tests of hooks run with each of them."""
    return (TCX, CLSACT) if has_tcx() else (CLSACT,)
