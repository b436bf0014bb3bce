"""Removes what sidecars have left in the kernel, by pins, filters' names and cutters' aliases.

It takes no programs, and does without bpf(2) what that refuses: links go with their pins, too, only
later.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from ovs_ebpf_tap.apply import cutter, foreign, rcu
from ovs_ebpf_tap.apply.dummy import Dummies
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.ebpf import bpf, pinning
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS
from ovs_ebpf_tap.observe.links import list_devices
from ovs_ebpf_tap.util.probes import probe


def remove(pin_dir: Path, traffic_control: TrafficControl, *, hw_offload: bool) -> None:
    """Removes links, filters and pins of all builds, and the qdiscs that were made for them.

    With `hw_offload`, Open vSwitch wants the ingress of devices that lose their qdiscs.
    Raises OSError if the kernel refuses.
    """
    probe("leftovers about to be removed")
    with contextlib.ExitStack() as stack:
        qdiscs: dict[bytes, bytes] = {}
        for directory in pinning.builds(pin_dir):
            rcu.restore(directory)
            with contextlib.suppress(OSError):  # Half a build, or no right to look.
                noted = bpf.Map(bpf.get(directory / "qdiscs"))
                stack.callback(noted.close)
                qdiscs |= noted.items()
        _remove_links(pin_dir / pinning.LINKS)
        cutter.remove_all(Dummies(traffic_control))
        _remove_filters(traffic_control, qdiscs, hw_offload=hw_offload)
    if pin_dir.is_dir():
        shutil.rmtree(pin_dir)
    probe("leftovers removed")


def on_devices(pin_dir: Path, traffic_control: TrafficControl, names: Collection[str]) -> list[str]:
    """What hooks other sidecars have on these devices, each with its owner. Raises OSError."""
    devices = sorted(
        (each for each in list_devices() if each.name in names), key=lambda each: each.name
    )
    filters: dict[int, list[str]] = {}
    for device in devices:
        for each in traffic_control.all_filters(device.ifindex):
            if each.owner != traffic_control.owner:
                filters.setdefault(each.owner, []).append(f"{device.name} ({each.direction})")
    return [
        *(
            f"{foreign.listed(hooks)}, of --pin-dir {other or foreign.UNKNOWN}"
            for other, hooks in foreign.by_pin_dir(foreign.find(pin_dir, devices)).items()
        ),
        *(f"{foreign.listed(hooks)}, of owner {owner:x}" for owner, hooks in filters.items()),
    ]


def others(pin_dir: Path, traffic_control: TrafficControl) -> list[str]:
    """Tells of the hooks and cutters of other sidecars, in lines. Raises OSError."""
    devices = list_devices()
    names: dict[int, set[str]] = {}
    for device in devices:
        for each in traffic_control.all_filters(device.ifindex):
            names.setdefault(each.owner, set()).add(device.name)
    cutters = cutter.owners(Dummies(traffic_control))
    return foreign.told(foreign.find(pin_dir, devices)) + [
        f"{what}; if it is gone for good: restore --owner {owner:x}"
        for owner, what in (
            *(
                (owner, f"filters of another ovs-ebpf-tap stay on {foreign.listed(sorted(each))}")
                for owner, each in sorted(names.items())
            ),
            *(
                (owner, f"device {name} of another ovs-ebpf-tap stays")
                for name, owner in sorted(cutters.items())
            ),
        )
        if owner != traffic_control.owner
    ]


def _remove_links(directory: Path) -> None:
    for pin in list(directory.iterdir()) if directory.is_dir() else []:
        with contextlib.suppress(OSError):
            fd = bpf.get(pin)
            try:
                bpf.detach_link(fd)
                probe("link detached")
            finally:
                os.close(fd)
        pin.unlink(missing_ok=True)


def _remove_filters(
    traffic_control: TrafficControl, qdiscs: Mapping[bytes, bytes], *, hw_offload: bool
) -> None:
    """`qdiscs` has the devices with filters of ours, and whether the qdisc is ours, too."""
    owner = traffic_control.owner
    for ifindex in (device.ifindex for device in list_devices()):
        noted = qdiscs.get(bpf.u32(ifindex))
        found = [each for each in traffic_control.all_filters(ifindex) if each.owner == owner]
        if noted is None and not found:
            continue
        for direction in (INGRESS, EGRESS):
            traffic_control.remove_filter(ifindex, direction)
            probe("filter removed")
        if noted is not None:
            traffic_control.remove_former(ifindex)
        if any(noted or ()) or any(each.made for each in found):
            probe("qdisc about to go")
            traffic_control.remove_clsact(ifindex, hw_offload=hw_offload)
            probe("qdisc removed")
            traffic_control.announce(ifindex)
