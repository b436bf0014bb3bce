"""The cutter: a device of ours, where copies are cut that can't be cut elsewhere.

`bpf/cut.h` says what goes through it. It is there while some mirror has a `snaplen`, whether a
sidecar runs or not. Its name tells it from those of other sidecars and builds; its alias says who
owns it (`programs.owner`), so that it is found when its pins are lost.
"""

from __future__ import annotations

import hashlib
import sys
from errno import EEXIST

from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.ebpf.programs import Programs
from ovs_ebpf_tap.observe.netlink import Netlink

PREFIX = "ebpfcut-"

_ALIAS = "ovs-ebpf-tap "
_DIGITS = 6


def owners(netlink: Netlink) -> dict[str, int]:
    """The cutters of all sidecars, by name, and whose they are."""
    found = {}
    for name in netlink.devices:
        if name.startswith(PREFIX) and len(name) == len(PREFIX) + _DIGITS:
            device = netlink.dummy(name)
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


def remove_all(netlink: Netlink, *, keep: str = "") -> None:
    """Removes the owner's cutters of all builds, but the one of that name."""
    for name, owner in owners(netlink).items():
        device = netlink.dummy(name)
        if owner == netlink.owner and name != keep and device is not None:
            netlink.remove_dummy(device.ifindex)


class Cutter:
    """The cutter of a build, which its programs find in their map."""

    def __init__(self, netlink: Netlink, opened: Programs) -> None:
        self._netlink = netlink
        self._programs = opened
        self._alias = _alias(netlink.owner)
        digest = hashlib.sha256(f"{self._alias} {opened.build}".encode()).hexdigest()
        self.name = PREFIX + digest[:_DIGITS]

    def ensure(self) -> None:
        """Sees to it that it is there and does its work. Raises OSError as the kernel says it."""
        try:
            self._note(self._ensure())
        except OSError as error:
            raise OSError(error.errno, f"no device to cut copies on: {error.strerror}") from None

    def _ensure(self) -> int:
        found = self._netlink.dummy(self.name)
        if found is not None and found.alias != self._alias:
            raise OSError(EEXIST, f"{self.name} is somebody else's")
        shorten, deliver = self._programs.shorten, self._programs.deliver
        wanted = bpf.program_id(shorten), bpf.program_id(deliver)
        if found is not None and found.up and found.programs == wanted:
            return found.ifindex
        if found is not None:
            self._netlink.remove_dummy(found.ifindex)
        return self._netlink.add_dummy(self.name, self._alias, shorten, deliver, wanted[1])

    def remove(self) -> None:
        """Removes it if it was made; it may be gone already."""
        if self._noted() or self.name in self._netlink.devices:
            found = self._netlink.dummy(self.name)
            if found is not None and found.alias == self._alias:
                self._netlink.remove_dummy(found.ifindex)
            self._note(0)

    def _noted(self) -> int:
        value = self._programs.maps["cutter"].get(bpf.u32(0))
        return int.from_bytes(value or b"", sys.byteorder)

    def _note(self, ifindex: int) -> None:
        if self._noted() != ifindex:
            self._programs.maps["cutter"].set(bpf.u32(0), bpf.u32(ifindex))
