"""A real Open vSwitch in a namespace of its own, with hosts around it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovs_ebpf_tap.lab.capture import Capture, Direction
from ovs_ebpf_tap.lab.frames import arp_request
from ovs_ebpf_tap.lab.names import PREFIX
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.ovs_daemons import SCHEMA, OvsDaemons
from ovs_ebpf_tap.lab.tap import TapDevice
from ovs_ebpf_tap.lab.traffic import send
from ovs_ebpf_tap.lab.vsctl_arguments import Column, column_settings
from ovs_ebpf_tap.lab.waiting import wait_for

# In frames; what is more is dropped. Linux 6.1 refuses 32768 and more.
_TAP_QUEUE = 30_000
_OFFLOADS = ("rx", "tx", "sg", "tso", "gso", "gro")


@dataclass(frozen=True)
class Host:
    """A machine at a port of the switch; for an internal port, the switch's own machine.

    Frames go into and out of `device` in namespace `ns`. `port` is the port's and the
    interface's name, and that of the switch's device for it. `ip` has a /24 prefix; at an internal
    port it is not configured on the device unless asked for.
    """

    name: str
    ns: Netns
    device: str
    port: str
    mac: str
    ip: str

    def send(self, frames: Iterable[bytes]) -> int:
        """See `traffic.send`."""
        return send(self, frames)

    def capture(self, direction: Direction = Direction.IN) -> Capture:
        """A capture, to be started, of the frames that reach this host."""
        return Capture.of(self, direction)


@dataclass(frozen=True)
class Bond:
    """A bonded port; each member leads to a host of its own."""

    port: str
    members: tuple[Host, ...]


class Switch(OvsDaemons):
    """An Open vSwitch, run in a namespace and a directory made for it, and hosts at its ports.

    `ovs` is a directory with another Open vSwitch than the machine's (`NEWER_OVS`), whose schema
    then is in place of `schema`. `database` is the file of a database to start with, as after a
    reboot, or from a backup.
    """

    def __init__(
        self,
        label: str = "switch",
        schema: Path = SCHEMA,
        prefix: str = PREFIX,
        ovs: Path | None = None,
        database: Path | None = None,
    ) -> None:
        super().__init__(label, schema, prefix, ovs, database)
        self.hosts: dict[str, Host] = {}
        self._prefix = prefix
        self._numbers = 1  # Of hosts, the last that is taken; 1 is a gateway's.

    def close(self) -> None:
        """Remove the switch and its hosts, with all that runs in them. Again does nothing."""
        super().close()
        self.hosts.clear()

    def add_bridge(
        self, name: str = "br0", datapath_type: str | None = None, **values: Column
    ) -> None:
        """Add a bridge, of datapath type $OVS_EBPF_TAP_DATAPATH or else netdev.

        The device of its local port stays down.
        """
        datapath = datapath_type or os.environ.get("OVS_EBPF_TAP_DATAPATH") or "netdev"
        settings = column_settings({"datapath_type": datapath, **values})
        self.vsctl("add-br", name, "--", "set", "Bridge", name, *settings)

    def add_host(
        self,
        name: str,
        bridge: str | None = "br0",
        offloads: bool = False,
        mtu: int | None = None,
        with_ip: bool = True,
        **values: Column,
    ) -> Host:
        """Join a host of its own namespace to the bridge: its eth0 to our `<name>0`.

        `values` are columns of the Port row. `bridge=None` makes the devices but no port.
        Without `offloads` a frame on the wire is whole: cut to the MTU, with its checksums.
        Without `with_ip` its kernel answers nothing: no ARP, no echo, no TCP reset.
        """
        self._need_free(name)
        number = self._next_number()
        ns = self._resources.enter_context(Netns(name, self._prefix))
        host = Host(name, ns, "eth0", f"{name}0", _mac(number), f"10.0.0.{number}")
        self._connect(host, offloads, mtu, with_ip)
        if bridge is not None:
            self._add_port(bridge, host.port, values)
        self.hosts[name] = host
        return host

    def add_internal(
        self, name: str, bridge: str = "br0", with_ip: bool = False, **values: Column
    ) -> Host:
        """Add an internal port; its device is in the switch's own namespace.

        `with_ip` configures its address, which only one port of the namespace should have.
        """
        self._need_free(name)
        number = self._next_number()
        interface = ("--", "set", "Interface", name, "type=internal", f'mac="{_mac(number)}"')
        self._add_port(bridge, name, values, interface)
        return self._internal_host(name, number, with_ip)

    def add_bond(
        self,
        name: str,
        members: Sequence[str],
        bridge: str = "br0",
        with_ip: bool = True,
        **values: Column,
    ) -> Bond:
        """Add a bonded port; each member, so named, is a host as `add_host` makes it."""
        hosts = tuple(self.add_host(each, bridge=None, with_ip=with_ip) for each in members)
        ports = [host.port for host in hosts]
        self.vsctl("add-bond", bridge, name, *ports, *column_settings(values))
        return Bond(name, hosts)

    def add_tap(self, name: str, bridge: str = "br0", **values: Column) -> TapDevice:
        """Add a tap device that this process holds open, as a virtual machine's would be."""
        self._need_free(name)
        number = self._next_number()
        tap = self._resources.enter_context(
            TapDevice(self.ns, name, _mac(number), f"10.0.0.{number}", _TAP_QUEUE)
        )
        self._add_port(bridge, name, values)
        return tap

    def learn(self, *hosts: Host | TapDevice, bridge: str = "br0") -> None:
        """Have each host announce itself, and wait until the bridge has learned its address.

        The announcements are flooded, and have passed all hosts when this returns.
        """
        with contextlib.ExitStack() as listening:
            captures = [listening.enter_context(host.capture()) for host in self.hosts.values()]
            for host in hosts:
                host.send([arp_request(host, host.ip)])
            wait_for(lambda: self._know(bridge, hosts), what=f"{bridge} learning its hosts")
            for capture in captures:
                capture.wait_quiet(0.05)

    def _know(self, bridge: str, hosts: Iterable[Host | TapDevice]) -> bool:
        learned = self.appctl("fdb/show", bridge)
        return all(host.mac in learned for host in hosts)

    def _connect(self, host: Host, offloads: bool, mtu: int | None, with_ip: bool) -> None:
        size = () if mtu is None else ("mtu", str(mtu))
        peer = ("peer", "name", host.device, *size, "address", host.mac, "netns", host.ns.name)
        self.ns.run("ip", "link", "add", host.port, *size, "type", "veth", *peer)
        self.ns.run("ip", "link", "set", host.port, "up")
        setup = f"link set {host.device} up\n"
        if with_ip:
            setup += f"addr add {host.ip}/24 dev {host.device}\n"
        host.ns.run("ip", "-batch", "-", stdin=setup)
        if not offloads:
            switched_off = [word for feature in _OFFLOADS for word in (feature, "off")]
            self.ns.run("ethtool", "-K", host.port, *switched_off)
            host.ns.run("ethtool", "-K", host.device, *switched_off)

    def _add_port(
        self, bridge: str, port: str, values: Mapping[str, Column], more: Sequence[str] = ()
    ) -> None:
        self.vsctl("add-port", bridge, port, *column_settings(values), *more)
        error = self.get("Interface", port, "error")
        if error != "[]":
            raise RuntimeError(f"port {port} of {bridge}: {error}")

    def _internal_host(self, name: str, number: int, with_ip: bool) -> Host:
        ip = f"10.0.0.{number}"
        setup = f"link set {name} up txqueuelen {_TAP_QUEUE}\n"
        if with_ip:
            setup += f"addr add {ip}/24 dev {name}\n"
        self.ns.run("ip", "-batch", "-", stdin=setup)
        links = json.loads(self.ns.run("ip", "-json", "link", "show", "dev", name).stdout)
        host = Host(name, self.ns, name, name, links[0]["address"], ip)
        self.hosts[name] = host
        return host

    def _next_number(self) -> int:
        self._numbers += 1
        if self._numbers > 254:
            raise RuntimeError("the lab's network has 254 addresses")
        return self._numbers

    def _need_free(self, name: str) -> None:
        if name in self.hosts:
            raise ValueError(f"there is a host {name} already")


def _mac(number: int) -> str:
    """A locally administered address."""
    return f"02:00:00:00:00:{number:02x}"
