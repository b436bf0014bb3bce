"""`ComponentPlanner`: the end of its rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
from builders import World, switch

from ovs_ebpf_tap.decide import component_planner
from ovs_ebpf_tap.model.desired import NATIVE, Hook, Rule
from ovs_ebpf_tap.model.reasons import row_reasons
from ovs_ebpf_tap.model.rows import MODE_KEY

DEPENDENT = row_reasons.DEPENDENT.told()
ROUNDS = 3


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component_planner, "_MAX_ROUNDS", ROUNDS)


def reasons(world: World) -> list[str | None]:
    """Those of all mirrors, in the order in which they were added; none is offloaded."""
    plan = world.plan()
    decisions = [plan.decisions[mirror.uuid] for mirror in world.mirrors.values()]
    assert {decision.state for decision in decisions} == {NATIVE}
    assert not plan.hooks
    return [decision.reason for decision in decisions]


@pytest.mark.parametrize("dependent", [0, 1, 3])
def test_ties_beyond_the_last_round(dependent: int) -> None:
    """Each mirror copies to a port that the next selects: a native one ties the one before."""
    count = ROUNDS + dependent
    world = switch(" ".join(f"p{n}" for n in range(count + 2)))
    for n in range(count):
        world.add_mirror(f"m{n}", dst=f"p{n}", out=f"p{n + 1}")
    world.add_mirror(
        "native", dst=f"p{count}", out=f"p{count + 1}", external_ids={MODE_KEY: "native"}
    )
    found = reasons(world)
    assert found[:dependent] == [DEPENDENT] * dependent
    assert DEPENDENT not in found[dependent:]


@pytest.mark.parametrize("dependent", [0, 1, 3])
def test_obstacles_beyond_the_last_round(dependent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round finds an obstacle to one mirror."""
    count = ROUNDS + dependent
    world = switch("a " + " ".join(f"o{n}" for n in range(count)))
    for n in range(count):
        world.add_mirror(f"m{n}", src="a", out=f"o{n}")

    def first_of(_: Any, rules: Mapping[Hook, Sequence[Rule]]) -> Iterator[tuple[UUID, str]]:
        for each in rules.values():
            yield each[0].mirror, "an obstacle"

    monkeypatch.setattr(component_planner, "find_obstacles", first_of)
    found = reasons(world)
    assert sorted(filter(None, found)) == ["an obstacle"] * ROUNDS + [DEPENDENT] * dependent
