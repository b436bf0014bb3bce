"""Rows that ovn-controller makes anew: which linger, and which are in whose place."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from builders import World, switch

from ovs_ebpf_tap.decide.recreations import LINGER, Recreations, Successor
from ovs_ebpf_tap.model.rows import PARKED_VLANS

OVN = {"ovn-owned": "true"}
PARKED = {**OVN, "ebpf-tap-select-vlan": "", "ebpf-tap-state": "offloaded"}
NOW = 100.0


class Bench:
    """A mirror of ovn-controller's, parked; `world` is what there is after it has gone."""

    def __init__(self, ids: dict[str, str] = PARKED) -> None:
        self.world: World = switch().add_mirror(
            src="a", out="out", external_ids=ids, select_vlan=PARKED_VLANS
        )
        self.recreations = Recreations()
        self.before = self.world.db
        self.mirror = self.world.remove_mirror("m")
        assert self.look(NOW, before=True) == []

    def look(self, now: float, *, before: bool = False) -> list[Successor]:
        return self.recreations.look(self.before if before else self.world.db, set(), now)

    def lingers(self) -> bool:
        found = self.recreations.with_lingering(self.world.db, {self.mirror.uuid})
        (bridge,) = found.bridges.values()
        assert (self.mirror.uuid in found.mirrors) == (self.mirror.uuid in bridge.mirrors)
        return self.mirror.uuid in found.mirrors

    def make_anew(self, **columns: Any) -> None:
        self.world.add_mirror(**{"src": "a", "out": "out", "external_ids": OVN, **columns})

    def successor(self, *, seamless: bool) -> list[Successor]:
        return [Successor(self.mirror.uuid, self.world.mirrors["m"].uuid, seamless)]


def test_a_row_that_is_gone_lingers_for_a_moment() -> None:
    bench = Bench()
    assert bench.recreations.lingering == frozenset()
    assert not bench.look(NOW + 1)
    assert bench.lingers()
    assert bench.recreations.wake == NOW + 1 + LINGER
    bench.look(NOW + 1 + 0.9 * LINGER)
    assert bench.lingers()
    bench.look(bench.recreations.wake)
    assert not bench.lingers()
    assert bench.recreations.wake == float("inf")


@pytest.mark.parametrize("ids", [{}, {"ovn-owned": "no"}])
def test_a_row_of_another_writer_does_not(ids: dict[str, str]) -> None:
    bench = Bench(ids)
    bench.look(NOW)
    assert not bench.lingers()
    bench.make_anew()
    assert bench.look(NOW) == []


def test_a_row_without_hooks_is_not_presented() -> None:
    bench = Bench()
    bench.look(NOW)
    db = bench.world.db
    assert bench.recreations.with_lingering(db, set()) is db
    assert bench.recreations.lingering == {bench.mirror.uuid}


def test_a_row_that_asks_for_the_same_takes_over() -> None:
    bench = Bench()
    bench.look(NOW)
    bench.make_anew()
    assert bench.look(NOW) == bench.successor(seamless=True)
    assert not bench.lingers()
    assert bench.look(NOW) == []


def test_a_row_may_come_in_the_transaction_that_takes_the_other_away() -> None:
    bench = Bench()
    bench.make_anew()
    assert bench.look(NOW) == bench.successor(seamless=True)


@pytest.mark.parametrize(
    "columns", [{"src": "b"}, {"dst": "b"}, {"out": "b"}, {"snaplen": 100}, {"select_vlan": (5,)}]
)
def test_a_row_that_asks_for_other_copies_takes_over(columns: dict[str, Any]) -> None:
    """Its new hooks may have to wait for Open vSwitch."""
    bench = Bench()
    bench.look(NOW)
    bench.make_anew(**columns)
    assert bench.look(NOW) == bench.successor(seamless=False)


@pytest.mark.parametrize("columns", [{"name": "other"}, {"external_ids": {}}])
def test_another_row_does_not_take_over(columns: dict[str, Any]) -> None:
    bench = Bench()
    bench.look(NOW)
    bench.make_anew(**columns)
    assert bench.look(NOW) == []
    assert bench.lingers()


def test_a_row_goes_with_its_bridge() -> None:
    bench = Bench()
    bench.look(NOW)
    bench.world.bridges.clear()
    bench.look(NOW)
    assert bench.recreations.with_lingering(bench.world.db, {bench.mirror.uuid}).mirrors == {}


def test_ports_that_are_gone_are_not_selected() -> None:
    bench = Bench()
    bench.look(NOW)
    del bench.world.ports["a"]
    found = bench.recreations.with_lingering(bench.world.db, {bench.mirror.uuid})
    assert found.mirrors[bench.mirror.uuid].select_src_port == ()


def test_hooks_whose_rows_are_not_known_at_the_start_linger() -> None:
    world = switch().add_mirror(src="a", out="out", external_ids=OVN)
    hooked = {world.mirrors["m"].uuid, UUID(int=99)}
    recreations = Recreations()
    recreations.look(world.db, hooked, NOW)
    assert recreations.orphans == frozenset()
    assert recreations.wake == float("inf")
    world.settings["external_ids"] = {"ovn-remote": "tcp:10.0.0.1:6642"}
    recreations = Recreations()
    recreations.look(world.db, hooked, NOW)
    assert recreations.orphans == {UUID(int=99)}
    assert recreations.wake == NOW + LINGER
    recreations.look(world.db, {*hooked, UUID(int=98)}, NOW + 0.9 * LINGER)
    assert recreations.orphans == {UUID(int=99)}
    recreations.look(world.db, hooked, NOW + LINGER)
    assert recreations.orphans == frozenset()
    assert recreations.wake == float("inf")
