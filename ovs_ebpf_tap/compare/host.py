"""What a comparison ran on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from ovs_ebpf_tap.ebpf.build import build_id
from ovs_ebpf_tap.observe import ethtool

_MODEL = ("model name", "Model", "cpu model", "cpu")


def describe_host() -> tuple[tuple[str, str], ...]:
    """The machine and this version, as pairs of what and how."""
    return (
        ("Kernel", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("CPU", f"{_cpu_model()}, {os.cpu_count()} logical"),
        ("ovs-ebpf-tap", f"{metadata.version('ovs-ebpf-tap')}, programs {build_id()}"),
    )


def describe_devices(devices: Iterable[tuple[str, str, int]]) -> str:
    """Devices, each a name, a kind as rtnetlink has it, and an MTU, with their drivers."""
    return ", ".join(
        f"{name} ({ethtool.driver(name) or kind or 'driver not known'}, MTU {mtu})"
        for name, kind, mtu in devices
    )


def datapath_name(datapath_type: str) -> str:
    """A bridge's datapath type in words."""
    return "userspace (netdev)" if datapath_type == "netdev" else "kernel (system)"


def _cpu_model() -> str:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return next((fields[key] for key in _MODEL if fields.get(key)), "model not known")
