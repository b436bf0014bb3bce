"""A pass: the kernel and the rows become what the user's rows ask for, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from errno import EBUSY
from typing import cast
from uuid import UUID

import pytest
from builders import World, switch
from fake_sidecar import (
    FakeDatapath,
    FakeDrain,
    FakeObserver,
    FakeOvsdb,
    FakeRevalidation,
    FakeWriter,
)

from ovs_ebpf_tap.apply.datapath import Datapath
from ovs_ebpf_tap.daemon.observer import Observer
from ovs_ebpf_tap.daemon.reconciler import Reconciler
from ovs_ebpf_tap.daemon.statistics import MirrorStatistics
from ovs_ebpf_tap.daemon.transitions import Transitions
from ovs_ebpf_tap.decide.planner import Planner
from ovs_ebpf_tap.decide.recreations import LINGER
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.desired import TCX
from ovs_ebpf_tap.model.rows import COUNTED_KEY, MODE_KEY, STATE_KEY, Mirror
from ovs_ebpf_tap.observe.ovsdb import Ovsdb

NOW = 1000.0


class ReconcilerBench:
    """A bridge with a mirror, and a reconciler beside it; drains are over at once."""

    def __init__(self) -> None:
        self.world: World = switch().add_mirror("m", src="a", dst="b", out="out")
        self.ovsdb = FakeOvsdb(self.world)
        self.observer = FakeObserver(self.world)
        self.datapath = FakeDatapath()
        self.revalidations: list[FakeRevalidation] = []
        self.drain = FakeDrain()
        self.drain.done = True
        self.writer = FakeWriter()
        self.now = NOW
        self.reconciler = Reconciler(
            cast(Ovsdb, self.ovsdb),
            cast(Observer, self.observer),
            Planner(TCX),
            cast(Datapath, self.datapath),
            Transitions(lambda _: self._revalidate(), lambda _: self.drain),
            MirrorStatistics(self.datapath, self.writer),
        )

    @property
    def mirror(self) -> UUID:
        return self.world.mirrors["m"].uuid

    @property
    def row(self) -> Mirror:
        return self.world.mirrors["m"]

    def run(self) -> float:
        """A pass, and the database carries out what it writes."""
        self.now += 1
        wake = self.reconciler.run(self.now)
        for edits in self.ovsdb.committed:
            for edit in edits.mirrors:
                ids = {k: v for k, v in self.row.external_ids.items() if k not in edit.delete_ids}
                vlans = self.row.select_vlan if edit.select_vlan is None else edit.select_vlan
                ids |= edit.set_ids
                self.world.set_mirror("m", external_ids=ids, select_vlan=vlans)
        self.ovsdb.committed.clear()
        return wake

    def run_to_rest(self) -> None:
        """Passes until one does nothing."""
        for _ in range(10):
            syncs = self.datapath.syncs
            self.run()
            for each in self.revalidations:
                each.done = True
            self.reconciler._transitions.run()
            if self.datapath.syncs == syncs:
                return
        raise AssertionError("it does not come to rest")

    def _revalidate(self) -> FakeRevalidation:
        self.revalidations.append(FakeRevalidation())
        return self.revalidations[-1]


@pytest.fixture
def bench() -> ReconcilerBench:
    return ReconcilerBench()


def test_a_mirror_is_offloaded(bench: ReconcilerBench) -> None:
    bench.run_to_rest()
    assert bench.datapath.mirrors == {bench.mirror}
    assert bench.row.parked
    assert bench.row.external_ids[STATE_KEY] == "offloaded"
    assert bench.reconciler.decisions.offloaded == 1
    assert bench.observer.followed == ["br0"]


def test_hooks_come_before_the_row_is_parked(bench: ReconcilerBench) -> None:
    bench.drain.done = False
    bench.run()
    assert bench.datapath.mirrors == {bench.mirror}
    assert not bench.row.parked
    bench.drain.done = True
    bench.run()
    assert bench.row.parked


def test_a_pass_that_sees_nothing_new_plans_nothing(bench: ReconcilerBench) -> None:
    """Though what it sees comes as other objects."""
    bench.run_to_rest()
    syncs = bench.datapath.syncs
    bench.run()
    assert bench.datapath.syncs == syncs
    bench.world.devices["a"] = replace(bench.world.devices["a"], mtu=9000)
    bench.run()
    assert bench.datapath.syncs > syncs


def test_it_can_be_told_to_look_again(bench: ReconcilerBench) -> None:
    bench.run_to_rest()
    syncs = bench.datapath.syncs
    bench.reconciler.forget()
    bench.run()
    assert (bench.datapath.syncs, bench.datapath.reads) == (syncs + 1, 0)
    bench.reconciler.forget(hooks=True)
    bench.run()
    assert (bench.datapath.syncs, bench.datapath.reads) == (syncs + 2, 1)


def test_a_refused_hook_leaves_its_mirror_to_ovs(bench: ReconcilerBench) -> None:
    bench.datapath.refuses = {bench.world.devices["a"].ifindex: OSError(EBUSY, "busy")}
    bench.run()
    assert bench.row.external_ids[STATE_KEY] == "native"
    assert not bench.row.parked
    bench.datapath.refuses = {}
    bench.run()
    assert not bench.row.parked
    bench.reconciler.free({bench.world.devices["a"].ifindex})
    bench.run()
    assert bench.row.parked


def test_a_mirror_without_a_slot_is_left_to_ovs(bench: ReconcilerBench) -> None:
    bench.datapath.no_slots = frozenset({bench.mirror})
    bench.run()
    assert not bench.row.parked
    assert not bench.datapath.rules
    bench.datapath.no_slots = frozenset()
    bench.run()
    assert bench.row.parked


def test_restoring_gives_back_and_keeps_hooks_until_flows_know(bench: ReconcilerBench) -> None:
    bench.run_to_rest()
    bench.reconciler.restoring = True
    bench.reconciler.forget()
    bench.run()
    assert not bench.row.parked
    assert bench.datapath.mirrors == {bench.mirror}
    bench.run_to_rest()
    assert bench.datapath.mirrors == set()


def test_hooks_follow_devices_while_the_database_is_away(bench: ReconcilerBench) -> None:
    bench.run_to_rest()
    before = set(bench.datapath.rules)
    bench.world.add_device("a")
    bench.reconciler.follow_devices(bench.now)
    assert set(bench.datapath.rules) != before
    assert {hook.ifindex for hook in bench.datapath.rules} == {
        bench.world.devices[name].ifindex for name in ("a", "b")
    }
    assert not bench.ovsdb.committed


def test_it_wakes_up_for_drains_and_faster_programs(bench: ReconcilerBench) -> None:
    bench.run_to_rest()
    assert bench.run() == float("inf")
    bench.datapath.unfinished = True
    bench.reconciler.forget()
    assert bench.run() == pytest.approx(bench.now + 0.01)
    bench.observer.wake = 1.0
    assert bench.run() == 1.0


OVN = {"ovn-owned": "true"}


@pytest.fixture
def ovn(bench: ReconcilerBench) -> ReconcilerBench:
    """Its mirror is ovn-controller's, and offloaded."""
    bench.world.set_mirror("m", external_ids=OVN)
    bench.run_to_rest()
    assert bench.row.parked
    return bench


def make_anew(bench: ReconcilerBench) -> None:
    bench.world.add_mirror("m", src="a", dst="b", out="out", external_ids=OVN)


def test_hooks_stay_for_a_row_that_is_made_anew(ovn: ReconcilerBench) -> None:
    former = ovn.world.remove_mirror("m").uuid
    hooks = {hook: len(rules) for hook, rules in ovn.datapath.rules.items()}
    ovn.now -= 1
    wake = ovn.reconciler.run(ovn.now)
    assert ovn.datapath.mirrors == {former}
    assert wake <= ovn.now + LINGER
    assert ovn.reconciler.waits_for_rows
    assert ovn.observer.followed == ["br0"]
    make_anew(ovn)
    ovn.drain.done = False
    ovn.now += LINGER / 2
    syncs = ovn.datapath.syncs
    ovn.reconciler.run(ovn.now)
    assert ovn.datapath.mirrors == {ovn.mirror}
    assert {hook: len(rules) for hook, rules in ovn.datapath.rules.items()} == hooks
    assert ovn.ovsdb.committed[-1].mirrors[0].moves, "it is parked at once"
    assert ovn.datapath.syncs == syncs, "before it is planned"
    assert not ovn.reconciler.waits_for_rows


def test_hooks_of_a_row_that_is_not_made_anew_go(ovn: ReconcilerBench) -> None:
    ovn.world.remove_mirror("m")
    ovn.reconciler.run(ovn.now)
    assert ovn.datapath.mirrors
    ovn.reconciler.run(ovn.now + LINGER)
    assert not ovn.datapath.mirrors


def test_mirrors_that_are_given_back_leave_no_hooks_for_rows_that_are_gone(
    ovn: ReconcilerBench,
) -> None:
    ovn.world.remove_mirror("m")
    ovn.reconciler.restoring = True
    ovn.reconciler.run(ovn.now)
    assert not ovn.datapath.mirrors


def test_the_count_goes_on_in_a_row_that_is_made_anew(ovn: ReconcilerBench) -> None:
    ovn.datapath.counted = {ovn.mirror: Counters(7, 700)}
    ovn.run_to_rest()
    former = ovn.world.remove_mirror("m").uuid
    ovn.reconciler.run(ovn.now)
    ovn.datapath.counted = {former: Counters(8, 800)}
    make_anew(ovn)
    ovn.reconciler.run(ovn.now)
    assert ovn.writer.held[ovn.mirror]["tx_packets"] == 8
    assert COUNTED_KEY in ovn.ovsdb.committed[-1].mirrors[0].set_ids


def test_a_row_that_is_made_anew_is_not_parked_where_open_vswitch_is_to_copy(
    ovn: ReconcilerBench,
) -> None:
    ovn.world.remove_mirror("m")
    ovn.world.set_bridge("br0", external_ids={MODE_KEY: "native"})
    make_anew(ovn)
    ovn.run_to_rest()
    assert not ovn.row.parked
    assert not ovn.datapath.mirrors
