"""Faults of ours as mirrors are planned: what has one is left to Open vSwitch, no more."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from builders import World, switch

from ovs_ebpf_tap.decide import component_planner
from ovs_ebpf_tap.decide.planner import Planner
from ovs_ebpf_tap.decide.seen_port import SeenPort
from ovs_ebpf_tap.model.desired import NATIVE, OFFLOADED, TCX
from ovs_ebpf_tap.util import unexpected

REASON = "internal error: KeyError: 'a fault'; see the log"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unexpected, "_seen", set())


@pytest.fixture
def world() -> World:
    """`good` and `bad` share a source; `apart` and `beside`, of another bridge, share nothing."""
    made = switch("a b c d e f")
    made.add_mirror("good", src="a", out="b")
    made.add_mirror("bad", src="a", out="c")
    made.add_mirror("apart", src="d", out="e")
    made.add_bridge("br1").add_ports("x y", bridge="br1")
    return made.add_mirror("beside", src="x", out="y", bridge="br1")


def failing(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, fails: Callable[..., bool]
) -> None:
    """Has a function raise where `fails` says so of its arguments."""
    original = getattr(where, name)

    def wrapper(*given: Any, **named: Any) -> Any:
        if fails(*given):
            raise KeyError("a fault")
        return original(*given, **named)

    monkeypatch.setattr(where, name, wrapper)


def offloaded(world: World) -> str:
    """The names of the mirrors that are; asserts that the others have the reason."""
    plan = world.plan()
    names = []
    for name, mirror in sorted(world.mirrors.items()):
        decision = plan.decisions[mirror.uuid]
        if decision.state == OFFLOADED:
            names.append(name)
        else:
            assert (decision.state, decision.reason) == (NATIVE, REASON)
    return " ".join(names)


def is_bad(world: World) -> UUID:
    return world.mirrors["bad"].uuid


def test_a_mirror_that_cannot_be_judged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, component_planner, "check_mirror", lambda _, mirror: mirror.name == "bad")
    assert offloaded(world) == "apart beside good"


def test_rules_of_one_mirror(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = is_bad(world)
    failing(monkeypatch, component_planner, "make_rules", lambda _t, chosen, _f: bad in chosen)
    assert offloaded(world) == "apart beside good"


def test_rules_of_mirrors_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, component_planner, "make_rules", lambda _t, chosen, _f: len(chosen) > 1)
    assert offloaded(world) == "apart beside"


def test_a_port_that_cannot_be_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, SeenPort, "of", lambda port, *_: port.name == "f")
    assert offloaded(world) == "beside"


def test_it_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = Planner(TCX)

    def states() -> set[str]:
        found = planner.plan(world.db, MappingProxyType(world.devices))
        return {decision.state for decision in found.decisions.values()}

    with monkeypatch.context() as patched:
        failing(patched, component_planner, "check_mirror", lambda _, mirror: mirror.name == "bad")
        assert states() == {NATIVE, OFFLOADED}
    assert states() == {NATIVE, OFFLOADED}
    planner.retry()
    assert states() == {OFFLOADED}


def test_the_log_has_the_traceback_once(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(
        monkeypatch, component_planner, "check_mirror", lambda _, mirror: mirror.name != "beside"
    )
    for _ in range(3):
        world.plan()
    said = capsys.readouterr().out
    assert said.count("Traceback (most recent call last)") == 1
    assert said.count("internal error") == 1
    assert "where=mirror" in said.replace("'", "")


def test_mirrors_without_a_place(world: World) -> None:
    bad = is_bad(world)
    unplaced = frozenset([bad])
    plan = Planner(TCX).plan(world.db, world.devices, unplaced=unplaced)
    reason = plan.decisions[bad].reason
    assert reason is not None
    assert reason.startswith("all places for 4096 mirrors are taken")
    assert plan.decisions[world.mirrors["apart"].uuid].state == OFFLOADED
