"""A planned deployment on a real switch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from ovs_vlans import Bundle

from deployments.connections import connect
from deployments.kinds import NumberedFrames
from deployments.mirrors import UserMirror
from deployments.outputs import Output
from deployments.paced import send_paced
from deployments.places import Place, Watch
from deployments.rows import BridgePlan, PortRow, Talk
from ovs_ebpf_tap.lab.frames import Address, Tag, ip_bytes, vlans
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.tap import TapDevice
from ovs_ebpf_tap.model.rows import Port

_TAP_QUEUE = 30_000
_QUIET = 0.02
"""Seconds without a frame at any port, after which a talk is over."""
_OFFLOADS = " ".join(f"{feature} off" for feature in ("rx", "tx", "sg", "tso", "gso", "gro"))


@dataclass(frozen=True)
class FlowWords:
    """What a flow says of a port."""

    number: int
    mac: str
    ip: str

    def __format__(self, _: str) -> str:
        return str(self.number)

    @property
    def ip6(self) -> str:
        """The IPv6 address of its machine, as `frame_kinds.ip6_bytes` has it."""
        high, low = ip_bytes(self.ip)[:2], ip_bytes(self.ip)[2:]
        return f"fd00::{high.hex()}:{low.hex()}"


class PlannedBridges(Resource):
    """The bridges of a plan with all that is at their ports, on a switch that has nothing yet."""

    def __init__(self, plan: BridgePlan, switch: Switch) -> None:
        self.plan = plan
        self.switch = switch
        self.name = plan.name
        self.bridge = plan.bridge
        self._machines: dict[str, Host | TapDevice] = {}
        self._frames = NumberedFrames()
        self._resources = contextlib.ExitStack()

    def open(self) -> None:
        """Make all; flows last."""
        with contextlib.ExitStack() as opening:
            for bridge, columns in self.plan.bridges.items():
                self.switch.add_bridge(bridge, **columns)
            for number, (port, row) in enumerate(self.plan.ports.items(), 2):
                machine = self._device(opening, port, row, _address(number))
                if machine is not None:
                    self._machines[port] = machine
            self.switch.vsctl(*self._add_ports())
            for port, row in self.plan.ports.items():
                self._bring_up(port, row)
            self._add_flows()
            self._resources = opening.pop_all()

    def close(self) -> None:
        """Remove the machines; the rest goes with the switch."""
        self._resources.close()

    @property
    def places(self) -> list[Place]:
        """The ports of the mirrors' bridge that have devices, at the switch's end."""
        return [
            Place(
                port,
                Host(port, self.switch.ns, port, port, "", ""),
                Bundle.of(
                    Port(UUID(int=1), port, (), row.tag, row.trunks, vlan_mode=row.vlan_mode)
                ),
                of_switch=not _is_internal(row),
                by_number=self.plan.by_number,
            )
            for port, row in self.plan.ports.items()
            if row.bridge == self.bridge and row.kind != "patch"
        ]

    def add_mirror(self, mirror: UserMirror, output: Output) -> None:
        """Nobody else makes mirrors here."""
        raise NotImplementedError(mirror.name)

    def play(self) -> None:
        """Send the frames of all talks, one talk after the other, and have the connections."""
        # What waits in the switch for more than a second may be copied twice.
        with Watch(self.places) as watch:
            for talk in self.plan.talks:
                src, dst = self._machines[talk.src], self._machines[talk.dst]
                frames = self._frames.between(src, dst)
                tagged = (frame for each in frames for frame in self._tagged(talk, each))
                send_paced(src.send, tagged)
                for capture in watch.captures():
                    capture.wait_quiet(_QUIET)
        for client, server in self.plan.connections:
            there = self._machines[server]
            connect(self._machines[client].ns, there.ns, there.ip)

    def _tagged(self, talk: Talk, frame: bytes) -> Iterator[bytes]:
        if not (talk.tags and self.plan.by_number and vlans(frame)):
            tags = b"".join(Tag(vlan).pack() for vlan in talk.tags)
            yield frame[:12] + tags + frame[12:]

    # Making it.

    def _device(
        self, opening: contextlib.ExitStack, port: str, row: PortRow, address: Address
    ) -> Host | TapDevice | None:
        """Makes the device of a port, and the machine behind it if there is one."""
        here = self.switch.ns
        match row.kind:
            case "tap":
                tap = TapDevice(here, port, address.mac, address.ip, _TAP_QUEUE)
                return opening.enter_context(tap)
            case "veth":
                return self._machine(opening, port, port, address)
            case "bridged" | "bridged-internal":
                here.run("ip", "link", "add", f"br{port}", "up", "type", "bridge")
                machine = self._machine(opening, port, f"vm{port}", address)
                here.run("ip", "link", "set", f"vm{port}", "master", f"br{port}")
                if row.kind == "bridged":
                    self._link(port, f"b{port}")
                    here.run("ip", "link", "set", f"b{port}", "master", f"br{port}")
                return machine
            case "pair":
                if port < row.peer:
                    self._link(port, row.peer)
                return None
            case "internal":
                return Host(port, here, port, port, address.mac, address.ip)
            case "patch":
                return None

    def _machine(
        self, opening: contextlib.ExitStack, name: str, device: str, address: Address
    ) -> Host:
        """A machine whose eth0 is the other end of a device of the switch's machine."""
        ns = opening.enter_context(Netns(name))
        here = self.switch.ns
        peer = ("peer", "name", "eth0", "address", address.mac, "netns", ns.name)
        here.run("ip", "link", "add", device, "up", "type", "veth", *peer)
        here.run("ethtool", "-K", device, *_OFFLOADS.split())
        ns.run("ethtool", "-K", "eth0", *_OFFLOADS.split())
        setup = f"link set eth0 up\naddr add {address.ip}/24 dev eth0\n"
        ns.run("ip", "-batch", "-", stdin=setup)
        return Host(name, ns, "eth0", name, address.mac, address.ip)

    def _link(self, one: str, other: str) -> None:
        here = self.switch.ns
        here.run("ip", "link", "add", one, "up", "type", "veth", "peer", "name", other)
        here.run("ip", "link", "set", other, "up")

    def _add_ports(self) -> list[str]:
        arguments = []
        for number, (port, row) in enumerate(self.plan.ports.items(), 1):
            columns = [f"{column}={value}" for column, value in row.columns().items()]
            arguments += ["--", "add-port", row.bridge, port, *columns]
            arguments += ["--", "set", "Interface", port, f"ofport_request={number}"]
            if row.kind == "patch":
                arguments += ["type=patch", f"options:peer={row.peer}"]
            elif _is_internal(row):
                arguments.append("type=internal")
                if row.kind == "internal":
                    arguments.append(f'mac="{self._machines[port].mac}"')
        return arguments[1:]

    def _bring_up(self, port: str, row: PortRow) -> None:
        if _is_internal(row):
            queue = ("txqueuelen", str(_TAP_QUEUE))
            self.switch.ns.run("ip", "link", "set", port, "up", *queue)
        if row.kind == "bridged-internal":
            self.switch.ns.run("ip", "link", "set", port, "master", f"br{port}")

    def _add_flows(self) -> None:
        words = self._words()
        for bridge, flows in self.plan.flows.items():
            filled = "".join(f"{flow.format_map(words)}\n" for flow in flows)
            self.switch.ns.run(
                *("ovs-ofctl", "-O", "OpenFlow13", "replace-flows", bridge, "-"),
                env=self.switch.env,
                stdin=filled,
            )

    def _words(self) -> Mapping[str, FlowWords]:
        nobody = _address(254)
        words = {}
        for number, port in enumerate(self.plan.ports, 1):
            machine = self._machines.get(port)
            mac, ip = (nobody.mac, nobody.ip) if machine is None else (machine.mac, machine.ip)
            words[port] = FlowWords(number, mac, ip)
        return words


def _address(number: int) -> Address:
    return Address(f"02:00:0a:00:00:{number:02x}", f"10.0.0.{number}")


def _is_internal(row: PortRow) -> bool:
    return row.kind in ("internal", "bridged-internal")
