"""Removes what sidecars have left in the kernel, by what is pinned and by filters' names.

It takes no programs, and does without bpf(2) what that refuses: links go with their pins, too, only
later.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ovs_ebpf_tap import bpf, programs, rcu
from ovs_ebpf_tap.netlink import EGRESS, INGRESS, Netlink


def remove(pin_dir: Path, netlink: Netlink, *, hw_offload: bool) -> list[str]:
    """Removes links, filters and pins of all builds; says what it has to leave, in lines.

    With `hw_offload`, Open vSwitch wants the ingress of devices that lose their qdiscs.
    Raises OSError if the kernel lets it not.
    """
    with contextlib.ExitStack() as stack:
        qdiscs: dict[bytes, bytes] = {}
        for directory in programs.builds(pin_dir):
            rcu.restore(directory)
            with contextlib.suppress(OSError):  # Half a build, or no right to look.
                noted = bpf.Map(bpf.get(directory / "qdiscs"))
                stack.callback(noted.close)
                qdiscs |= noted.items()
        _remove_links(pin_dir / programs.LINKS)
        left = list(_remove_filters(netlink, qdiscs, hw_offload=hw_offload))
    if pin_dir.is_dir():
        shutil.rmtree(pin_dir)
    return left


def _remove_links(directory: Path) -> None:
    for pin in list(directory.iterdir()) if directory.is_dir() else []:
        with contextlib.suppress(OSError):
            fd = bpf.get(pin)
            try:
                bpf.detach_link(fd)
            finally:
                os.close(fd)
        pin.unlink(missing_ok=True)


def _remove_filters(
    netlink: Netlink, qdiscs: Mapping[bytes, bytes], *, hw_offload: bool
) -> Iterator[str]:
    """`qdiscs` has the devices with filters of ours, and whether the qdisc is ours, too."""
    for device in netlink.devices.values():
        ours = qdiscs.get(bpf.u32(device.ifindex))
        if ours is None and not netlink.filters(device.ifindex):
            continue
        for direction in (INGRESS, EGRESS):
            netlink.remove_filter(device.ifindex, direction)
        if ours is None:
            yield (
                f"{device.name}: whose its clsact qdisc is, is not known; if nobody's: "
                f"tc qdisc del dev {device.name} clsact"
            )
        elif any(ours):
            netlink.remove_clsact(device.ifindex, hw_offload=hw_offload)
            netlink.announce(device.ifindex)
