"""A bridge's port as it was seen, and which network devices are its interfaces'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from ovs_ebpf_tap.decide.tunnel_ports import tunnel_of
from ovs_ebpf_tap.decide.vlan import PortVlans
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, Hook
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.reasons import port_reasons
from ovs_ebpf_tap.model.reasons.reason import Reason
from ovs_ebpf_tap.model.rows import INTERNAL_TYPES, Bridge, Database, Interface, Port
from ovs_ebpf_tap.model.tunnel import TunnelOptions

DEVICE_TYPES = ("", "system", *INTERNAL_TYPES)
"""Interface types with a network device."""

_PORT_OF_KERNEL = "openvswitch"
"""The kind of the master of a port's device."""

_KERNELS, _TUN = "openvswitch", "tun"
"""What kind internal devices are of: the kernel's datapath's own, or taps."""


def to_ingress(interface: Interface) -> bool:
    """Whether what the switch sends to the interface passes its device's ingress hook."""
    return interface.type in INTERNAL_TYPES


def hook_of(interface: Interface, device: Device, *, arrival: bool) -> Hook:
    """The hook that the interface's packets pass when they arrive in the switch, or leave it."""
    inward = to_ingress(interface) != arrival
    direction = INGRESS if inward else EGRESS
    return Hook(device.ifindex, direction, tunnel_of(interface, arrival=arrival))


@dataclass(frozen=True)
class SeenPort:
    """A port, those of its interfaces that there are rows of, and their devices."""

    port: Port
    """With the `protected` that the user wants."""
    interfaces: tuple[Interface, ...]
    devices: tuple[Device | None, ...]
    """One for each interface; None where there is none."""
    astray: tuple[Reason | None, ...] = ()
    """For each interface: what is with the device that Open vSwitch has, if it is not here."""
    usurped: frozenset[str] = frozenset()
    """The interfaces whose name another device has than the one that is theirs: the userspace
    datapath receives from theirs, and sends to the other (`netdev_linux_send`)."""

    @classmethod
    def of(cls, port: Port, bridge: Bridge, db: Database, devices: Mapping[str, Device]) -> Self:
        """A port of a bridge with what it refers to."""
        interfaces = tuple(db.interfaces[i] for i in port.interfaces if i in db.interfaces)
        found = [_find_device(each, bridge.datapath_type, devices) for each in interfaces]
        here, astray = zip(*found, strict=True) if found else ((), ())
        usurped = frozenset(
            row.name
            for row, device in zip(interfaces, here, strict=True)
            if device is not None and devices.get(row.name, device).ifindex != device.ifindex
        )
        return cls(port, interfaces, here, astray, usurped)

    @cached_property
    def vlans(self) -> PortVlans:
        """The port's VLAN settings as OVS takes them."""
        return PortVlans.of(self.port)


def _find_device(
    interface: Interface, datapath_type: str, devices: Mapping[str, Device]
) -> tuple[Device | None, Reason | None]:
    """The interface's device here; or what is with it if Open vSwitch has another one, or one
    elsewhere.

    One that has another name by now is still its device if Open vSwitch has it open, which goes on
    with that: its socket is bound to the device (`lib/netdev-linux.c`), as is a port of the
    kernel's datapath. What the row says of the device is true of any that has the name where Open
    vSwitch looks; so one that has left is remembered.
    """
    if interface.tunnel is not None and datapath_type != "netdev":
        return _find_tunnels(interface.tunnel, devices), None
    device = devices.get(interface.name)
    if interface.bound is not None and not interface.away:
        return _find_bound(interface.bound, device, devices)
    foreign = device is not None and (
        interface.away or interface.refused or not _may_be_of(interface, datapath_type, device)
    )
    if device is not None and not foreign:
        lost = device.name != interface.name and not interface.opened
        return (None if lost else device), None
    if not interface.opened:
        return None, None
    if foreign:
        return None, port_reasons.NAME_TAKEN
    if interface.away or (interface.type in INTERNAL_TYPES and interface.ifindex == 0):
        return None, port_reasons.OTHER_NAMESPACE
    if any(each.ifindex == interface.ifindex for each in devices.values()):
        return None, port_reasons.RENAMED
    return None, None


def _find_tunnels(options: TunnelOptions, devices: Mapping[str, Device]) -> Device | None:
    """The device that carries tunnel ports with these options.

    ovs-vswitchd makes it anew when it starts.
    """
    device = devices.get(options.device)
    if device is None or device.name != options.device or device.kind != options.kind:
        return None
    return device if device.slave == _PORT_OF_KERNEL else None


def _find_bound(
    ifindex: int, named: Device | None, devices: Mapping[str, Device]
) -> tuple[Device | None, Reason | None]:
    """The same where it is known which device Open vSwitch has open."""
    device = next((each for each in devices.values() if each.ifindex == ifindex), None)
    return device, (port_reasons.NOT_OPEN if device is None and named is not None else None)


def _may_be_of(interface: Interface, datapath_type: str, device: Device) -> bool:
    """Whether the device is of the kind that Open vSwitch makes for the interface.

    `dpif_netdev_port_open_type` in `lib/dpif-netdev.c`, `internal_dev_link_ops` in the kernel's
    `net/openvswitch/vport-internal_dev.c`.
    """
    if interface.type not in INTERNAL_TYPES:
        return True
    made = _TUN if interface.type == "tap" or datapath_type == "netdev" else _KERNELS
    return device.kind == made
