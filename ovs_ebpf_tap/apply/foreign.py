"""TCX hooks of other sidecars, those with another pin directory, on devices of this namespace.

The kernel tells CAP_NET_ADMIN which programs and links are on a hook (BPF_PROG_QUERY, Linux 6.6),
and CAP_SYS_ADMIN alone a program's name (`bpf_prog_get_fd_by_id` in its `kernel/bpf/syscall.c`).
So a hook is a sidecar's if its link is pinned as ours are, which tells the directory, too, or else
if its program has the name of one of ours.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from errno import EINVAL, ENODEV, ENOSYS, EPERM
from pathlib import Path

from ovs_ebpf_tap.ebpf import bpf, pinning
from ovs_ebpf_tap.ebpf.object import PROGRAM_NAMES
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS
from ovs_ebpf_tap.model.device import Device

_ATTACH_TYPES = {INGRESS: bpf.TCX_INGRESS, EGRESS: bpf.TCX_EGRESS}

_NONE = (ENODEV, EINVAL, EPERM, ENOSYS)
"""Errors where there are no such hooks, or we may not ask for them."""

UNKNOWN = "DIR (its pin directory, which is in no bpffs that is mounted here)"
"""In the place of a pin directory."""

_SHOWN = 8
"""Hooks or devices that are named of those of one owner."""


@dataclass(frozen=True)
class ForeignHook:
    """A TCX hook of another sidecar; `pin_dir` is None if it is pinned where we do not see it."""

    device: str
    direction: str
    pin_dir: Path | None

    def __str__(self) -> str:
        return f"{self.device} ({self.direction})"


def find(pin_dir: Path, devices: Iterable[Device]) -> list[ForeignHook]:
    """Those on these devices that are not of that pin directory; none where we may not ask."""
    found = []
    directories: list[Path] | None = None
    for device in devices:
        for direction, program, link in _attached(device.ifindex):
            pin = f"{pinning.LINKS}/{device.ifindex}-{direction}"
            if link and _link(pin_dir / pin) == link:
                continue
            if directories is None:
                directories = list(pinning.pin_dirs())
            pinned = (each for each in directories if link and _link(each / pin) == link)
            where = next(pinned, None)
            if where is not None or _name(program) in PROGRAM_NAMES:
                found.append(ForeignHook(device.name, direction, where))
    return found


def _attached(ifindex: int) -> Iterator[tuple[str, int, int]]:
    """The direction, program and link of all that is on the device's TCX hooks."""
    for direction, attach_type in _ATTACH_TYPES.items():
        try:
            for program, link in bpf.attached_tcx(ifindex, attach_type):
                yield direction, program, link
        except OSError as error:
            if error.errno not in _NONE:
                raise


def _name(program: int) -> str:
    try:
        return bpf.program_name(program)
    except OSError:  # It is gone, or we may not ask.
        return ""


def _link(pin: Path) -> int:
    """The id of the TCX link that is pinned there; 0 if there is none."""
    with contextlib.suppress(OSError):
        fd = bpf.get(pin)
        try:
            return bpf.tcx_link(fd).id
        finally:
            os.close(fd)
    return 0


def told(hooks: Iterable[ForeignHook]) -> list[str]:
    """A line on the hooks of each pin directory, with what to do about them."""
    return [
        f"TCX hooks of another ovs-ebpf-tap stay on {listed(names)}; "
        f"if it is gone for good: release --all --pin-dir {pin_dir or UNKNOWN}"
        for pin_dir, names in by_pin_dir(hooks).items()
    ]


def by_pin_dir(hooks: Iterable[ForeignHook]) -> dict[Path | None, list[str]]:
    """The hooks of each sidecar, as they are told."""
    found: dict[Path | None, list[str]] = {}
    for each in hooks:
        found.setdefault(each.pin_dir, []).append(str(each))
    return found


def listed(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
