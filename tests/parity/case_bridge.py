"""A case's bridge, ports and machines on a real switch, with a sidecar beside it."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.tap import TapDevice
from ovs_ebpf_tap.lab.traffic import send
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.model.desired import NATIVE, OFFLOADED, OffloadDecision
from ovs_ebpf_tap.model.rows import MODE_KEY, REASON_KEY, SELECT_VLAN_KEY, STATE_KEY
from parity.case import Case, CaseMirror, CasePort, Sent, datapath_type

LOCAL = "local"
"""The bridge's own port, which is there in every case."""

_QUEUE = 30_000
_GROUP = 77
_BETWEEN = 0.02
"""Seconds of quiet after which the next port may send: what it causes depends on the order."""
_LEARNT = 0.06
"""Seconds of quiet after which all addresses are learned."""
_AFTER = 0.12
"""Seconds of quiet after which nothing more is expected."""
_LATE = 2.0
"""Seconds that are given to frames that another run has had."""
_VERDICT = 8.0
"""Seconds that the sidecar has for a decision."""
_UNEXPECTED = 1.0
"""Seconds after which a decision that is not the expected one is taken for the last."""

_VLAN_COLUMNS = ("tag", "trunks", "vlan_mode", "cvlans", "other_config")
_UNUSED = CasePort(tag=4094)

_MODE_IS_NATIVE = f"{MODE_KEY} is native"
_NOT_YET = "are not known (yet)"
_MEMBER_LINE = re.compile(r"^member .*: (\w+)$", re.MULTILINE)
_PORT_LINE = re.compile(r"port +(\w+): rx pkts=(\d+).*?tx pkts=(\d+)", re.DOTALL)

Frames = dict[str, Counter[bytes]]
"""What arrived behind each port."""


class ParityBench(Resource):
    """What many cases share: a switch, the sidecar, and a namespace for all machines."""

    def __init__(self, attach: str) -> None:
        self.switch = Switch("parity")
        self.peers = Netns("machines")
        self.sidecar = SidecarProcess(self.switch, "--attach", attach)
        self.serials = itertools.count(1)
        self._resources = contextlib.ExitStack()

    def open(self) -> None:
        """Start all."""
        with contextlib.ExitStack() as opening:
            for resource in (self.switch, self.peers, self.sidecar):
                opening.enter_context(resource)
            self._resources = opening.pop_all()

    def close(self) -> None:
        """End all."""
        self._resources.close()


@dataclass(frozen=True)
class Machine:
    """A device in a namespace, and what is sent and received there."""

    ns: Netns
    device: str

    def send(self, frames: Iterable[bytes]) -> int:
        """See `traffic.send`."""
        return send(self, frames)


@dataclass(frozen=True)
class Run:
    """What arrived behind each port, and by how many packets each port's counters grew."""

    frames: Frames
    counted: dict[str, tuple[int, int]]


@dataclass
class _Layout:
    """Arguments that make devices and ports, and what they will be called."""

    links: list[str] = field(default_factory=list)
    vsctl: list[str] = field(default_factory=list)
    peers_up: list[str] = field(default_factory=list)
    later_up: list[str] = field(default_factory=list)


class CaseBridge(Resource):
    """The bridge of one case, or of several with the same ports."""

    def __init__(self, bench: ParityBench, case: Case) -> None:
        self.bench = bench
        self.switch = bench.switch
        self.case = case
        self.serial = next(bench.serials)
        self.bridge = f"par{self.serial}"
        self.devices: dict[str, str] = {}
        """The device of each port that has one; of a bond's member, under "port.member"."""
        self._port_rows: dict[str, str] = {}
        self._machines: dict[str, Machine | TapDevice] = {}
        self._places: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._order = itertools.count(1)
        self._watch = _PlaceListeners()
        self._resources = contextlib.ExitStack()

    # Making it.

    def open(self) -> None:
        """Make the bridge, its ports with their devices, and the machines behind them."""
        with contextlib.ExitStack() as opening:
            self._resources = opening
            layout = _Layout()
            self._lay_out_bridge(layout)
            for name, port in self.case.ports.items():
                self._lay_out(name, port, layout)
            opening.callback(self.switch.ns.run, "ip", "link", "del", "group", str(_GROUP))
            self._batch(self.switch.ns, layout.links)
            self._batch(self.bench.peers, layout.peers_up)
            opening.callback(self._remove_bridges)
            self.switch.vsctl(*layout.vsctl[1:])
            self._batch(self.switch.ns, layout.later_up)
            self._check_ports()
            self._add_flows()
            for name, machine in self._machines.items():
                opening.enter_context(self._watch.over(self._places[name], machine))
            self._resources = opening.pop_all()

    def close(self) -> None:
        """Remove all that was made."""
        self._resources.close()

    def _lay_out_bridge(self, layout: _Layout) -> None:
        datapath = ("--", "set", "Bridge", self.bridge, f"datapath_type={datapath_type()}")
        layout.vsctl += ["--", "add-br", self.bridge, *datapath]
        layout.vsctl += [f"external_ids:{MODE_KEY}=native", *self.case.bridge]
        if self.case.open_vswitch:
            layout.vsctl += ["--", "set", "Open_vSwitch", ".", *self.case.open_vswitch]
        # Where it is up, the userspace datapath's mirrors of all ports are not offloaded.
        if datapath_type() != "netdev" or any(p.kind == LOCAL for p in self.case.ports.values()):
            layout.later_up.append(f"link set {self.bridge} up txqueuelen {_QUEUE}")
        self._add_machine(LOCAL, self.switch.ns, self.bridge)
        self._port_rows[LOCAL] = self.bridge

    def _lay_out(self, name: str, port: CasePort, layout: _Layout) -> None:
        if port.kind == LOCAL:
            if port.columns():
                layout.vsctl += ["--", "set", "Port", self.bridge, *port.columns()]
            return
        device = port.device or self._device_name(name)
        self._port_rows[name] = device
        match port.kind:
            case "bond":
                self._lay_out_bond(name, port, device, layout)
                return
            case "host" | "patch":
                self._lay_out_host(name, port, device, layout)
            case "internal":
                layout.later_up.append(f"link set {device} up txqueuelen {_QUEUE}")
                self._add_machine(name, self.switch.ns, device)
            case "tap":
                self._add_tap(name, device)
            case "vxlan" | "absent":
                pass
            case _:
                raise ValueError(f"port {name} is of unknown kind {port.kind}")
        if port.kind == "patch":
            self._lay_out_patch(name, port, device, layout)
            return
        columns = port.columns()
        layout.vsctl += ["--", "add-port", self.bridge, device, *columns]
        layout.vsctl += self._interface(name, device, _INTERFACE.get(port.kind, ()), port.mtu)

    def _lay_out_host(self, name: str, port: CasePort, device: str, layout: _Layout) -> None:
        mtu = f"mtu {port.mtu or 1500}"
        layout.links.append(
            f"link add name {device} group {_GROUP} {mtu} up type veth "
            f"peer name {device} {mtu} netns {self.bench.peers.name}"
        )
        layout.peers_up.append(f"link set {device} up")
        self._add_machine(name, self.bench.peers, device)

    def _lay_out_bond(self, name: str, port: CasePort, device: str, layout: _Layout) -> None:
        members = {member: self._device_name(member) for member in port.members}
        # One member or another: which one a balanced bond takes is its own affair.
        balanced = any(setting.startswith("bond_mode=balance") for setting in port.settings)
        for member, each in members.items():
            whole = f"{name}.{member}"
            self._lay_out_host(whole, port, each, layout)
            self._places[whole] = name if balanced else whole
        layout.vsctl += ["--", "add-bond", self.bridge, device, *members.values()]
        layout.vsctl += [column.format_map(members) for column in port.columns()]
        for member, each in members.items():
            layout.vsctl += self._interface(member, each, (), port.mtu)

    def _lay_out_patch(self, name: str, port: CasePort, device: str, layout: _Layout) -> None:
        """The machine is behind another bridge."""
        other, here, there = f"{self.bridge}{name}", f"{device}h", f"{device}t"
        self.devices.pop(name)
        self._port_rows[name] = here
        layout.vsctl += [
            *("--", "add-br", other),
            *("--", "set", "Bridge", other, f"datapath_type={datapath_type()}"),
            *("--", "add-port", other, device),
            *("--", "add-port", other, there, "--", "set", "Interface", there),
            *("type=patch", f"options:peer={here}"),
            *("--", "add-port", self.bridge, here, *port.columns()),
            *self._interface(name, here, ("type=patch", f"options:peer={there}"), None),
        ]

    def _interface(
        self, name: str, device: str, settings: Sequence[str], mtu: int | None
    ) -> list[str]:
        number = len(self._numbers) + 1
        self._numbers[name] = number
        size = [] if mtu is None else [f"mtu_request={mtu}"]
        return ["--", "set", "Interface", device, f"ofport_request={number}", *settings, *size]

    def _add_machine(self, name: str, ns: Netns, device: str) -> None:
        self._machines[name] = Machine(ns, device)
        self._places[name] = name
        self.devices[name] = device

    def _add_tap(self, name: str, device: str) -> None:
        tap = TapDevice(self.switch.ns, device, "02:00:00:00:00:00", "0.0.0.0", _QUEUE)
        self._machines[name] = self._resources.enter_context(tap)
        self._places[name] = name
        self.devices[name] = device

    def _device_name(self, name: str) -> str:
        """A device's name, of at most 15 characters."""
        return f"p{self.serial}.{next(self._order)}{name}"[:15]

    def _batch(self, ns: Netns, lines: Sequence[str]) -> None:
        ns.run("ip", "-batch", "-", stdin="".join(f"{line}\n" for line in lines))

    def _remove_bridges(self) -> None:
        removed = []
        for name, port in self.case.ports.items():
            if port.kind == "patch":
                removed += ["--", "--if-exists", "del-br", f"{self.bridge}{name}"]
        for setting in self.case.open_vswitch:
            column, _, key = setting.partition("=")[0].partition(":")
            removed += ["--", "remove", "Open_vSwitch", ".", column, key]
        self.switch.vsctl("--if-exists", "del-br", self.bridge, *removed)

    def _check_ports(self) -> None:
        """Every port with a device is there, and bonds use all their members."""
        absent = {self._port_rows[n] for n, p in self.case.ports.items() if p.kind == "absent"}
        wanted = {row for row in self._port_rows.values() if row not in absent}
        for row in self._rows("Interface", "name", "error"):
            if row["name"] in wanted and row["error"] not in ("", ["set", []]):
                raise RuntimeError(f"port {row['name']}: {row['error']}")
        for name, port in self.case.ports.items():
            if port.kind == "bond":
                wait_for(partial(self._bond_is_up, name), what=f"members of {name}")

    def _add_flows(self) -> None:
        if self.case.flows:
            self.switch.ofctl("del-flows", self.bridge)
        for flow in self.case.flows:
            filled = flow.format_map(self._numbers)
            version = "OpenFlow13" if "push_vlan" in flow else "OpenFlow10"
            self.switch.ofctl("-O", version, "add-flow", self.bridge, filled)

    def _bond_is_up(self, name: str) -> bool:
        shown = self.switch.appctl("bond/show", self._port_rows[name])
        return set(_MEMBER_LINE.findall(shown)) == {"enabled"}

    # Mirrors.

    def add_mirrors(self) -> None:
        """Add the case's mirrors in one transaction, so that OVS sorts them by UUID."""
        self.switch.vsctl(*self._create_mirrors()[1:])

    def _create_mirrors(self) -> list[str]:
        names = sorted({port for mirror in self.case.mirrors for port in _ports_of(mirror)})
        ids = {port: f"@p{number}" for number, port in enumerate(names)}
        arguments = []
        for port, identifier in ids.items():
            arguments += ["--", f"--id={identifier}", "get", "Port", self._port_rows[port]]
        for number, mirror in enumerate(self.case.mirrors):
            name = self.mirror_name(number)
            arguments += ["--", f"--id=@m{number}", "create", "Mirror", f"name={name}"]
            arguments += _columns(mirror, ids)
            arguments += ["--", "add", "Bridge", self.bridge, "mirrors", f"@m{number}"]
        return arguments

    def become(self, case: Case) -> None:
        """Have the VLAN settings and mirrors of another case, which may use fewer ports.

        Its mirrors are native. Ports that it does not use are in a VLAN of their own.
        """
        self.case = case
        arguments = ["clear", "Bridge", self.bridge, "mirrors"]
        for name, row in self._port_rows.items():
            port = case.ports.get(name, _UNUSED)
            arguments += ["--", "clear", "Port", row, *_VLAN_COLUMNS]
            arguments += ["--", "set", "Port", row, "protected=false", *port.columns()]
        mode = f"external_ids:{MODE_KEY}=native"
        arguments += ["--", "set", "Bridge", self.bridge, mode, *self._create_mirrors()]
        self.switch.vsctl(*arguments)
        # Until the sidecar has seen that, hooks of the last case's mirrors may still be there.
        wait_for(lambda: all(STATE_KEY in ids for ids in self.mirror_ids()), what="native mirrors")

    def mirror_name(self, number: int) -> str:
        """The name of the case's mirror, the first being number 0."""
        return f"{self.bridge}-m{number + 1}"

    def set_mode(self, mode: str) -> None:
        """Set the mode of all the bridge's mirrors."""
        self.switch.vsctl("set", "Bridge", self.bridge, f"external_ids:{MODE_KEY}={mode}")

    def decisions(self) -> list[OffloadDecision | None]:
        """What the rows say of each mirror; None of those that are on the move."""
        return [_decision(ids) for ids in self.mirror_ids()]

    def mirror_ids(self) -> list[dict[str, str]]:
        """The external_ids of the case's mirrors, in order."""
        rows = {row["name"]: row for row in self._rows("Mirror", "name", "external_ids")}
        mirrors = (rows[self.mirror_name(n)] for n in range(len(self.case.mirrors)))
        return [dict(row["external_ids"][1]) for row in mirrors]

    def wait_verdicts(self, expected: bool = True) -> list[OffloadDecision | None]:
        """The decisions once they are what the case says, or after a while those that are there.

        Without `expected` any decision will do.
        """
        began = time.monotonic()

        def settled() -> list[OffloadDecision | None]:
            self._check_sidecar()
            found = self.decisions()
            waited = time.monotonic() - began
            if self.bench.sidecar.is_moving() and waited <= patience(_VERDICT):
                return []
            over = all(found) and (not expected or waited > patience(_UNEXPECTED))
            done = over or all(map(as_expected, self.case.mirrors, found))
            return found if done or waited > patience(_VERDICT) else []

        return wait_for(settled, 2 * _VERDICT, "decisions") if self.case.mirrors else []

    def _check_sidecar(self) -> None:
        process = self.bench.sidecar.process
        if process is None or process.poll() is not None:
            raise AssertionError(f"the sidecar ended: {self.bench.sidecar.log()[-2000:]}")

    def _rows(self, table: str, *columns: str) -> list[dict[str, Any]]:
        printed = self.switch.vsctl(
            "--format=json", f"--columns={','.join(columns)}", "list", table
        )
        found = json.loads(printed)
        return [dict(zip(found["headings"], row, strict=True)) for row in found["data"]]

    # Traffic.

    def play(self, sent: Sequence[Sent], at_least: Frames | None = None) -> Run:
        """Start flows afresh, send, and return what came of it.

        Waits longer for what is in `at_least`.
        """
        self._start_afresh()
        self._watch.clear()
        before = self._count()
        self._send(sent)
        self._watch.wait_quiet(_AFTER, at_least)
        after = self._count()
        frames = self._watch.frames()
        grown = {
            name: (after[name][0] - rx, after[name][1] - tx) for name, (rx, tx) in before.items()
        }
        return Run(frames, grown)

    def _start_afresh(self) -> None:
        self.switch.appctl("fdb/flush", self.bridge)
        if self.case.learn:
            self._send(self.case.learn)
            self._watch.wait_quiet(_LEARNT)
        self.switch.appctl("revalidator/purge")

    def _send(self, sent: Sequence[Sent]) -> None:
        for name, frames in sent:
            self._machines[name].send(frames)
            self._watch.wait_quiet(_BETWEEN)

    def _count(self) -> dict[str, tuple[int, int]]:
        """The packets that each port has received and sent, as OVS counts."""
        names = {str(number): name for name, number in self._numbers.items()}
        names["LOCAL"] = LOCAL
        found = _PORT_LINE.findall(self.switch.ofctl("dump-ports", self.bridge))
        return {names[n]: (int(rx), int(tx)) for n, rx, tx in found if n in names}


class _PlaceListeners:
    """Captures behind ports, several of which may be one place."""

    def __init__(self) -> None:
        self._listeners: list[tuple[str, Capture | TapDevice]] = []

    @contextlib.contextmanager
    def over(self, place: str, machine: Machine | TapDevice) -> Iterator[None]:
        """Watches a machine as well, while the with-block runs."""
        if isinstance(machine, TapDevice):
            self._listeners.append((place, machine))
            yield
        else:
            with Capture.of(machine) as capture:
                self._listeners.append((place, capture))
                yield

    def clear(self) -> None:
        """Forget what was captured so far."""
        for _, listener in self._listeners:
            listener.clear()

    def frames(self) -> Frames:
        """What was captured since."""
        found: Frames = {place: Counter() for place, _ in self._listeners}
        for place, listener in self._listeners:
            found[place] += listener.multiset()
        return found

    def wait_quiet(self, idle: float, at_least: Frames | None = None) -> None:
        """Wait until nothing came for `patience(idle)`; frames that are due may take longer."""
        due = sum(frames.total() for frames in (at_least or {}).values())
        places = set(at_least or {})
        last, since = -1, time.monotonic()
        while True:
            counts = [(place, len(listener.frames())) for place, listener in self._listeners]
            total = sum(count for _, count in counts)
            now = time.monotonic()
            if total != last:
                last, since = total, now
            missing = sum(count for place, count in counts if place in places) < due
            if now - since >= patience(_LATE if missing else idle):
                return
            time.sleep(idle / 4)


_INTERFACE: Mapping[str, Sequence[str]] = {
    "internal": ("type=internal",),
    "vxlan": ("type=vxlan", "options:remote_ip=192.0.2.9"),
}


def as_expected(mirror: CaseMirror, decision: OffloadDecision | None) -> bool:
    """Whether the sidecar says of the mirror what the case says."""
    if decision is None or decision.state != mirror.state:
        return False
    return mirror.reason in (decision.reason or "")


def _decision(ids: Mapping[str, str]) -> OffloadDecision | None:
    state, reason = ids.get(STATE_KEY), ids.get(REASON_KEY)
    moving = (state == OFFLOADED) != (SELECT_VLAN_KEY in ids)
    waiting = reason == _MODE_IS_NATIVE or _NOT_YET in (reason or "")
    if state is None or moving or (state == NATIVE and waiting):
        return None
    return OffloadDecision(state, reason)


def _ports_of(mirror: CaseMirror) -> list[str]:
    output = [] if mirror.output is None else [mirror.output]
    return [*mirror.src.split(), *mirror.dst.split(), *output]


def _columns(mirror: CaseMirror, ids: Mapping[str, str]) -> list[str]:
    """The Mirror row's columns that are set, as arguments of ovs-vsctl."""
    values = {
        "select_src_port": ",".join(ids[port] for port in mirror.src.split()),
        "select_dst_port": ",".join(ids[port] for port in mirror.dst.split()),
        "select_all": "true" if mirror.select_all else "",
        "output_port": ids[mirror.output] if mirror.output else "",
        "output_vlan": "" if mirror.output_vlan is None else str(mirror.output_vlan),
        "select_vlan": ",".join(map(str, mirror.select_vlan)),
        # No mode at all is another reason than that of mirrors which are on their way.
        f"external_ids:{MODE_KEY}": "none" if mirror.native else "",
        "snaplen": "" if mirror.snaplen is None else str(mirror.snaplen),
    }
    return [f"{column}={value}" for column, value in values.items() if value]
