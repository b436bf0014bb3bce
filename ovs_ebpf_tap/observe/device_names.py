"""Devices by name, and by the names that they had before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ovs_ebpf_tap.model.device import Device

_FORMER_NAMES = 4
"""Former names of a device that are remembered."""


class DeviceNames:
    """The devices that there are, with the latest of their former names."""

    def __init__(self) -> None:
        self.by_index: dict[int, Device] = {}
        self._former: dict[int, tuple[str, ...]] = {}
        self._changed = False
        """Whether something was taken in since the last `update`."""
        self.devices: Mapping[str, Device] = {}
        """The devices by name, as of the last `update`; another mapping when changed.

        Also by names that they had before, where no other device has these.
        """
        self.version = 0
        """Grows when `devices` changes."""

    def replace(self, devices: Iterable[Device]) -> None:
        """Takes in that these are all devices."""
        found = {device.ifindex: device for device in devices}
        for device in found.values():
            self._note_former(device)
        self.by_index = found
        self._changed = True
        self.update()

    def add(self, device: Device) -> bool:
        """Takes in what a device is now; returns whether it was not there before."""
        new = device.ifindex not in self.by_index
        self._note_former(device)
        self.by_index[device.ifindex] = device
        self._changed = True
        return new

    def remove(self, device: Device) -> tuple[str, ...]:
        """Takes in that the device is gone; returns all names that it had."""
        self.by_index.pop(device.ifindex, None)
        self._changed = True
        return (device.name, *self._former.get(device.ifindex, ()))

    def update(self) -> None:
        """Has `devices` be what was taken in."""
        if not self._changed:
            return
        self._changed = False
        names = {device.name for device in self.by_index.values()}
        self._former = {
            ifindex: kept
            for ifindex, former in self._former.items()
            if ifindex in self.by_index
            and (kept := tuple(name for name in former if name not in names))
        }
        devices = {name: self.by_index[i] for i, some in self._former.items() for name in some}
        devices |= {device.name: device for device in self.by_index.values()}
        if devices != self.devices:
            self.devices = devices
            self.version += 1

    def _note_former(self, device: Device) -> None:
        """Notes the name that the device had until now."""
        before = self.by_index.get(device.ifindex)
        if before is not None and before.name != device.name:
            names = (*self._former.get(device.ifindex, ()), before.name)
            self._former[device.ifindex] = names[-_FORMER_NAMES:]
