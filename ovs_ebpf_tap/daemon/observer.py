"""What a pass decides from, and the events that call for a pass, of all that observes."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ovs.poller

from ovs_ebpf_tap.daemon.flow_analysis import FlowAnalysis
from ovs_ebpf_tap.decide.examined_ports import ExaminedPorts
from ovs_ebpf_tap.decide.followed_ports import followed_ports
from ovs_ebpf_tap.decide.policing import CoolDown
from ovs_ebpf_tap.model import surroundings
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.flow_traits import OpenFlow
from ovs_ebpf_tap.model.rows import Database, Interface
from ovs_ebpf_tap.observe.departures import Departures
from ovs_ebpf_tap.observe.devices import DeviceMonitor
from ovs_ebpf_tap.observe.flow_tables import FlowTables
from ovs_ebpf_tap.observe.hw_offload import HwOffload
from ovs_ebpf_tap.observe.openings import Openings
from ovs_ebpf_tap.observe.ovsdb import Ovsdb
from ovs_ebpf_tap.observe.vswitchd import seconds_since_start
from ovs_ebpf_tap.util.timers import wake_at


class Events(NamedTuple):
    """What has happened since the last time."""

    seen: bool
    """Whether anything of an `Observation` may differ."""
    devices: bool
    """Whether devices changed."""
    hooks: bool
    """Whether somebody may have removed hooks."""
    freed: frozenset[int]
    """The devices, by ifindex, whose ingress no qdisc of another kind holds any more."""


@dataclass(frozen=True)
class Observation:
    """What a pass decides from. Two are equal if they lead to the same decisions.

    Who observes returns the same object while it finds the same, so that comparing costs little:
    Python looks whether two objects are one before it compares them.
    """

    db: Database
    """The rows, with what they do not say of Open vSwitch."""
    devices: Mapping[str, Device]
    openflow: OpenFlow
    others: surroundings.State
    reserved: Mapping[int, str]
    """Why no clsact qdisc is added to a device yet, by ifindex."""


class Observer:
    """Follows rows, devices, flow tables, and what rows do not say."""

    def __init__(
        self, ovsdb: Ovsdb, monitor: DeviceMonitor, ovs_run_dir: Path, cool_down: CoolDown
    ) -> None:
        """`ovs_run_dir` is where ovs-vswitchd has its pid file and sockets."""
        self._ovsdb = ovsdb
        self._monitor = monitor
        self._cool_down = cool_down
        self._flow_tables = FlowTables(ovs_run_dir)
        self._flow_analysis = FlowAnalysis()
        self._openflow = OpenFlow()
        self._examined = ExaminedPorts()
        self._protocols: Mapping[str, Collection[str]] = {}
        """By bridge: its OpenFlow versions, as it was asked for its flows."""
        self._hw_offload = HwOffload(ovs_run_dir)
        self._departures = Departures(ovs_run_dir)
        self._openings = Openings(partial(seconds_since_start, ovs_run_dir))
        self._ports: frozenset[int] = frozenset()
        """The devices of ports, by ifindex, as they were found in `_ports_of`."""
        self._ports_of: tuple[object, ...] = ()

    def run(self) -> Events:
        """Takes in what has happened. Raises OSError if it is not to be had."""
        seen = self._ovsdb.run()
        if self._flow_tables.run():
            self._openflow = replace(self._openflow, port_flags=self._flow_tables.port_flags)
            seen = True
        seen |= self._analyse()
        others = self._monitor.others
        changes = self._monitor.run()
        if changes.left:
            self._departures.note(changes.left, self._ovsdb.snapshot())
        now = time.monotonic()
        self._cool_down.begin(changes.appeared, "is new", now)
        self._cool_down.begin(changes.freed, "has lost its ingress qdisc", now)
        seen |= others != self._monitor.others
        return Events(seen, changes.devices, changes.hooks, frozenset(changes.freed))

    def refresh(self) -> None:
        """Reads everything anew: what changes without a word, and what was missed."""
        self._monitor.refresh()
        self._hw_offload.refresh()
        self._departures.refresh()
        self._openings.refresh()

    def observe(self, now: float) -> Observation:
        """What there is, with others' filters on the devices of ports."""
        devices = self._monitor.devices
        db = self._openings.look(self._hw_offload.look(self._ovsdb.snapshot()), devices)
        db = self._departures.look(db, devices)
        self._monitor.follow(self._followed(db, devices))
        return Observation(
            db, devices, self._openflow, self._monitor.others, self._cool_down.reserved(now)
        )

    def _followed(self, db: Database, devices: Mapping[str, Device]) -> frozenset[int]:
        """The devices where others' filters matter, by ifindex: those of ports.

        With hw-offload, Open vSwitch's own flows are there, thousands of them.
        """
        if db.hw_offload:
            return frozenset()
        if self._ports_of != (db.interfaces, devices):
            self._ports_of = (db.interfaces, devices)
            self._ports = _devices_of(db.interfaces.values(), devices)
        return self._ports

    def follow_flows(self, db: Database) -> OpenFlow:
        """Follows the flow tables that mirrors of these rows depend on, from now on.

        Returns what is known; of ports that are new, what can be found out in a moment.
        """
        ports = followed_ports(db)
        if ports != self._flow_analysis.ports:
            self._flow_tables.watch(ports)
            self._flow_analysis.ports = ports
            self._analyse()
        protocols = {bridge.name: bridge.protocols for bridge in db.bridges.values()}
        for name in ports.keys() & self._protocols.keys():
            if protocols.get(name) != self._protocols[name]:
                self._flow_tables.retry(name)
        self._protocols = protocols
        examined = self._examined.look(db, self._openflow.traits)
        if examined != self._openflow.examined:
            self._openflow = replace(self._openflow, examined=examined)
        return self._openflow

    def _analyse(self) -> bool:
        changed = self._flow_analysis.run(self._flow_tables)
        if changed:
            self._openflow = replace(self._openflow, traits=self._flow_analysis.traits)
        return changed

    @property
    def wake(self) -> float:
        """When it is to be observed again though nothing happens; of the monotonic clock."""
        return self._openings.wake

    def hidden(self, seen: Observation) -> Mapping[int, str]:
        """Why hooks do not see all packets of a device, by ifindex."""
        return self._hw_offload.hidden(seen.devices) if seen.db.hw_offload else {}

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        self._ovsdb.wait(poller)
        self._flow_tables.wait(poller)
        if self._flow_analysis.wake < float("inf"):
            wake_at(poller, self._flow_analysis.wake)
        poller.fd_wait(self._monitor.fileno(), ovs.poller.POLLIN)

    def close(self) -> None:
        """Closes the connections to bridges."""
        self._flow_tables.close()


def _devices_of(interfaces: Collection[Interface], devices: Mapping[str, Device]) -> frozenset[int]:
    """The devices that have the interfaces' names, and those that Open vSwitch has open."""
    named = {devices[row.name].ifindex for row in interfaces if row.name in devices}
    return frozenset(named | {row.bound for row in interfaces if row.bound})
