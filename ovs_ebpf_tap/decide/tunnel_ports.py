"""The tunnel ports of the kernel's datapath, whose frames one device carries for several ports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self
from zlib import crc32

from ovs_ebpf_tap.model.desired import Hook, Rule
from ovs_ebpf_tap.model.rows import Database, Interface
from ovs_ebpf_tap.model.tunnel import ANY, KINDS, Tunnel

_NO_IFINDEX = 1 << 31


def tunnel_of(interface: Interface, *, arrival: bool) -> Tunnel | None:
    """What tells the interface's frames from those of other tunnel ports; None if it is none."""
    if interface.tunnel is None:
        return None
    number = _NO_IFINDEX | crc32(interface.uuid.bytes)
    options = interface.tunnel
    return options.arriving(number) if arrival else options.leaving(number)


@dataclass(frozen=True)
class TunnelPorts:
    """The interfaces of all tunnel ports that the kernel's datapath has."""

    interfaces: tuple[Interface, ...] = ()
    made_of: tuple[object, ...] = field(default=(), compare=False)

    def following(self, db: Database) -> Self:
        """The tunnel ports as they are now."""
        made_of = (db.bridges, db.ports, db.interfaces)
        if made_of == self.made_of:
            return self
        return replace(self, interfaces=tuple(_interfaces(db)), made_of=made_of)

    def alike(self, interface: Interface) -> Interface | None:
        """Another interface whose frames may leave with the same key and addresses."""
        ours = tunnel_of(interface, arrival=False)
        for other in self._others(interface):
            theirs = tunnel_of(other, arrival=False)
            if ours is not None and theirs is not None and ours.meets(theirs):
                return other
        return None

    def unclear(self, interface: Interface) -> Interface | None:
        """Another interface of the device whose options do not tell which frames are its own."""
        return next((each for each in self._others(interface) if each.tunnel is None), None)

    def _others(self, interface: Interface) -> Iterable[Interface]:
        for other in self.interfaces:
            device = None if other.tunnel is None else other.tunnel.device
            same = interface.tunnel is not None and device == interface.tunnel.device
            if other.uuid != interface.uuid and (
                same or (device is None and other.type == interface.type)
            ):
                yield other

    def narrower(self, hooks: Mapping[Hook, tuple[Rule, ...]]) -> dict[Hook, tuple[Rule, ...]]:
        """Hooks without rules, for ports whose frames these hooks would take for their own.

        Open vSwitch finds the port with the narrowest options first, mirrored or not.
        """
        arriving = [hook for hook in hooks if hook.tunnel is not None and not hook.tunnel.leaving]
        if not arriving:
            return {}
        devices: dict[int, str] = {}
        others: dict[str, list[Tunnel]] = defaultdict(list)
        for each in self.interfaces:
            tunnel = tunnel_of(each, arrival=True)
            if each.tunnel is not None and tunnel is not None:
                devices[tunnel.port] = each.tunnel.device
                others[each.tunnel.device].append(tunnel)
        found: dict[Hook, tuple[Rule, ...]] = {}
        for hook in arriving:
            ours = hook.tunnel
            for other in others[devices.get(ours.port, "")] if ours is not None else ():
                if ours is not None and other.rank < ours.rank and other.meets(ours):
                    found[hook._replace(tunnel=other)] = ()
        return dict.fromkeys(found.keys() - hooks.keys(), ())


def _interfaces(db: Database) -> Iterable[Interface]:
    for bridge in sorted(db.bridges.values(), key=lambda bridge: bridge.name):
        if bridge.datapath_type == "netdev":
            continue
        for port in bridge.ports:
            for uuid in db.ports[port].interfaces if port in db.ports else ():
                row = db.interfaces.get(uuid)
                if row is not None and row.opened and row.type in KINDS:
                    yield row


def is_told_by_flows(tunnel: Tunnel) -> bool:
    """Whether flows tell with which key or addresses the port's frames leave."""
    return tunnel.key is None or ANY in (tunnel.remote, tunnel.local)
