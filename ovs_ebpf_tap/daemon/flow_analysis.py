"""Works out what bridges' flows mean for mirrors, a little at a time.

Under a controller flows change all the time. What was found holds until it is worked out anew: that
takes `_SHARE` of a core, or more to be done within `_LATEST`, after flows were left alone for a
while, or after a flow that itself names a port twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from ovs_ebpf_tap.decide.flow_graph import FlowGraph
from ovs_ebpf_tap.decide.flow_paths import port_paths, traits_of
from ovs_ebpf_tap.model.flow import Pipeline
from ovs_ebpf_tap.model.flow_traits import UNKNOWN, FlowTraits, FollowedPort, PortPaths
from ovs_ebpf_tap.util import unexpected

_SHARE = 0.01
"""The share of a core that analysis takes in the long run."""
_MOST_SHARE = 0.2
"""The share that it takes at most: after a quiet time, or for a flow that names a port twice."""
_SLICE = 0.02
"""Seconds after which `run` leaves the rest for the next time."""

_LATEST = 20.0
"""Seconds after which a changed pipeline is looked at in any case; also for how long a share that
was not used is kept."""

_MOST = 1.0
"""Seconds of CPU time for one pipeline, after which the ports that are left stay undecided."""

Ports = Mapping[int, FollowedPort]
"""By OpenFlow number."""


class Tables(Protocol):
    """Where pipelines come from: `FlowTables`."""

    @property
    def versions(self) -> Mapping[str, int]:
        """By bridge: another number whenever its pipeline is another."""

    def repeating(self, bridge: str) -> int:
        """The version of a bridge's last flow that names a port in two outputs."""

    def pipeline(self, bridge: str) -> Pipeline:
        """A bridge's pipeline as it is now."""


@dataclass
class _Work:
    """What is found of a pipeline."""

    version: int
    pipeline: Pipeline
    building: Iterator[FlowGraph | None] = field(init=False)
    graph: FlowGraph | None = None
    """None until it is built."""
    found: dict[tuple[int, FollowedPort], PortPaths] = field(default_factory=dict)
    spent: float = 0.0
    """Seconds of CPU time."""

    def __post_init__(self) -> None:
        self.building = FlowGraph.build(self.pipeline)

    def run(self, ports: Ports, until: float) -> bool:
        """Works until about then; returns whether all of these ports were looked at."""
        # Others, the controller for one, may need the processors meanwhile.
        began = time.thread_time()
        until = min(until, time.monotonic() + _MOST - self.spent)
        while self.graph is None and time.monotonic() < until:
            self.graph = next(self.building)
        for port, followed in ports.items() - self.found.keys():
            if self.graph is None or time.monotonic() >= until:
                break
            paths = port_paths(self.graph, port, followed)
            self.found[port, followed] = paths
        self.spent += time.thread_time() - began
        if self.spent >= _MOST:
            for asked in ports.items() - self.found.keys():
                self.found[asked] = PortPaths(undecided=True)
            return True
        return self.graph is not None and ports.items() <= self.found.keys()

    def traits(self, ports: Ports) -> FlowTraits:
        """What is known of the pipeline, when all of these ports were looked at."""
        found = {port: self.found[port, followed] for port, followed in ports.items()}
        return traits_of(self.graph, found) if self.graph else replace(UNKNOWN, ports=found)


@dataclass
class _Bridge:
    """What holds for a bridge, and what is being worked out for it."""

    ports: Ports = field(default_factory=dict)
    held: _Work | None = None
    begun: _Work | None = None
    ended: float = 0.0
    """When `held` was, by the monotonic clock."""
    paid: float = 0.0
    """When the work so far will have taken no more than `_SHARE`, by the monotonic clock."""
    traits: FlowTraits | None = None

    def run(self, tables: Tables, name: str, ports: Ports) -> None:
        """Works for a while on what is newest."""
        now = time.monotonic()
        until = now + _SLICE
        if self.begun is None and now >= self._due(tables, name):
            self.begun = _Work(tables.versions[name], tables.pipeline(name))
        if self.begun is not None:
            if not self.begun.run(ports, until):
                return
            self.held, self.begun = self.begun, None
            self._end(self.held.spent)
        elif self.held is None or ports == self.ports or not self.held.run(ports, until):
            return
        self.ports = dict(ports)
        self.traits = self.held.traits(ports)

    def give_up(self, version: int, ports: Ports) -> None:
        """Leaves the bridge's ports undecided until its pipeline has changed."""
        self.begun, self.held = None, _Work(version, Pipeline())
        self.held.found = {asked: PortPaths(undecided=True) for asked in ports.items()}
        self._end(0.0)
        self.ports = dict(ports)
        self.traits = self.held.traits(ports)

    def _end(self, spent: float) -> None:
        self.ended = time.monotonic()
        self.paid = max(self.paid, self.ended - _LATEST) + spent / _SHARE

    def _due(self, tables: Tables, name: str) -> float:
        """When to look at the pipeline again."""
        if self.held is None:
            return 0.0
        if self.held.version == tables.versions[name]:
            return float("inf")
        soon = self.ended + min(self.held.spent / _MOST_SHARE, _LATEST)
        if tables.repeating(name) > self.held.version:
            return soon
        return max(soon, min(self.paid, self.ended + _LATEST))

    def wake(self, tables: Tables, name: str, ports: Ports) -> float:
        """When there is more to do."""
        if self.begun is not None or ports != self.ports:
            return 0.0
        return self._due(tables, name)


class FlowAnalysis:
    """Follows pipelines and the ports that are asked for; drive it with `run`."""

    def __init__(self) -> None:
        self._bridges: dict[str, _Bridge] = {}
        self.ports: Mapping[str, Ports] = {}
        """Those that matter, by bridge."""
        self.traits: Mapping[str, FlowTraits] = {}
        """By bridge; those of which nothing is known, not yet or no longer, are absent."""
        self.wake = float("inf")
        """When there is something to do though nothing happens; of the monotonic clock."""

    def run(self, tables: Tables) -> bool:
        """Works for a while on what the pipelines are now; returns whether `traits` changed."""
        self._bridges = {name: self._bridges.get(name) or _Bridge() for name in tables.versions}
        self.wake = float("inf")
        for name, bridge in self._bridges.items():
            ports = self.ports.get(name, {})
            try:
                bridge.run(tables, name, ports)
            except Exception as error:
                unexpected.reason(f"flows of bridge {name}", error)
                bridge.give_up(tables.versions[name], ports)
            self.wake = min(self.wake, bridge.wake(tables, name, ports))
        traits = {
            name: bridge.traits
            for name, bridge in self._bridges.items()
            if bridge.traits is not None
        }
        changed = traits != self.traits
        if changed:
            self.traits = traits
        return changed
