"""What bridges' flow tables do to packets, and their ports' flags."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import ovs.poller

from ovs_ebpf_tap.model.flow import Pipeline
from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortFlags
from ovs_ebpf_tap.observe.flow_monitor import FlowMonitor
from ovs_ebpf_tap.observe.openflow_channel import Channel, management_socket, may_serve
from ovs_ebpf_tap.observe.port_flags import PortFlagsPoller
from ovs_ebpf_tap.util.timers import wake_at

_RUN = 0.01
"""Seconds after which `run` leaves the rest for the next time."""

_COPY = 0.25
"""Seconds for which a pipeline stays as it is, though it changes all the time."""

_NEVER = float("inf")


class _Copy(NamedTuple):
    """A pipeline as it was."""

    pipeline: Pipeline
    version: int
    until: float
    """Before that it is not copied again."""


class FlowTables:
    """Watches bridges' flow tables and port flags; never blocks; drive it with `run` and `wait`."""

    def __init__(self, run_dir: Path) -> None:
        """`run_dir` is where the Open vSwitch has its bridges' management sockets."""
        self._run_dir = run_dir
        self._flows: dict[str, FlowMonitor] = {}
        self._ports: dict[str, PortFlagsPoller] = {}
        self._order: deque[Channel] = deque()
        self.traits: Mapping[str, FlowTraits] = {}
        """By bridge; those of which nothing is known, not yet or no longer, are absent."""
        self.port_flags: Mapping[str, PortFlags] = {}
        """By bridge, as `traits`."""
        self._pipelines: dict[str, _Copy] = {}
        self._next_copy = _NEVER

    def watch(self, bridges: Collection[str]) -> None:
        """Watches these bridges from now on, and no others; any number of times."""
        wanted = {name for name in bridges if may_serve(name)}
        for name in self._flows.keys() - wanted:
            for channel in (self._flows.pop(name), self._ports.pop(name)):
                channel.close()
                self._order.remove(channel)
        for name in sorted(wanted - self._flows.keys()):
            socket = management_socket(self._run_dir, name)
            self._flows[name], self._ports[name] = FlowMonitor(socket), PortFlagsPoller(socket)
            self._order += (self._flows[name], self._ports[name])

    def close(self) -> None:
        """Drops all connections."""
        self.watch(())

    def run(self) -> bool:
        """Takes in what has arrived; returns whether `traits` or `port_flags` changed."""
        now = time.monotonic()
        until = now + _RUN
        if now >= self._next_copy:
            self._next_copy = _NEVER
        for _ in range(len(self._order)):
            self._order.rotate(-1)  # Those that time does not reach come first the next time.
            self._order[-1].run(until)
            if time.monotonic() >= until:
                break
        flows = ((name, channel.traits) for name, channel in self._flows.items())
        traits = {name: each for name, each in flows if each is not None}
        ports = ((name, channel.flags) for name, channel in self._ports.items())
        flags = {name: each for name, each in ports if each is not None}
        changed = (traits, flags) != (self.traits, self.port_flags)
        if changed:
            self.traits, self.port_flags = traits, flags
        return changed

    @property
    def versions(self) -> Mapping[str, int]:
        """By bridge, as `traits`: another number whenever its pipeline is another."""
        numbers = ((name, channel.version) for name, channel in self._flows.items())
        return {name: number for name, number in numbers if number is not None}

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """By bridge, as `traits`: the same object as before if it has not changed."""
        now = time.monotonic()
        copies: dict[str, _Copy] = {}
        for name, version in self.versions.items():
            copy = self._pipelines.get(name)
            if copy is None or (copy.version != version and now >= copy.until):
                copy = _Copy(self._flows[name].pipeline, version, now + _COPY)
            if copy.version != version:
                self._next_copy = min(self._next_copy, copy.until)
            copies[name] = copy
        self._pipelines = copies
        return {name: copy.pipeline for name, copy in copies.items()}

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        for channel in self._order:
            channel.wait(poller)
        if self._next_copy < _NEVER:
            wake_at(poller, self._next_copy)
