"""Moves: parking waits for drains, and hooks stay until flows know that a mirror is OVS's."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from uuid import UUID

import pytest
from builders import World, switch
from fake_sidecar import FakeDrain, FakeRevalidation

from ovs_ebpf_tap.daemon.transitions import Transitions
from ovs_ebpf_tap.model.desired import NATIVE, OFFLOAD, OffloadDecision
from ovs_ebpf_tap.model.rows import PARKED_VLANS, SELECT_VLAN_KEY
from ovs_ebpf_tap.model.transaction import MirrorEdit, Transaction

GIVEN_BACK = OffloadDecision(NATIVE, "ebpf-tap-mode is native")


class TransitionsBench:
    """A bridge with a mirror, and the transitions of a sidecar beside it."""

    def __init__(self) -> None:
        self.drains: list[FakeDrain] = []
        self.rounds: list[FakeRevalidation] = []
        self.revalidated: list[Collection[str]] = []
        self.world: World = switch().add_mirror("m", src="a", out="out")
        self.transitions = Transitions(self._revalidate, self._drain)

    @property
    def mirror(self) -> UUID:
        return self.world.mirrors["m"].uuid

    def park(self) -> None:
        self.world.set_mirror("m", select_vlan=PARKED_VLANS, external_ids={SELECT_VLAN_KEY: ""})

    def give_back(self) -> None:
        self.world.set_mirror("m", select_vlan=(), external_ids={})

    def early(self) -> set[UUID]:
        plan = self.world.plan()
        return self.transitions.early(self.world.db, plan)

    def held(self, decision: OffloadDecision, *, applied: bool = True) -> set[UUID]:
        return self.transitions.held(
            self.world.db, {self.mirror: decision}, {self.mirror}, applied=applied, known=True
        )

    def _drain(self, ifindexes: Collection[int]) -> FakeDrain:
        self.drains.append(FakeDrain(ifindexes))
        return self.drains[-1]

    def _revalidate(self, bridges: Collection[str]) -> FakeRevalidation:
        self.revalidated.append(bridges)
        self.rounds.append(FakeRevalidation())
        return self.rounds[-1]


@pytest.fixture
def bench() -> TransitionsBench:
    return TransitionsBench()


def test_parking_waits_for_the_devices_where_packets_arrive(bench: TransitionsBench) -> None:
    assert bench.early() == {bench.mirror}
    (drain,) = bench.drains
    assert drain.ifindexes == {bench.world.devices["a"].ifindex}
    assert bench.transitions.under_way
    assert bench.transitions.wake == 5.0
    assert bench.early() == {bench.mirror}
    drain.done = True
    assert bench.early() == set()
    assert len(bench.drains) == 1
    assert bench.transitions.wake == math.inf


def test_a_mirror_that_is_parked_drains_no_more(bench: TransitionsBench) -> None:
    bench.early()
    bench.park()
    assert bench.early() == set()
    assert not bench.transitions.under_way


def test_hooks_stay_until_ovs_knows_and_flows_do(bench: TransitionsBench) -> None:
    bench.park()
    assert bench.held(GIVEN_BACK) == {bench.mirror}  # OVS does not copy for it yet.
    bench.give_back()
    edits = Transaction((MirrorEdit(bench.mirror, select_vlan=()),), reconfigure=True)
    bench.transitions.note(edits)
    assert bench.held(GIVEN_BACK, applied=False) == {bench.mirror}
    assert bench.held(GIVEN_BACK) == {bench.mirror}
    assert bench.revalidated == [["br0"], ["br0"]]  # The first is for whoever was before us.
    assert bench.transitions.returning
    for each in bench.rounds:
        each.done = True
    assert bench.transitions.run()
    assert bench.held(GIVEN_BACK) == set()
    assert not bench.transitions.under_way


def test_an_offloaded_mirror_is_not_held(bench: TransitionsBench) -> None:
    bench.park()
    assert bench.held(OFFLOAD) == set()


def test_another_output_port_asks_for_a_revalidation(bench: TransitionsBench) -> None:
    bench.park()
    bench.transitions.look_for_outputs(bench.world.db)
    assert not bench.transitions.with_request(Transaction())
    bench.world.set_mirror("m", output_port=bench.world.ports["c"].uuid)
    bench.transitions.look_for_outputs(bench.world.db)
    assert bench.transitions.with_request(Transaction()) == replace(Transaction(), reconfigure=True)


def test_closing_ends_revalidations(bench: TransitionsBench) -> None:
    bench.held(GIVEN_BACK)
    bench.transitions.close()
    assert all(each.closed for each in bench.rounds)
    assert bench.rounds
