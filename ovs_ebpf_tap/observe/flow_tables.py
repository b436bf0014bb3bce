"""What bridges' flow tables do to packets, and their ports' flags."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path

import ovs.poller

from ovs_ebpf_tap.model.flow import Pipeline
from ovs_ebpf_tap.model.flow_traits import PortFlags
from ovs_ebpf_tap.observe.flow_monitor import FlowMonitor
from ovs_ebpf_tap.observe.openflow_channel import Channel, management_socket, may_serve
from ovs_ebpf_tap.observe.port_flags import PortFlagsPoller

_RUN = 0.01
"""Seconds after which `run` leaves the rest for the next time."""


class FlowTables:
    """Watches bridges' flow tables and port flags; never blocks; drive it with `run` and `wait`."""

    def __init__(self, run_dir: Path) -> None:
        """`run_dir` is where the Open vSwitch has its bridges' management sockets."""
        self._run_dir = run_dir
        self._flows: dict[str, FlowMonitor] = {}
        self._ports: dict[str, PortFlagsPoller] = {}
        self._order: deque[Channel] = deque()
        self.port_flags: Mapping[str, PortFlags] = {}
        """By bridge; those of which nothing is known, not yet or no longer, are absent."""

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

    def retry(self, bridge: str) -> None:
        """Asks a bridge soon that could not be asked: it may speak other versions now."""
        for channel in (self._flows.get(bridge), self._ports.get(bridge)):
            if channel is not None:
                channel.retry()

    def close(self) -> None:
        """Drops all connections."""
        self.watch(())

    def run(self) -> bool:
        """Takes in what has arrived; returns whether `port_flags` changed."""
        until = time.monotonic() + _RUN
        for _ in range(len(self._order)):
            self._order.rotate(-1)  # Those that time does not reach come first the next time.
            self._order[-1].run(until)
            if time.monotonic() >= until:
                break
        ports = ((name, channel.flags) for name, channel in self._ports.items())
        flags = {name: each for name, each in ports if each is not None}
        changed = flags != self.port_flags
        if changed:
            self.port_flags = flags
        return changed

    @property
    def versions(self) -> Mapping[str, int]:
        """By bridge: another number whenever its pipeline is another; bridges of which nothing is
        known, not yet or no longer, are absent."""
        numbers = ((name, channel.version) for name, channel in self._flows.items())
        return {name: number for name, number in numbers if number is not None}

    def repeating(self, bridge: str) -> int:
        """The version of a bridge's last flow that names a port in two outputs."""
        return self._flows[bridge].repeating

    def pipeline(self, bridge: str) -> Pipeline:
        """A bridge's pipeline as it is now."""
        return self._flows[bridge].pipeline

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        for channel in self._order:
            channel.wait(poller)
