"""What the running kernel can do."""

from __future__ import annotations

from functools import cache

from ovs_ebpf_tap import bpf
from ovs_ebpf_tap.wanted import AUTO, CLSACT, TCX

_LOOPBACK = 1


@cache
def has_tcx() -> bool:
    """Whether the kernel has TCX hooks; without root it is not asked."""
    try:
        return bpf.has_tcx(_LOOPBACK)
    except PermissionError:
        return False


def attachments() -> tuple[str, ...]:
    """The ways to attach that tests of hooks are for, the usual one first.

    AUTO makes use of TCX and of clsact.
    """
    return (AUTO, CLSACT) if has_tcx() else (CLSACT,)


def every_attachment() -> tuple[str, ...]:
    """All that `--attach` may ask for on this kernel."""
    return (AUTO, TCX, CLSACT) if has_tcx() else (CLSACT,)
