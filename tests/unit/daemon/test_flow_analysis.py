"""Working out, a little at a time, what flows mean for mirrors."""

from __future__ import annotations

import time

import pytest

from ovs_ebpf_tap.daemon import flow_analysis
from ovs_ebpf_tap.daemon.flow_analysis import FlowAnalysis
from ovs_ebpf_tap.decide.flow_graph import FlowGraph
from ovs_ebpf_tap.model.flow import (
    NORMAL,
    Flow,
    FlowName,
    Known,
    Output,
    Pipeline,
)
from ovs_ebpf_tap.model.flow_traits import FlowTraits, FollowedPort, PortPaths

NAME = FlowName(0, 1, 0)


def sending(*ports: int) -> Pipeline:
    return Pipeline({Flow(0, Known(), tuple(map(Output, ports))): NAME})


class FakeTables:
    """Bridges with their pipelines, each with a version of its own."""

    def __init__(self, *, repeating: int = 0, **pipelines: Pipeline) -> None:
        self._repeating = repeating
        self.pipelines = pipelines

    @property
    def versions(self) -> dict[str, int]:
        return {name: id(each) for name, each in self.pipelines.items()}

    def repeating(self, _bridge: str) -> int:
        return self._repeating

    def pipeline(self, bridge: str) -> Pipeline:
        return self.pipelines[bridge]


ORDINARY, TWICE = sending(NORMAL), sending(1, 1)
REPEATING = PortPaths(NAME, NAME)
PLAIN = FollowedPort(reserved=False, vlans=False)


def analysis(**ports: dict[int, FollowedPort]) -> FlowAnalysis:
    made = FlowAnalysis()
    made.ports = ports
    return made


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has all changes looked at, however much work that is."""
    monkeypatch.setattr(flow_analysis, "_SHARE", 1e9)
    monkeypatch.setattr(flow_analysis, "_MOST_SHARE", 1e9)


def test_what_is_asked_for_is_found() -> None:
    """At once, where it takes no more than a moment."""
    made = analysis(br0={1: PLAIN})
    assert made.run(FakeTables(br0=TWICE))
    assert made.traits == {"br0": FlowTraits(outputs=True, normal=False, ports={1: REPEATING})}
    assert not made.run(FakeTables(br0=TWICE))
    assert made.wake == float("inf")


def test_a_bridge_that_is_not_known_any_more() -> None:
    made = analysis(br0={})
    assert made.run(FakeTables(br0=ORDINARY))
    assert made.traits == {"br0": FlowTraits()}
    assert made.run(FakeTables())
    assert not made.traits


def test_another_port_is_looked_at_alone() -> None:
    """Though it is not time yet for a pipeline that has changed meanwhile."""
    made = analysis(br0={1: PLAIN})
    made.run(FakeTables(br0=TWICE))
    made.ports = {"br0": {1: PLAIN, 2: PLAIN}}
    assert made.run(FakeTables(br0=ORDINARY))
    assert made.traits["br0"].ports == {1: REPEATING, 2: PortPaths()}
    assert time.monotonic() < made.wake < float("inf")


def test_changes_take_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that changes is looked at again when that costs little."""
    monkeypatch.setattr(flow_analysis, "_SHARE", 1e-9)
    made = analysis(br0={1: PLAIN})
    made.run(FakeTables(br0=TWICE))
    assert not made.run(FakeTables(br0=ORDINARY))
    assert made.wake > time.monotonic()
    made = analysis(br0={1: PLAIN})
    at_once(monkeypatch)
    made.run(FakeTables(br0=TWICE))
    assert made.run(FakeTables(br0=ORDINARY))
    assert made.traits == {"br0": FlowTraits(ports={1: PortPaths()})}


def test_a_share_that_was_not_used_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a change after a quiet time, and the one that takes it back, are looked at soon."""
    at_once(monkeypatch)
    monkeypatch.setattr(flow_analysis, "_SHARE", 1e-3)
    monkeypatch.setattr(flow_analysis, "_LATEST", 1e6)
    made = analysis(br0={1: PLAIN})
    made.run(FakeTables(br0=ORDINARY))
    assert made.run(FakeTables(br0=TWICE))
    assert made.run(FakeTables(br0=ORDINARY))
    monkeypatch.setattr(flow_analysis, "_MOST_SHARE", 1e-9)
    assert not made.run(FakeTables(br0=TWICE))


def test_a_flow_that_names_a_port_twice_is_looked_at_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow_analysis, "_SHARE", 1e-9)
    monkeypatch.setattr(flow_analysis, "_MOST_SHARE", 1e9)
    made = analysis(br0={1: PLAIN})
    made.run(FakeTables(br0=ORDINARY))
    assert not made.run(FakeTables(br0=TWICE, repeating=id(ORDINARY)))
    assert made.run(FakeTables(br0=TWICE, repeating=id(ORDINARY) + 1))
    assert made.traits["br0"].ports == {1: REPEATING}


def test_work_is_done_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found before holds until all is found; one step follows the other."""
    at_once(monkeypatch)
    made = analysis(br0={1: PLAIN, 2: PLAIN})
    made.run(FakeTables(br0=TWICE))
    before = made.traits
    monkeypatch.setattr(flow_analysis, "_SLICE", -1.0)
    assert not made.run(FakeTables(br0=ORDINARY))
    assert made.traits == before
    assert made.wake == 0.0
    monkeypatch.setattr(flow_analysis, "_SLICE", 1.0)
    assert made.run(FakeTables(br0=TWICE))  # What was begun is ended, whatever has changed again.
    assert made.traits == {"br0": FlowTraits(ports={1: PortPaths(), 2: PortPaths()})}


def test_too_much_work_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports that it does not come to are undecided."""
    monkeypatch.setattr(flow_analysis, "_MOST", 0.0)
    made = analysis(br0={1: PLAIN})
    made.run(FakeTables(br0=TWICE))
    assert made.traits["br0"].ports == {1: PortPaths(undecided=True)}


def test_a_fault_of_ours_is_of_one_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ports are undecided until its flows change; others go on."""

    def port_paths(graph: FlowGraph, port: int, followed: FollowedPort) -> PortPaths:
        if port == 1:
            raise RecursionError
        return PortPaths()

    monkeypatch.setattr(flow_analysis, "port_paths", port_paths)
    at_once(monkeypatch)
    made = analysis(br0={1: PLAIN}, br1={2: PLAIN})
    tables = FakeTables(br0=TWICE, br1=TWICE)
    assert made.run(tables)
    assert made.traits["br0"].ports == {1: PortPaths(undecided=True)}
    assert made.traits["br1"].ports == {2: PortPaths()}
    assert not made.run(tables)
    monkeypatch.undo()
    assert made.run(FakeTables(br0=ORDINARY, br1=TWICE))
    assert made.traits["br0"].ports == {1: PortPaths()}


def test_changes_are_looked_at_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much work that is."""
    monkeypatch.setattr(flow_analysis, "_SHARE", 1e-9)
    monkeypatch.setattr(flow_analysis, "_LATEST", 0.0)
    made = analysis(br0={1: PLAIN})
    made.run(FakeTables(br0=TWICE))
    assert made.run(FakeTables(br0=ORDINARY))
