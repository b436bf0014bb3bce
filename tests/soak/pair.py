"""Two switches of the same configuration: one beside a sidecar, one that copies by itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf, programs
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.tap import TapDevice
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.model.desired import NATIVE, OFFLOADED
from ovs_ebpf_tap.model.reasons.packet_reasons import FLOWS_UNKNOWN
from ovs_ebpf_tap.model.rows import MODE_KEY, REASON_KEY, SELECT_VLAN_KEY, STATE_KEY
from parity.case import CasePort, datapath_type
from parity.place_listeners import Machine
from soak.foreign_programs import ForeignPrograms
from soak.scene import BRIDGE, DOWN, KINDS, NUMBERS, RENAMED, UP, Scene

CANARY = "canary"
"""A mirror, and its bridge, that the sidecar is to say something of."""

_QUEUE = 30_000
_REST = 30.0
"""Seconds for all to come to rest, ovs-vswitchd's and the sidecar's reconnections included."""
_UUID = abi.layout("uuid")

Row = dict[str, Any]


class Twin(Resource):
    """One of the two switches, with silent machines around it."""

    def __init__(self, label: str, scene: Scene) -> None:
        self.switch = Switch(label)
        self.peers = Netns(f"{label}-machines")
        self._scene = scene
        self._taps: dict[str, TapDevice] = {}
        self._resources = contextlib.ExitStack()

    def open(self) -> None:
        """Start the switch with a bridge without mirrors; there are no ports yet."""
        with contextlib.ExitStack() as opening:
            opening.enter_context(self.switch)
            opening.enter_context(self.peers)
            opening.callback(self._close_taps)
            for bridge in (BRIDGE, CANARY):
                setting = f"datapath_type={datapath_type()}"
                self.switch.vsctl("add-br", bridge, "--", "set", "Bridge", bridge, setting)
            columns = {MODE_KEY: "0"}
            self.switch.mirror(CANARY, CANARY, output=CANARY, external_ids=columns)
            self._resources = opening.pop_all()

    def close(self) -> None:
        """End it."""
        self._resources.close()

    def _close_taps(self) -> None:
        for tap in self._taps.values():
            tap.close()

    def machine(self, name: str) -> Machine | TapDevice:
        """Who sends and receives behind a port."""
        if name in self._taps:
            return self._taps[name]
        return Machine(self.peers if KINDS[name] == "host" else self.switch.ns, name)

    # Devices.

    def link(self, *words: str) -> None:
        """Run `ip link` beside the switch."""
        self.switch.ns.run("ip", "link", *words)

    def add_device(self, name: str) -> None:
        """Make a port's device: a machine's veth pair, or a virtual machine's tap."""
        if KINDS[name] == "tap":
            tap = TapDevice(self.switch.ns, name, "02:00:00:00:00:00", "0.0.0.0", _QUEUE)
            tap.open()
            self._taps[name] = tap
            return
        peer = ("peer", "name", name, "netns", self.peers.name)
        self.link("add", "name", name, "type", "veth", *peer)
        self.peers.run("ip", "link", "set", "dev", name, "up")
        self.link("set", "dev", name, "up")

    def delete_device(self, name: str) -> None:
        """Remove a port's device."""
        if name in self._taps:
            self._taps.pop(name).close()
        else:
            self.link("del", "dev", name)

    # Open vSwitch.

    def add_port(self, name: str, port: CasePort) -> None:
        """Add the Port row."""
        kind = ("type=internal",) if KINDS[name] == "internal" else ()
        number = f"ofport_request={NUMBERS[name]}"
        interface = ("--", "set", "Interface", name, number, *kind)
        self.switch.vsctl("add-port", BRIDGE, name, *port.columns(), *interface)

    def add_flow(self, flow: str) -> None:
        """Add to the flow table."""
        self.switch.ofctl("add-flow", BRIDGE, flow)

    def start_vswitchd(self) -> None:
        """As ovs-ctl does: with the flows that there were."""
        self.switch.start_vswitchd()
        for flow in self._scene.flows.values():
            self.add_flow(flow)

    def restart_vswitchd(self) -> None:
        """In order."""
        self.switch.stop_vswitchd()
        self.start_vswitchd()

    def kill_vswitchd(self) -> None:
        """And start it again."""
        self.switch.kill_vswitchd()
        self.start_vswitchd()

    def rows(self, table: str, *columns: str) -> list[Row]:
        """Columns of all rows, as ovs-vsctl's JSON has them."""
        listing = ("--format=json", f"--columns={','.join(columns)}", "list", table)
        done = self.switch.ns.run("ovs-vsctl", f"--db={self.switch.db}", *listing)
        printed = json.loads(done.stdout)
        return [dict(zip(printed["headings"], row, strict=True)) for row in printed["data"]]

    def raise_own(self) -> None:
        """Set up the devices that ovs-vswitchd makes: a new one has made them anew."""
        own = [name for name in self._scene.ports if KINDS[name] in ("internal", "local")]
        for name in own:
            wait_for(partial(self._raise, name), _REST, f"device {name}")

    def _raise(self, name: str) -> bool:
        words = ("ip", "link", "set", "dev", name, "up", "txqueuelen", str(_QUEUE))
        return self.switch.ns.run(*words, check=False).returncode == 0

    def ports(self) -> dict[str, Row]:
        """What ovs-vswitchd says of each port's device."""
        rows = self.rows("Interface", "name", "ofport", "admin_state", "link_state")
        return {row["name"]: row for row in rows if row["name"] in self._scene.ports}

    def has_seen(self, ports: dict[str, Row]) -> bool:
        """Whether it has seen those that there are as they are."""
        return all(self._is_seen(name, ports.get(name, {})) for name in self._scene.ports)

    def _is_seen(self, name: str, row: Row) -> bool:
        state = self._scene.state(name)
        if state in (None, RENAMED):
            return True  # When it lets go of one that is gone, is its own affair.
        there = isinstance(row.get("ofport"), int) and row["ofport"] != -1
        carrier = state == DOWN or row.get("link_state") == UP
        return there and row.get("admin_state") == state and carrier


@dataclass(frozen=True)
class Rest:
    """The sidecar's Mirror rows, and what both ovs-vswitchd say of ports' devices."""

    mirrors: list[Row]
    ports: list[dict[str, Row]]


class Pair(Resource):
    """The switches, the sidecar beside the first, and what the second one knows nothing of."""

    def __init__(self, attach: str) -> None:
        self.scene = Scene()
        self.tested = Twin("tested", self.scene)
        self.oracle = Twin("oracle", self.scene)
        self.sidecar = SidecarProcess(self.tested.switch, "--attach", attach)
        self.foreign = ForeignPrograms(self.tested.switch)
        self._resources = contextlib.ExitStack()
        self._asked = 0

    def open(self) -> None:
        """Start all; the bridges have no ports but their own."""
        with contextlib.ExitStack() as opening:
            for resource in (self.tested, self.oracle, self.foreign, self.sidecar):
                opening.enter_context(resource)
            self.scene.ports[BRIDGE] = CasePort()
            self._resources = opening.pop_all()

    def close(self) -> None:
        """End all."""
        self._resources.close()

    @property
    def twins(self) -> tuple[Twin, Twin]:
        """Both switches."""
        return self.tested, self.oracle

    def both(self, do: Callable[[Twin], object]) -> None:
        """Do the same to both."""
        for twin in self.twins:
            do(twin)

    def vsctl(self, *words: str) -> None:
        """Run ovs-vsctl on both."""
        self.both(lambda twin: twin.switch.vsctl(*words))

    # Rest.

    def settle(self) -> Rest:
        """Wait until all is as it will stay, and alike."""
        self.both(Twin.raise_own)
        self._await_canary()
        seen: list[Rest] = []

        def at_rest() -> bool:
            self._check_sidecar()
            if self.sidecar.is_moving():
                return False
            seen.append(Rest(self.mirrors(), [twin.ports() for twin in self.twins]))
            return seen[-1] in seen[-2:-1] and self._is_at_rest(seen[-1])

        try:
            wait_for(at_rest, _REST, "rest", every=0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {seen[-1]}, slots {self.slots()}") from None
        return seen[-1]

    def _await_canary(self) -> None:
        """Wait until the sidecar has taken in all that is in the database.

        It says of a mirror with a mode that there is not, on another bridge, which one that is.
        """
        self._asked += 1
        self.vsctl("set", "Mirror", CANARY, f"external_ids:{MODE_KEY}={self._asked}")

        def is_seen() -> bool:
            self._check_sidecar()
            (row,) = (row for row in self._rows() if row["name"] == CANARY)
            return f"'{self._asked}'" in row["external_ids"].get(REASON_KEY, "")

        wait_for(is_seen, _REST, f"a look at mirror {CANARY}", every=0.02)

    def _check_sidecar(self) -> None:
        process = self.sidecar.process
        if process is None or process.poll() is not None:
            raise AssertionError(f"the sidecar ended: {self.sidecar.log()[-2000:]}")

    def mirrors(self) -> list[Row]:
        """The rows of the sidecar's mirrors but the canary, without statistics, by name."""
        rows = (row for row in self._rows() if row["name"] != CANARY)
        return sorted(rows, key=lambda row: str(row["name"]))

    def _rows(self) -> list[Row]:
        rows = self.tested.rows("Mirror", "name", "_uuid", "external_ids", "select_vlan")
        for row in rows:
            row["external_ids"] = dict(row["external_ids"][1])
            row["_uuid"] = row["_uuid"][1]
        return rows

    def _is_at_rest(self, found: Rest) -> bool:
        tested, oracle = found.ports
        return (
            tested == oracle
            and self.tested.has_seen(tested)
            and all(map(_stays, found.mirrors))
            # One may leave all its copies to others with the same output.
            and self.slots() <= {row["_uuid"] for row in found.mirrors if is_offloaded(row)}
        )

    @contextlib.contextmanager
    def all_native(self) -> Iterator[None]:
        """Have Open vSwitch copy for all mirrors, for a while; settles before and after."""
        modes = {row["name"]: row["external_ids"].get(MODE_KEY) for row in self.mirrors()}
        for name in modes:
            self.set_mode("Mirror", name, NATIVE)
        self.settle()
        yield
        for name, mode in modes.items():
            self.set_mode("Mirror", name, mode)
        self.settle()

    def set_mode(self, table: str, record: str, mode: str | None) -> None:
        """Set the mode of a row, None for none."""
        if mode is None:
            self.vsctl("remove", table, record, "external_ids", MODE_KEY)
        else:
            self.vsctl("set", table, record, f"external_ids:{MODE_KEY}={mode}")

    def slots(self) -> set[str]:
        """The UUIDs of the mirrors that have a place in the kernel's maps."""
        with self.maps() as maps:
            keys = [_UUID.unpack(key) for key in maps["mirrors"].items()]
        return {str(UUID(int=key["high"] << 64 | key["low"])) for key in keys}

    @contextlib.contextmanager
    def maps(self) -> Iterator[Mapping[str, bpf.Map]]:
        """The sidecar's maps."""
        opened = programs.open_programs(self.sidecar.pin_dir)
        assert opened is not None, "the sidecar has no pins"
        try:
            yield opened.maps
        finally:
            opened.close()


def is_offloaded(row: Row) -> bool:
    """Whether a Mirror row says so."""
    return bool(row["external_ids"].get(STATE_KEY) == OFFLOADED)


def _stays(row: Row) -> bool:
    ids = row["external_ids"]
    parked = row["select_vlan"] == 4095
    return (
        STATE_KEY in ids
        and parked == is_offloaded(row) == (SELECT_VLAN_KEY in ids)
        and ids.get(REASON_KEY) != FLOWS_UNKNOWN.told()
    )
