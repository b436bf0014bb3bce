"""The cutter: a device of ours, where copies are cut that can't be cut elsewhere.

`bpf/cut.h` says what goes through it. It is there while some mirror has a `snaplen`, whether a
sidecar runs or not. Its name tells it from those of other sidecars and builds; its alias says who
owns it (`pinning.owner`), so that it is found when its pins are lost.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Container
from errno import EEXIST

from ovs_ebpf_tap.apply.dummy import Dummies
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.ebpf.programs import Programs
from ovs_ebpf_tap.observe.links import list_devices

PREFIX = "ebpfcut-"

_ALIAS = "ovs-ebpf-tap "
_DIGITS = 6


def owners(dummies: Dummies) -> dict[str, int]:
    """The cutters of all sidecars, by name, and whose they are."""
    found = {}
    for name in (device.name for device in list_devices()):
        if name.startswith(PREFIX) and len(name) == len(PREFIX) + _DIGITS:
            device = dummies.find(name)
            owner = _owner(device.alias) if device is not None else None
            if owner is not None:
                found[name] = owner
    return found


def _alias(owner: int) -> str:
    return f"{_ALIAS}{owner:x}"


def _owner(alias: str) -> int | None:
    """Whose cutter has that alias; None if none has."""
    try:
        owner = int(alias.removeprefix(_ALIAS), 16)
    except ValueError:
        return None
    return owner if alias == _alias(owner) else None


def remove_all(dummies: Dummies, *, keep: str = "") -> None:
    """Removes the owner's cutters of all builds, but the one of that name."""
    for name, owner in owners(dummies).items():
        device = dummies.find(name)
        if owner == dummies.owner and name != keep and device is not None:
            dummies.remove(device.ifindex)


class Cutter:
    """The cutter of a build, which its programs find in their map."""

    def __init__(self, dummies: Dummies, opened: Programs) -> None:
        self._dummies = dummies
        self._programs = opened
        self._alias = _alias(dummies.owner)
        digest = hashlib.sha256(f"{self._alias} {opened.build}".encode()).hexdigest()
        self.name = PREFIX + digest[:_DIGITS]

    def ensure(self) -> None:
        """Sees to it that it is there and does its work. Raises OSError as the kernel says it."""
        try:
            self._note(self._ensure())
        except OSError as error:
            raise OSError(error.errno, f"no device to cut copies on: {error.strerror}") from None

    def _ensure(self) -> int:
        found = self._dummies.find(self.name)
        if found is not None and found.alias != self._alias:
            raise OSError(EEXIST, f"{self.name} is somebody else's")
        shorten, deliver = self._programs.shorten, self._programs.deliver
        wanted = bpf.program_id(shorten), bpf.program_id(deliver)
        if found is not None and found.up and found.programs == wanted:
            return found.ifindex
        if found is not None:
            self._dummies.remove(found.ifindex)
        return self._dummies.add(self.name, self._alias, shorten, deliver, wanted[1])

    def remove(self, names: Container[str]) -> None:
        """Removes it if it was made; it may be gone already. `names` are those of all devices."""
        if self._noted() or self.name in names:
            found = self._dummies.find(self.name)
            if found is not None and found.alias == self._alias:
                self._dummies.remove(found.ifindex)
            self._note(0)

    def _noted(self) -> int:
        value = self._programs.maps["cutter"].get(bpf.u32(0))
        return int.from_bytes(value or b"", sys.byteorder)

    def _note(self, ifindex: int) -> None:
        if self._noted() != ifindex:
            self._programs.maps["cutter"].set(bpf.u32(0), bpf.u32(ifindex))
