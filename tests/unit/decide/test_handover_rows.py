"""The hand-over's transactions, against a simulated database and a simulated ovs-vswitchd."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import World, switch
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ovs_ebpf_tap.daemon.revalidations import Revalidations
from ovs_ebpf_tap.decide.conflicts import Writers
from ovs_ebpf_tap.decide.handover import forget_edits, next_edits
from ovs_ebpf_tap.model.desired import INVALID, NATIVE, OFFLOAD, OFFLOADED, OffloadDecision
from ovs_ebpf_tap.model.rows import (
    COUNTED_KEY,
    MODE_KEY,
    OWN_KEYS,
    PARKED_VLANS,
    PROTECTED_KEY,
    REASON_KEY,
    SELECT_VLAN_KEY,
    STATE_KEY,
    Database,
    Mirror,
)
from ovs_ebpf_tap.model.transaction import Transaction

BACK = OffloadDecision(NATIVE, "ebpf-tap-mode is native")
REFUSED = OffloadDecision(INVALID, "its output_port is not on this bridge")
VLANS = st.frozensets(st.integers(0, 4094), max_size=4).map(sorted).map(tuple)


class InstantRound:
    """A revalidation that takes no time."""

    done = True
    lost = False

    def run(self) -> None:
        """It is done."""

    def wait(self, _: object) -> None:
        """It is done."""

    def close(self) -> None:
        """It is done."""


class Simulation:
    """The rows, an ovs-vswitchd that takes them in when told to, and a sidecar that may crash."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.decisions: dict[str, OffloadDecision] = dict.fromkeys(world.mirrors, BACK)
        self.records: dict[str, str] = {}
        self.unrecorded: set[str] = set()
        self.next_cfg = self.cur_cfg = 7
        self.last_reconfigure = 0
        self.writers = Writers()
        self.revalidations = Revalidations()
        self.hooked: set[str] = set()
        """The mirrors that hooks copy for."""
        self._now = 0.0
        self._native: set[str] = set()
        """The mirrors that ovs-vswitchd has copy, by what it has taken in."""
        self.copying: set[str] = set()
        """The mirrors for which running flows carry copies."""
        self.take_in()
        self.copying = set(self._native)

    # The database.

    @property
    def db(self) -> Database:
        return replace(self.world.db, next_cfg=self.next_cfg, cur_cfg=self.cur_cfg)

    def _apply(self, edits: Transaction) -> None:
        names = {row.uuid: name for name, row in self.world.mirrors.items()}
        for edit in edits.mirrors:
            name = names[edit.mirror]
            row = self.world.mirrors[name]
            assert not set(edit.set_ids) & set(edit.delete_ids)
            ids = {k: v for k, v in row.external_ids.items() if k not in edit.delete_ids}
            self.world.mirrors[name] = replace(
                row,
                external_ids={**ids, **edit.set_ids},
                select_vlan=row.select_vlan if edit.select_vlan is None else edit.select_vlan,
            )
        ports = {row.uuid: name for name, row in self.world.ports.items()}
        assert len({edit.port for edit in edits.ports}) == len(edits.ports)
        for port in edits.ports:
            self.world.set_port(ports[port.port], protected=port.protected)

    def mirror(self, name: str = "m") -> Mirror:
        return self.world.mirrors[name]

    # ovs-vswitchd.

    def take_in(self) -> None:
        """Running flows do not know of it."""
        self._native = {
            name
            for name, row in self.world.mirrors.items()
            if row.select_vlan != PARKED_VLANS and row.output_port is not None
        }
        self.cur_cfg = self.next_cfg

    def revalidate(self) -> InstantRound:
        self.copying = set(self._native)
        return InstantRound()

    # The sidecar.

    def want(self, decision: OffloadDecision, *names: str) -> None:
        self.decisions.update(dict.fromkeys(names or self.world.mirrors, decision))

    def step(self) -> Transaction:
        """One pass: the edits, which are in the database when it returns."""
        rows = self.world.mirrors
        names = {row.uuid: name for name, row in rows.items()}
        self._now += 1000  # Long enough for every patience.
        self.revalidations.run()
        db = self.look()
        offloaded = {name for name, decision in self.decisions.items() if decision is OFFLOAD}
        self.hooked |= offloaded
        parked = {
            name for name, row in rows.items() if row.parked or SELECT_VLAN_KEY in row.external_ids
        }
        unknown = self.revalidations.look(
            {rows[name].uuid for name in self.hooked - offloaded - parked},
            self.cur_cfg >= (self.last_reconfigure or self.next_cfg),
            self.last_reconfigure != 0,
            self.revalidate,
        )
        self.hooked &= offloaded | parked | {names[uuid] for uuid in unknown}
        edits = next_edits(
            db,
            {rows[name].uuid: decision for name, decision in self.decisions.items()},
            {rows[name].uuid: record for name, record in self.records.items()},
            {rows[name].uuid for name in self.unrecorded},
        )
        if self.revalidations.asked:
            edits = replace(edits, reconfigure=True)
        self.writers.note(edits, self._now)
        self._apply(edits)
        if edits.reconfigure:
            self.revalidations.written(e.mirror for e in edits.mirrors if e.gives_back)
            self.next_cfg += 1
            self.last_reconfigure = self.next_cfg
        return edits

    def look(self) -> Database:
        return self.writers.look(self.db, self._now)

    def crash(self) -> None:
        self.last_reconfigure = 0
        self.writers = Writers()
        self.revalidations = Revalidations()

    def settle(self, *, crashes: int = 0) -> list[Transaction]:
        """Steps, with ovs-vswitchd behind, until there is nothing left to do.

        After each of the first `crashes` steps, the sidecar crashes.
        """
        done: list[Transaction] = []
        for number in range(20):
            edits = self.step()
            if number < crashes:
                self.crash()
            elif not edits and self.cur_cfg == self.next_cfg and self.at_rest:
                return done
            if edits:
                done.append(edits)
            # Without its word, the sidecar waits.
            self.take_in()
        raise AssertionError("it never ends")

    @property
    def at_rest(self) -> bool:
        """Whether a pass has seen that nothing is under way."""
        return not self.revalidations.pending


def simulation(world: World | None = None, **columns: object) -> Simulation:
    if world is None:
        world = switch("a out").add_mirror("m", src="a", out="out")
        world.set_mirror("m", **columns)
    return Simulation(world)


# One mirror.


@pytest.mark.parametrize("protected", [False, True])
def test_what_an_earlier_version_has_flipped_is_put_back(protected: bool) -> None:
    sim = simulation(switch("a out other").add_mirror("m", src="a", out="out"))
    sim.world.set_port("other", protected=not protected)
    note = f"{str(protected).lower()} {sim.world.ports['other'].uuid}"
    sim.world.set_mirror("m", external_ids={PROTECTED_KEY: note})
    (edits,) = sim.settle()
    assert edits.reconfigure
    assert sim.world.ports["other"].protected is protected
    assert not sim.world.ports["out"].protected
    assert PROTECTED_KEY not in sim.mirror().external_ids


def test_a_row_whose_keys_were_replaced_is_still_parked() -> None:
    sim = simulation()
    sim.want(OFFLOAD)
    sim.settle()
    sim.world.set_mirror("m", external_ids={"theirs": "1"})
    assert sim.mirror().desired_vlans == ()
    sim.settle()
    assert sim.mirror().external_ids[SELECT_VLAN_KEY] == ""
    sim.want(BACK)
    sim.settle()
    assert sim.mirror().select_vlan == ()


def test_parking_takes_one_transaction() -> None:
    sim = simulation(select_vlan=(10, 20))
    sim.want(OFFLOAD)
    edits = sim.step()
    (edit,) = edits.mirrors
    assert edit.select_vlan == PARKED_VLANS
    assert edit.set_ids == {STATE_KEY: OFFLOADED, SELECT_VLAN_KEY: "10,20"}
    assert edits.reconfigure
    assert not edits.ports

    assert not sim.step(), "ovs-vswitchd has not taken it in"
    assert sim.copying == {"m"}
    assert not sim.settle()
    assert sim.copying == set()


def test_giving_back_takes_one_transaction() -> None:
    sim = simulation(select_vlan=(10,))
    sim.want(OFFLOAD)
    sim.settle()
    sim.want(BACK)
    (edits,) = sim.settle()
    assert [edit.select_vlan for edit in edits.mirrors] == [(10,)]
    assert not edits.ports
    assert sim.copying == {"m"}
    assert sim.mirror().external_ids == {STATE_KEY: NATIVE, REASON_KEY: BACK.reason}


def test_a_mirror_that_becomes_native_before_it_is_parked() -> None:
    """It is new, so running flows carry no copies of it: Open vSwitch does not revalidate."""
    sim = simulation()
    sim.settle()
    sim.copying = set()
    sim.hooked = {"m"}
    (edits,) = sim.settle()
    assert edits == Transaction(reconfigure=True)
    assert sim.copying == {"m"}
    assert sim.hooked == set()


@given(VLANS)
@settings(max_examples=examples(50))
def test_the_users_vlans_come_back(vlans: tuple[int, ...]) -> None:
    sim = simulation(select_vlan=vlans)
    sim.want(OFFLOAD)
    sim.settle()
    assert sim.mirror().parked
    assert sim.mirror().desired_vlans == vlans
    sim.want(BACK)
    sim.settle()
    assert sim.mirror().select_vlan == vlans
    assert SELECT_VLAN_KEY not in sim.mirror().external_ids


def test_what_others_give_back_before_a_start_may_not_be_taken_in_by_it() -> None:
    """They need not ask for a word of ovs-vswitchd: `cur_cfg` does not tell whether it has."""
    sim = simulation()
    sim.want(OFFLOAD)
    sim.settle()
    sim.want(BACK)
    sim.world.set_mirror("m", select_vlan=(), external_ids={})
    sim.crash()
    sim.step()
    sim.step()
    assert sim.hooked == {"m"}
    sim.settle()
    assert sim.copying == {"m"}
    assert sim.hooked == set()


@pytest.mark.parametrize("decision", [OFFLOAD, BACK])
@pytest.mark.parametrize("crash_after", range(5))
def test_a_crash_at_any_step_changes_nothing(decision: OffloadDecision, crash_after: int) -> None:
    def run(*, crash: bool) -> Simulation:
        sim = simulation(select_vlan=(10,))
        if decision == BACK:
            sim.want(OFFLOAD)
            sim.settle()
        sim.want(decision)
        for number in range(crash_after):
            sim.take_in() if number % 2 else sim.step()
        if crash:
            sim.crash()
        sim.settle(crashes=5 if crash else 0)
        return sim

    crashed, calm = run(crash=True), run(crash=False)
    assert crashed.db.mirrors == calm.db.mirrors
    assert crashed.db.ports == calm.db.ports
    assert crashed.copying == calm.copying


def test_without_ovs_vswitchd_hooks_stay() -> None:
    sim = simulation()
    sim.settle()
    for decision in (OFFLOAD, BACK, OFFLOAD, BACK):
        sim.want(decision)
        for _ in range(3):
            sim.step()
        assert sim.mirror().parked is (decision is OFFLOAD)
        assert sim.hooked == {"m"}
    sim.settle()
    assert sim.copying == {"m"}
    assert sim.hooked == set()


@pytest.mark.parametrize("vlans", [(), (30,), (30, 4095)])
@pytest.mark.parametrize("decision", [OFFLOAD, BACK])
def test_select_vlan_changed_while_parked_is_new_intent(
    vlans: tuple[int, ...], decision: OffloadDecision
) -> None:
    sim = simulation(select_vlan=(10,))
    sim.want(OFFLOAD)
    sim.settle()
    sim.world.set_mirror("m", select_vlan=vlans)
    sim.want(decision)
    sim.settle()
    assert sim.mirror().desired_vlans == vlans
    assert sim.mirror().parked is (decision is OFFLOAD)
    assert (SELECT_VLAN_KEY in sim.mirror().external_ids) is (decision is OFFLOAD)


def test_other_keys_are_left_alone() -> None:
    sim = simulation(external_ids={MODE_KEY: "offload", "whose": "mine"})
    sim.want(OFFLOAD)
    sim.settle()
    sim.want(BACK)
    sim.settle()
    ids = sim.mirror().external_ids
    assert ids[MODE_KEY] == "offload"
    assert ids["whose"] == "mine"


def test_a_native_mirror_is_told_why_and_nothing_else_is_touched() -> None:
    sim = simulation(select_vlan=(10,))
    (edits,) = sim.settle()
    (edit,) = edits.mirrors
    assert edit.set_ids == {STATE_KEY: NATIVE, REASON_KEY: BACK.reason}
    assert edit.select_vlan is None
    assert not edits.ports
    assert not edits.reconfigure


def test_a_new_reason_is_written_once() -> None:
    sim = simulation()
    sim.settle()
    sim.want(OffloadDecision(NATIVE, "snaplen is left to Open vSwitch"))
    (edits,) = sim.settle()
    assert [dict(edit.set_ids) for edit in edits.mirrors] == [
        {REASON_KEY: "snaplen is left to Open vSwitch"}
    ]


def test_an_invalid_mirror_is_unparked() -> None:
    sim = simulation(select_vlan=(10,))
    sim.want(OFFLOAD)
    sim.settle()
    sim.world.set_mirror("m", output_port=None)
    sim.want(REFUSED)
    sim.settle()
    assert sim.mirror().select_vlan == (10,)
    assert sim.mirror().external_ids == {STATE_KEY: INVALID, REASON_KEY: REFUSED.reason}


# Statistics.


def test_what_was_copied_goes_on_record_with_each_move() -> None:
    sim = simulation(statistics={"tx_packets": 9, "tx_bytes": 540})
    for decision in (OFFLOAD, BACK, OFFLOAD):
        sim.want(decision)
        sim.records["m"] = record = f"{decision.state} {sim.next_cfg}"
        assert sim.step().mirrors[0].set_ids[COUNTED_KEY] == record
        sim.settle()
        sim.records["m"] = "later"
        assert not sim.settle()
    assert sim.mirror().external_ids[COUNTED_KEY] == record


def test_what_was_copied_goes_on_record_where_it_is_not() -> None:
    sim = simulation()
    sim.want(OFFLOAD)
    sim.settle()
    sim.records["m"] = "now"
    sim.unrecorded = {"m"}
    edits = sim.step()
    assert edits.mirrors[0].set_ids == {COUNTED_KEY: "now"}
    assert not edits.reconfigure
    assert not sim.step()


# Several mirrors.


def test_one_transaction_moves_all_mirrors() -> None:
    world = switch("a b o1 o2").add_bridge("br1").add_ports("x o3", bridge="br1")
    world.add_mirror("m1", src="a", out="o1")
    world.add_mirror("m2", src="b", out="o2")
    world.add_mirror("m3", src="x", out="o3", bridge="br1")
    sim = simulation(world)
    sim.want(OFFLOAD)
    (edits,) = sim.settle()
    assert len(edits.mirrors) == 3
    assert sim.copying == set()


def test_mirrors_move_apart() -> None:
    world = switch("a b out").add_mirror("m1", src="a", out="out")
    world.add_mirror("m2", src="b", out="out")
    sim = simulation(world)
    sim.want(OFFLOAD, "m1")
    sim.settle()
    assert sim.copying == {"m2"}
    sim.want(OFFLOAD, "m2")
    sim.settle()
    assert sim.copying == set()


def test_mirrors_that_nobody_judged_are_left_alone() -> None:
    world = switch("a out").add_mirror("m", src="a", out="out")
    assert not next_edits(world.db, {}, {})


# Forgetting.


def test_nothing_of_ours_is_left_on_rows_given_back() -> None:
    sim = simulation(external_ids={"whose": "mine"}, select_vlan=(10,))
    before = sim.mirror()
    sim.want(OFFLOAD)
    sim.settle()
    sim.want(BACK)
    sim.settle()
    sim._apply(forget_edits(sim.db))
    assert sim.mirror() == before
    assert not forget_edits(sim.db)


def test_a_parked_mirror_is_not_forgotten() -> None:
    sim = simulation()
    sim.want(OFFLOAD)
    sim.settle()
    assert not forget_edits(sim.db)


# Anything in any order.


class AnyOrderOfHandover(RuleBasedStateMachine):
    """Users, ovs-vswitchd, crashes and the sidecar, each when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.vlans: dict[str, tuple[int, ...]] = {}

    @initialize()
    def start(self) -> None:
        world = switch("a b o1 o2").add_bridge("br1").add_ports("x o3", bridge="br1")
        world.add_mirror("m1", src="a", out="o1").add_mirror("m2", src="b", out="o1")
        world.add_mirror("m3", src="a", out="o2")
        world.add_mirror("m4", src="x", out="o3", bridge="br1")
        self.sim = Simulation(world)
        self.vlans = dict.fromkeys(world.mirrors, ())

    @rule(name=st.sampled_from(["m1", "m2", "m3", "m4"]), decision=st.sampled_from([OFFLOAD, BACK]))
    def mode(self, name: str, decision: OffloadDecision) -> None:
        self.sim.want(decision, name)

    @rule(name=st.sampled_from(["m1", "m2", "m3", "m4"]), vlans=VLANS)
    def select_vlan(self, name: str, vlans: tuple[int, ...]) -> None:
        self.sim.world.set_mirror(name, select_vlan=vlans)
        self.vlans[name] = vlans

    @rule(name=st.sampled_from(["m1", "m2", "m3", "m4"]), back=st.booleans())
    def replace_ids(self, name: str, back: bool) -> None:
        """Somebody replaces all keys; he may give the mirror back, too."""
        self.sim.world.set_mirror(name, external_ids={"whose": "mine"})
        if back:
            self.select_vlan(name, ())

    @rule(packets=st.integers(0, 3), due=st.booleans())
    def count(self, packets: int, due: bool) -> None:
        self.sim.records["m1"] = f"{packets},0"
        self.sim.unrecorded = {"m1"} if due else set()

    @rule()
    def step(self) -> None:
        self.sim.step()

    @rule()
    def take_in(self) -> None:
        self.sim.take_in()

    @rule()
    def crash(self) -> None:
        """What it alone remembered is lost."""
        self.sim.step()
        self.sim.crash()

    @rule()
    def rest(self) -> None:
        """Nobody does anything for a while."""
        self.sim.settle()
        assert not self.sim.step()
        for name, row in self.sim.world.mirrors.items():
            decision = self.sim.decisions[name]
            assert row.parked is (decision is OFFLOAD)
            assert row.external_ids.get(STATE_KEY) == decision.state
            assert row.external_ids.get(REASON_KEY) == decision.reason
            assert PROTECTED_KEY not in row.external_ids
            assert (SELECT_VLAN_KEY in row.external_ids) is row.parked
        self.check_flows()

    def check_flows(self) -> None:
        native = {name for name, decision in self.sim.decisions.items() if decision is not OFFLOAD}
        assert self.sim.copying == native
        assert self.sim.hooked == self.sim.decisions.keys() - native

    @invariant()
    def somebody_copies(self) -> None:
        """Running flows carry copies, or hooks copy."""
        if self.vlans:
            assert self.sim.copying | self.sim.hooked == self.sim.decisions.keys()

    @invariant()
    def intent_is_kept(self) -> None:
        for name, vlans in self.vlans.items():
            uuid = self.sim.world.mirrors[name].uuid
            assert self.sim.look().mirrors[uuid].desired_vlans == vlans

    def teardown(self) -> None:
        if self.vlans:
            self.rest()


TestAnyOrderOfHandover = AnyOrderOfHandover.TestCase
TestAnyOrderOfHandover.settings = settings(stateful_step_count=30)


def test_our_keys_are_all_named() -> None:
    assert set(OWN_KEYS) == {STATE_KEY, REASON_KEY, PROTECTED_KEY, SELECT_VLAN_KEY}
