"""Two logical switches, a router and what is outside, on two chassis."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from deployments.frame_kinds import ip6_text
from deployments.ovn_daemons import Ovn, join
from ovs_ebpf_tap.lab.frames import Address
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.vsctl_arguments import column_settings

ROUTER_1 = Address("0a:00:00:00:01:01", "10.1.0.1")
ROUTER_2 = Address("0a:00:00:00:02:01", "10.2.0.1")
ROUTER_OUTSIDE = Address("0a:00:00:00:ff:01", "172.16.0.1")
WIRE = "wire"
"""The device of each chassis that leads to the other."""
OUTSIDE_IP = "172.16.0.254"
FLOATING_IP = "172.16.0.10"
"""Of the first machine."""
FAR_IP = "203.0.113.9"
"""Behind two routes of the same cost."""
BALANCED_IP, BALANCED_TO_ONE_IP = "10.9.0.100", "10.9.0.101"
BALANCED_PORT, SERVER_PORT = 80, 8080

# Where machines are: their chassis, logical switch and address.
_MACHINES = {
    "vm1": (0, "ls1", "10.1.0.11"),
    "vm2": (0, "ls1", "10.1.0.12"),
    "vm3": (1, "ls1", "10.1.0.13"),
    "vm4": (0, "ls2", "10.2.0.14"),
    "vm5": (1, "ls2", "10.2.0.15"),
}
_UNKNOWN = "vm1"
_PORT_SECURITY = "vm2"
_ENCAPSULATED_MTU = 1700


@dataclass(frozen=True)
class Machine:
    """A virtual machine, and the router that it sends to what is for other networks."""

    host: Host
    mac: str
    ip: str
    router: Address

    @property
    def ns(self) -> Netns:
        """Its namespace."""
        return self.host.ns

    @property
    def device(self) -> str:
        """Its device there."""
        return self.host.device

    def via_router(self, ip: str) -> Address:
        """An address in another network, as its frames have it."""
        return Address(self.router.mac, ip)


class OvnNetwork(Resource):
    """OVN, the chassis and the machines. `ovs` is a directory of `scripts/fetch-ovs`."""

    def __init__(self, ovs: Path) -> None:
        self.chassis = [Switch(f"chassis{number}", ovs=ovs) for number in (1, 2)]
        self.ovn = Ovn(self.chassis[0], ovs)
        self.machines: dict[str, Machine] = {}
        self._resources = contextlib.ExitStack()

    def open(self) -> None:
        """Starts all; returns when the logical network is there."""
        with contextlib.ExitStack() as opening:
            for switch in self.chassis:
                opening.enter_context(switch)
            self._resources = opening.pop_all()
        try:
            self._connect_chassis()
            self.ovn.start()
            self._join()
            self._add_machines()
            self.ovn.nbctl(*_separated(self._logical_network()))
            self.ovn.nbctl(*_separated(self._services()))
            self.ovn.sync()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends all. Again does nothing."""
        self._resources.close()

    @property
    def outside(self) -> Machine:
        """What is beyond the router."""
        host = self.chassis[0].hosts["out"]
        return Machine(host, host.mac, OUTSIDE_IP, ROUTER_OUTSIDE)

    def _connect_chassis(self) -> None:
        """A wire between the chassis, and a bridge at each end whose address tunnels have."""
        first, second = self.chassis
        peer = ("peer", "name", WIRE, "netns", second.ns.name)
        first.ns.run("ip", "link", "add", WIRE, "type", "veth", *peer)
        for number, switch in enumerate(self.chassis, 1):
            switch.add_bridge("br-phy")
            switch.add_bridge("br-ex")
            switch.add_bridge("br-int", fail_mode="secure")
            switch.vsctl("add-port", "br-phy", WIRE)
            switch.ns.run(*("ip", "link", "set", WIRE, "mtu", str(_ENCAPSULATED_MTU)), *("up",))
            switch.ns.run("ip", "addr", "add", f"192.168.0.{number}/24", "dev", "br-phy")
            switch.ns.run("ip", "link", "set", "br-phy", "up")
            switch.ns.run("ethtool", "-K", WIRE, "tx", "off")

    def _join(self) -> None:
        for number, switch in enumerate(self.chassis, 1):
            join(
                switch,
                self.ovn.southbound,
                f"chassis{number}",
                f"192.168.0.{number}",
                "physnet:br-ex",
            )

    def _add_machines(self) -> None:
        routers = {"ls1": ROUTER_1, "ls2": ROUTER_2}
        for name, (chassis, network, ip) in _MACHINES.items():
            switch = self.chassis[chassis]
            host = switch.add_host(name, "br-int", with_ip=False)
            switch.set_columns("Interface", host.port, external_ids={"iface-id": name})
            # Each switch gives its hosts the same addresses.
            mac = f"0a:00:00:00:00:{ip.rpartition('.')[2]}"
            machine = Machine(host, mac, ip, routers[network])
            _configure(machine, f"{ip}/24", machine.router.ip)
            self.machines[name] = machine
        self.chassis[0].add_host("out", "br-ex", with_ip=False)
        _configure(self.outside, f"{OUTSIDE_IP}/24", ROUTER_OUTSIDE.ip)

    def _logical_network(self) -> list[str]:
        commands = ["lr-add lr"]
        for name, router in {"ls1": ROUTER_1, "ls2": ROUTER_2, "public": ROUTER_OUTSIDE}.items():
            networks = f"{router.ip}/24 {ip6_text(router.ip)}/120"
            commands += [
                f"ls-add {name}",
                f"lrp-add lr lr-{name} {router.mac} {networks}",
                f"lsp-add {name} {name}-lr",
                f"lsp-set-type {name}-lr router",
                f"lsp-set-addresses {name}-lr router",
                f"lsp-set-options {name}-lr router-port=lr-{name}",
            ]
        commands += [
            "lsp-add public outside",
            "lsp-set-type outside localnet",
            "lsp-set-addresses outside unknown",
            "lsp-set-options outside network_name=physnet",
            "lrp-set-gateway-chassis lr-public chassis1 20",
        ]
        for name, machine in self.machines.items():
            addresses = f"{machine.mac}\\ {machine.ip}\\ {ip6_text(machine.ip)}"
            commands += [
                f"lsp-add {_MACHINES[name][1]} {name}",
                f"lsp-set-addresses {name} {addresses}{' unknown' * (name == _UNKNOWN)}",
            ]
            if name == _PORT_SECURITY:
                commands.append(f"lsp-set-port-security {name} {addresses}")
        return commands

    def _services(self) -> list[str]:
        """Access lists, load balancers, routes, address translation and DHCP."""
        servers = ",".join(f"{self.machines[name].ip}:{SERVER_PORT}" for name in ("vm4", "vm5"))
        one = f"{self.machines['vm4'].ip}:{SERVER_PORT}"
        dhcp = {"server_id": ROUTER_1.ip, "server_mac": ROUTER_1.mac, "router": ROUTER_1.ip}
        options = column_settings({"options": {**dhcp, "lease_time": "3600"}})
        return [
            "acl-add ls1 to-lport 1002 ip4&&udp.dst==161 drop",
            "acl-add ls1 to-lport 1001 ip allow-related",
            "acl-add ls1 from-lport 1001 ip allow-related",
            f"lb-add lb {BALANCED_IP}:{BALANCED_PORT} {servers}",
            f"lb-add one {BALANCED_TO_ONE_IP}:{BALANCED_PORT} {one}",
            "ls-lb-add ls1 lb",
            "ls-lb-add ls1 one",
            f"--ecmp lr-route-add lr 203.0.113.0/24 {OUTSIDE_IP}",
            "--ecmp lr-route-add lr 203.0.113.0/24 172.16.0.253",
            f"lr-nat-add lr snat {ROUTER_OUTSIDE.ip} 10.1.0.0/24",
            f"lr-nat-add lr dnat_and_snat {FLOATING_IP} {self.machines['vm1'].ip}",
            f"--id=@dhcp create DHCP_Options cidr=10.1.0.0/24 {' '.join(options)}"
            " -- set Logical_Switch_Port vm2 dhcpv4_options=@dhcp",
        ]


def _configure(machine: Machine, address: str, gateway: str) -> None:
    device = machine.device
    lines = f"link set {device} address {machine.mac} up\naddr add {address} dev {device}\n"
    lines += f"route add default via {gateway}\n"
    machine.ns.run("ip", "-batch", "-", stdin=lines)


def _separated(commands: list[str]) -> list[str]:
    """Commands as one command line; a blank with a backslash before it is part of a word."""
    words = []
    for command in commands:
        split = command.replace("\\ ", "\0").split(" ")
        words += [*(word.replace("\0", " ") for word in split), "--"]
    return words[:-1]
