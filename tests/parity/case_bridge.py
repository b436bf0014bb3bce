"""A case's bridge, ports and machines on a real switch, with a sidecar beside it."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.model.desired import OffloadDecision
from ovs_ebpf_tap.model.rows import MODE_KEY, STATE_KEY
from parity.case import Case, CasePort, Sent
from parity.case_layout import GROUP, LOCAL, CaseLayout, bridge_name
from parity.case_mirrors import as_expected, create_mirrors, decision_of, mirror_name
from parity.place_listeners import Frames, PlaceListeners

_BETWEEN = 0.02
"""Seconds of quiet after which the next port may send: what it causes depends on the order."""
_LEARNT = 0.06
"""Seconds of quiet after which all addresses are learned."""
_AFTER = 0.12
"""Seconds of quiet after which nothing more is expected."""
_VERDICT = 8.0
"""Seconds that the sidecar has for a decision."""
_UNEXPECTED = 1.0
"""Seconds after which a decision that is not the expected one is taken for the last."""

_VLAN_COLUMNS = ("tag", "trunks", "vlan_mode", "cvlans", "other_config")
_UNUSED = CasePort(tag=4094)

_LATER = ("push_vlan", "group:")
"""Actions that OpenFlow 1.0 does not have."""

_MEMBER_LINE = re.compile(r"^member .*: (\w+)$", re.MULTILINE)
_PORT_LINE = re.compile(r"port +(\w+): rx pkts=(\d+).*?tx pkts=(\d+)", re.DOTALL)


class ParityBench(Resource):
    """What many cases share: a switch, the sidecar, and a namespace for all machines."""

    def __init__(self, attach: str, ovs: Path | None = None) -> None:
        """`ovs` is a directory with another Open vSwitch than the machine's."""
        self.switch = Switch("parity", ovs=ovs)
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
class Run:
    """What arrived behind each port, and by how many packets each port's counters grew."""

    frames: Frames
    counted: dict[str, tuple[int, int]]


class CaseBridge(Resource):
    """The bridge of one case, or of several with the same ports."""

    def __init__(self, bench: ParityBench, case: Case) -> None:
        self.bench = bench
        self.switch = bench.switch
        self.case = case
        self.serial = next(bench.serials)
        self.bridge = bridge_name(self.serial)
        self._layout = CaseLayout(case, self.serial, self.switch.ns, bench.peers)
        self._watch = PlaceListeners()
        self._resources = contextlib.ExitStack()

    # Making it.

    def open(self) -> None:
        """Make the bridge, its ports with their devices, and the machines behind them."""
        layout, ns = self._layout, self.switch.ns
        layout.fill()
        with contextlib.ExitStack() as opening:
            for tap in layout.taps:
                opening.enter_context(tap)
            opening.callback(ns.run, "ip", "link", "del", "group", str(GROUP))
            self._batch(ns, layout.links)
            self._batch(self.bench.peers, layout.peers_up)
            opening.callback(self._remove_bridges)
            self.switch.vsctl(*layout.vsctl[1:])
            self._batch(ns, layout.later_up)
            self._check_ports()
            if self.case.flows:
                self._replace_flows()
            for name, machine in layout.machines.items():
                opening.enter_context(self._watch.over(layout.places[name], machine))
            self._resources = opening.pop_all()

    @property
    def devices(self) -> dict[str, str]:
        """The device of each port that has one; of a bond's member, under "port.member"."""
        return self._layout.devices

    def close(self) -> None:
        """Remove all that was made."""
        self._resources.close()

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
        absent = {
            self._layout.port_rows[n] for n, p in self.case.ports.items() if p.kind == "absent"
        }
        wanted = {row for row in self._layout.port_rows.values() if row not in absent}
        for row in self._rows("Interface", "name", "error"):
            if row["name"] in wanted and row["error"] not in ("", ["set", []]):
                raise RuntimeError(f"port {row['name']}: {row['error']}")
        for name, port in self.case.ports.items():
            if port.kind == "bond":
                wait_for(partial(self._bond_is_up, name), what=f"members of {name}")

    def _replace_flows(self) -> None:
        self.switch.ofctl("del-flows", self.bridge)
        flows = self.case.flows or ("actions=NORMAL",)
        for command, texts in (("add-group", self.case.groups), ("add-flow", flows)):
            for text in texts:
                filled = text.format_map(self._layout.numbers)
                later = command == "add-group" or any(each in text for each in _LATER)
                version = "OpenFlow13" if later else "OpenFlow10"
                self.switch.ofctl("-O", version, command, self.bridge, filled)

    def _bond_is_up(self, name: str) -> bool:
        shown = self.switch.appctl("bond/show", self._layout.port_rows[name])
        return set(_MEMBER_LINE.findall(shown)) == {"enabled"}

    # Mirrors.

    def add_mirrors(self) -> None:
        """Add the case's mirrors in one transaction, so that OVS sorts them by UUID."""
        self.switch.vsctl(*self._create_mirrors()[1:])

    def _create_mirrors(self) -> list[str]:
        return create_mirrors(self.case.mirrors, self.bridge, self._layout.port_rows)

    def become(self, case: Case) -> None:
        """Have the VLAN settings, flows and mirrors of another case, which may use fewer ports.

        Its mirrors are native. Ports that it does not use are in a VLAN of their own.
        """
        has_other_flows = bool(self.case.flows or case.flows)
        self.case = case
        if has_other_flows:
            self._replace_flows()
        arguments = ["clear", "Bridge", self.bridge, "mirrors"]
        for name, row in self._layout.port_rows.items():
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
        return mirror_name(self.bridge, number)

    def set_mode(self, mode: str) -> None:
        """Set the mode of all the bridge's mirrors."""
        self.switch.vsctl("set", "Bridge", self.bridge, f"external_ids:{MODE_KEY}={mode}")

    def decisions(self) -> list[OffloadDecision | None]:
        """What the rows say of each mirror; None of those that are on the move."""
        return [decision_of(ids) for ids in self.mirror_ids()]

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
        if self.case.has_conntrack:
            self.switch.appctl("dpctl/flush-conntrack")
        self.switch.appctl("revalidator/purge")

    def _send(self, sent: Sequence[Sent]) -> None:
        for name, frames in sent:
            self._layout.machines[name].send(frames)
            self._watch.wait_quiet(_BETWEEN)

    def _count(self) -> dict[str, tuple[int, int]]:
        """The packets that each port has received and sent, as OVS counts."""
        names = {str(number): name for name, number in self._layout.numbers.items()}
        names["LOCAL"] = LOCAL
        found = _PORT_LINE.findall(self.switch.ofctl("dump-ports", self.bridge))
        return {names[n]: (int(rx), int(tx)) for n, rx, tx in found if n in names}
