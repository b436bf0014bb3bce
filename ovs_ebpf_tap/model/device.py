"""Network devices, as rtnetlink tells of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A network device of our network namespace."""

    ifindex: int
    name: str
    mtu: int
    up: bool
    running: bool
    ethernet: bool = True
    address: str = ""
    kind: str = ""
    """Of rtnetlink, e.g. `veth`; empty for hardware."""
    slave: str = ""
    """The kind of its master, e.g. `openvswitch` of a port of the kernel's datapath."""


@dataclass(frozen=True)
class Departure:
    """Where a device has gone that has left our network namespace."""

    nsid: int
    """The other namespace's number in ours."""
    ifindex: int
    """The device's there."""
