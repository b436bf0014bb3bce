"""Mirrors that share ports are planned together, others apart."""

from __future__ import annotations

import pytest
from builders import World, switch

from ovs_ebpf_tap.decide.components import split


def components(world: World) -> list[tuple[str, str, bool]]:
    """Each component's mirrors and ports, in the order of their names, and whether it is whole."""
    return sorted(
        (
            " ".join(mirror.name for mirror in each.mirrors),
            " ".join(sorted(port.port.name for port in each.ports)),
            each.whole,
        )
        for each in split(world.bridge_ports())
    )


def test_mirrors_that_share_nothing() -> None:
    world = switch("a b c d e").add_mirror("m", src="a", out="b").add_mirror("n", src="c", out="d")
    assert components(world) == [("m", "a b", False), ("n", "c d", False)]


@pytest.mark.parametrize(
    "other",
    [
        {"src": "a", "out": "d"},
        {"dst": "a", "out": "d"},
        {"src": "d", "out": "b"},
        {"dst": "b", "out": "d"},
    ],
)
def test_any_port_that_both_refer_to_joins(other: dict[str, str]) -> None:
    world = switch("a b c d").add_mirror("m", src="a", out="b").add_mirror("n", **other)
    assert components(world) == [("m n", "a b d", False)]


def test_a_third_mirror_joins_two() -> None:
    world = switch("a b c d").add_mirror("m", src="a", out="b").add_mirror("n", src="c", out="d")
    world.add_mirror("o", src="a c", out="d")
    assert components(world) == [("m n o", "a b c d", True)]


def test_a_mirror_without_a_port_is_alone() -> None:
    world = switch("a b c").add_mirror("m", src="a", out="b").add_mirror("n").add_mirror("o")
    assert components(world) == [("m", "a b", False), ("n", "", False), ("o", "", False)]


@pytest.mark.parametrize("selection", [{"select_all": True}, {"src": "d", "output_vlan": 7}])
def test_what_may_see_all_ports_joins_all(selection: dict[str, object]) -> None:
    world = switch("a b c d").add_mirror("m", src="a", out="b")
    world.add_mirror("n", **selection)  # type: ignore[arg-type]
    assert components(world) == [("m n", "a b c d", True)]
