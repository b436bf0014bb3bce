"""What Open vSwitch does with hw-offload, as far as it concerns hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.reasons.port_reasons import HARDWARE_FLOWS
from ovs_ebpf_tap.model.rows import Database
from ovs_ebpf_tap.observe import ethtool
from ovs_ebpf_tap.observe.vswitchd import read_pid
from ovs_ebpf_tap.util import unexpected


class HwOffload:
    """Whether ovs-vswitchd has its flows on devices' TC hooks, or in their hardware.

    It does from when `other_config:hw-offload` is set until it ends, whatever is set then
    (`netdev_set_flow_api_enabled` in `lib/netdev-offload.c`).
    """

    def __init__(self, run_dir: Path) -> None:
        """`run_dir` is where ovs-vswitchd has its pid file."""
        self._run_dir = run_dir
        self._told: int | None = None
        """The process that was told."""
        self._hidden: Mapping[int, str] = {}
        self._devices: Mapping[str, Device] | None = None
        """The devices when these were looked at last; None to look at them again."""

    def look(self, db: Database) -> Database:
        """The rows, with what is in force: what is set, or was for the process that runs."""
        if db.hw_offload:
            self._told = read_pid(self._run_dir)
        elif self._told is not None and self._told == read_pid(self._run_dir):
            return replace(db, hw_offload=True)
        else:
            self._told = None
        return db

    def hidden(self, devices: Mapping[str, Device]) -> Mapping[int, str]:
        """Why hooks do not see all packets of a device, by ifindex, while it is in force.

        Looks at devices anew when they are others, and after `refresh`.
        """
        if devices != self._devices:
            self._devices = devices
            found = {device.ifindex: _why_hidden(device) for device in devices.values()}
            self._hidden = {ifindex: why for ifindex, why in found.items() if why is not None}
        return self._hidden

    def refresh(self) -> None:
        """Has the next `hidden` look at devices: their features change without a word."""
        self._devices = None


def _why_hidden(device: Device) -> str | None:
    try:
        return HARDWARE_FLOWS.told() if ethtool.takes_flows(device.name) else None
    except Exception as error:
        return unexpected.reason(f"device {device.name}", error)
