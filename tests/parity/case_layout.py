"""Devices, ports and machines of a case, as arguments of the tools that make them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.tap import TapDevice
from ovs_ebpf_tap.model.rows import MODE_KEY
from parity.case import Case, CasePort, datapath_type
from parity.place_listeners import Machine

LOCAL = "local"
"""The bridge's own port, which is there in every case."""

GROUP = 77
"""Of veth devices, by which they are deleted."""

_QUEUE = 30_000

_INTERFACE: Mapping[str, Sequence[str]] = {
    "internal": ("type=internal",),
    "vxlan": ("type=vxlan", "options:remote_ip=192.0.2.9"),
}


class CaseLayout:
    """What is made for a case on a bridge, by the names of its ports.

    Lines for `ip -batch`: `links` beside the switch, `peers_up` in the machines' namespace, and
    `later_up` beside the switch once there are ports. `vsctl` are ovs-vsctl's arguments.
    """

    def __init__(self, case: Case, number: int, here: Netns, peers: Netns) -> None:
        """`number` makes names; `here` is the switch's namespace, `peers` the machines'."""
        self.links: list[str] = []
        self.vsctl: list[str] = []
        self.peers_up: list[str] = []
        self.later_up: list[str] = []
        self.devices: dict[str, str] = {}
        """The device of each port that has one; of a bond's member, under "port.member"."""
        self.port_rows: dict[str, str] = {}
        """The names of Port rows."""
        self.machines: dict[str, Machine | TapDevice] = {}
        self.taps: list[TapDevice] = []
        """Those of the machines that have to be opened."""
        self.places: dict[str, str] = {}
        """Where each machine is: those behind a balanced bond are in one place."""
        self.numbers: dict[str, int] = {}
        """OpenFlow port numbers."""
        self._case = case
        self._bridge = bridge_name(number)
        self._prefix = f"p{number}"
        self._here = here
        self._peers = peers
        self._order = itertools.count(1)

    def fill(self) -> None:
        """Lays out the bridge and all ports."""
        self._add_bridge()
        for name, port in self._case.ports.items():
            self._add(name, port)

    def _add_bridge(self) -> None:
        datapath = ("--", "set", "Bridge", self._bridge, f"datapath_type={datapath_type()}")
        self.vsctl += ["--", "add-br", self._bridge, *datapath]
        self.vsctl += [f"external_ids:{MODE_KEY}=native", *self._case.bridge]
        if self._case.open_vswitch:
            self.vsctl += ["--", "set", "Open_vSwitch", ".", *self._case.open_vswitch]
        # Where it is up, the userspace datapath's mirrors of all ports are not offloaded.
        if datapath_type() != "netdev" or any(p.kind == LOCAL for p in self._case.ports.values()):
            self.later_up.append(f"link set {self._bridge} up txqueuelen {_QUEUE}")
        self._add_machine(LOCAL, self._here, self._bridge)
        self.port_rows[LOCAL] = self._bridge

    def _add(self, name: str, port: CasePort) -> None:
        if port.kind == LOCAL:
            if port.columns():
                self.vsctl += ["--", "set", "Port", self._bridge, *port.columns()]
            return
        device = port.device or self._device_name(name)
        self.port_rows[name] = device
        match port.kind:
            case "bond":
                self._add_bond(name, port, device)
                return
            case "host" | "patch":
                self._add_host(name, port, device)
            case "internal":
                self.later_up.append(f"link set {device} up txqueuelen {_QUEUE}")
                self._add_machine(name, self._here, device)
            case "tap":
                self._add_tap(name, device)
            case "vxlan" | "absent":
                pass
            case _:
                raise ValueError(f"port {name} is of unknown kind {port.kind}")
        if port.kind == "patch":
            self._add_patch(name, port, device)
            return
        columns = port.columns()
        self.vsctl += ["--", "add-port", self._bridge, device, *columns]
        self.vsctl += self._interface(name, device, _INTERFACE.get(port.kind, ()), port.mtu)

    def _add_host(self, name: str, port: CasePort, device: str) -> None:
        mtu = f"mtu {port.mtu or 1500}"
        self.links.append(
            f"link add name {device} group {GROUP} {mtu} up type veth "
            f"peer name {device} {mtu} netns {self._peers.name}"
        )
        self.peers_up.append(f"link set {device} up")
        self._add_machine(name, self._peers, device)

    def _add_bond(self, name: str, port: CasePort, device: str) -> None:
        members = {member: self._device_name(member) for member in port.members}
        # One member or another: which one a balanced bond takes is its own affair.
        balanced = any(setting.startswith("bond_mode=balance") for setting in port.settings)
        for member, each in members.items():
            whole = f"{name}.{member}"
            self._add_host(whole, port, each)
            self.places[whole] = name if balanced else whole
        self.vsctl += ["--", "add-bond", self._bridge, device, *members.values()]
        self.vsctl += [column.format_map(members) for column in port.columns()]
        for member, each in members.items():
            self.vsctl += self._interface(member, each, (), port.mtu)

    def _add_patch(self, name: str, port: CasePort, device: str) -> None:
        """The machine is behind another bridge."""
        other, here, there = f"{self._bridge}{name}", f"{device}h", f"{device}t"
        self.devices.pop(name)
        self.port_rows[name] = here
        self.vsctl += [
            *("--", "add-br", other),
            *("--", "set", "Bridge", other, f"datapath_type={datapath_type()}"),
            *("--", "add-port", other, device),
            *("--", "add-port", other, there, "--", "set", "Interface", there),
            *("type=patch", f"options:peer={here}"),
            *("--", "add-port", self._bridge, here, *port.columns()),
            *self._interface(name, here, ("type=patch", f"options:peer={there}"), None),
        ]

    def _interface(
        self, name: str, device: str, settings: Sequence[str], mtu: int | None
    ) -> list[str]:
        number = len(self.numbers) + 1
        self.numbers[name] = number
        size = [] if mtu is None else [f"mtu_request={mtu}"]
        return ["--", "set", "Interface", device, f"ofport_request={number}", *settings, *size]

    def _add_machine(self, name: str, ns: Netns, device: str) -> None:
        self.machines[name] = Machine(ns, device)
        self.places[name] = name
        self.devices[name] = device

    def _add_tap(self, name: str, device: str) -> None:
        tap = TapDevice(self._here, device, "02:00:00:00:00:00", "0.0.0.0", _QUEUE)
        self.machines[name] = tap
        self.taps.append(tap)
        self.places[name] = name
        self.devices[name] = device

    def _device_name(self, name: str) -> str:
        """A device's name, of at most 15 characters."""
        return f"{self._prefix}.{next(self._order)}{name}"[:15]


def bridge_name(number: int) -> str:
    """The name of the bridge of that number."""
    return f"par{number}"
