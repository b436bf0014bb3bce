"""What a row's statistics show, over counts that begin anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ovs_ebpf_tap.decide.totals import Count, Total, Totals, parse_record, total_of
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.rows import COUNTED_KEY, PARKED_VLANS, Mirror

M = UUID(int=1)
COUNTS = st.builds(Count, st.integers(0, 1 << 62), st.integers(0, 1 << 62))
LITTLE = st.integers(0, 5)


def written_by_ovs(packets: int) -> dict[str, int]:
    return {"tx_packets": packets, "tx_bytes": packets}


def row(
    packets: int | None = None,
    *,
    parked: bool = True,
    record: str | None = None,
    by_ovs: bool = False,
) -> Mirror:
    count = Count(packets or 0, packets or 0)
    shown = written_by_ovs(count.packets) if by_ovs else count.as_statistics
    return Mirror(
        uuid=M,
        name="m",
        select_vlan=PARKED_VLANS if parked else (),
        external_ids={} if record is None else {COUNTED_KEY: record},
        statistics={} if packets is None else shown,
    )


def equal(*counts: int) -> Total:
    return Total(*(Count(count, count) for count in counts))


def totals(mirror: Mirror, ebpf: int | None) -> Totals:
    made = Totals()
    made.look({M: mirror}, counted(ebpf))
    return made


def counted(ebpf: int | None) -> Mapping[UUID, Counters]:
    return {} if ebpf is None else {M: Counters(ebpf, ebpf)}


@given(COUNTS, COUNTS, COUNTS)
def test_a_record_is_read_as_it_was_written(shown: Count, ovs: Count, ebpf: Count) -> None:
    total = Total(shown, ovs, ebpf)
    assert parse_record(total.record) == total


@pytest.mark.parametrize(
    "text", ["", "1,2", "1,2 3,4", "1,2 3,4 5,-6", "1,2 3,4 5,6 ", "1;2 3,4 5,6"]
)
def test_what_is_no_record(text: str) -> None:
    assert parse_record(text) is None


def test_a_record_of_anything_fits_the_column() -> None:
    nines = "9" * 19
    total = parse_record(f"{nines},{nines} 0,0 0,0")
    assert total is not None
    assert total.counted(Count(5, 5), None).shown == ((1 << 63) - 1,) * 2


@pytest.mark.parametrize(
    ("by_ovs", "shows", "ebpf", "total"),
    [
        # A sidecar has written the row: before and after more was copied, and before the record.
        (False, 120, 20, 120),
        (False, 120, 25, 125),
        (False, 125, 25, 125),
        (False, 90, 20, 120),
        # OVS has: as it did when the mirror was parked, more, and after it was restarted.
        (True, 100, 25, 125),
        (True, 103, 25, 128),
        (True, 120, 20, 140),
        (True, 150, 20, 170),
        (True, 4, 25, 129),
        # The maps are gone, or begun anew.
        (False, 120, None, 120),
        (False, 120, 7, 127),
        # Nobody has written.
        (False, None, 22, 122),
    ],
)
def test_a_total_is_found_again(
    by_ovs: bool, shows: int | None, ebpf: int | None, total: int
) -> None:
    count = None if ebpf is None else Count(ebpf, ebpf)
    mirror = row(shows, record=equal(120, 100, 20).record, by_ovs=by_ovs)
    assert total_of(mirror, count).shown == (total, total)


def test_what_a_sidecar_wrote_is_not_counted_again() -> None:
    made = totals(row(120, record=equal(120, 100, 20).record), 20)
    made.observe(M, Count(118, 118).as_statistics)
    assert made.statistics()[M] == Count(120, 120).as_statistics


def test_a_count_of_ovs_may_fall_a_little() -> None:
    total = equal(1000, 900).counted(Count(890, 890), None)
    assert total.shown == (1000, 1000)
    assert total.counted(Count(900, 900), None).shown == (1010, 1010)


@pytest.mark.parametrize("parked", [True, False])
def test_mirrors_that_were_never_offloaded_are_left_to_ovs(parked: bool) -> None:
    made = totals(row(7, parked=parked), None)
    assert bool(made.statistics()) is parked
    assert bool(made.unrecorded()) is parked


def test_an_older_build_wrote_what_ebpf_had_counted() -> None:
    assert totals(row(40), 42).statistics()[M]["tx_packets"] == 42


def test_a_mirror_that_ovs_has_no_room_for_shows_it() -> None:
    """`OffloadChecker.lacks_room` tells by it."""
    record = equal(120, 100, 20).record
    made = totals(row(120, parked=False, record=record), None)
    made.observe(M, {})
    assert not made.statistics()
    made.look({M: row(None, parked=False, record=record)}, {})
    assert not made.statistics()
    made.look({M: row(3, parked=False, record=record, by_ovs=True)}, {})
    assert made.statistics()


class AnyOrderOfCounts(RuleBasedStateMachine):
    """A mirror that is moved, a sidecar that is killed, an ovs-vswitchd that is restarted.

    Packets and bytes are one number here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mirror = row(0, parked=False, by_ovs=True)
        self.ovs = self.copied = self.top = 0
        self.ebpf: int | None = None
        self.totals: Totals | None = None
        self.known_ovs = 0

    def _pass(self) -> None:
        assert self.totals is not None
        self.totals.look({M: self.mirror}, counted(self.ebpf))
        if M in self.totals.unrecorded():
            self._record()
        shown = self.totals.statistics().get(M)
        if shown is not None:
            self.mirror = replace(self.mirror, statistics=shown)

    def _record(self) -> None:
        assert self.totals is not None
        self.totals.look({M: self.mirror}, counted(self.ebpf))
        ids = {COUNTED_KEY: self.totals.records()[M]}
        self.mirror = replace(self.mirror, external_ids=ids)

    @rule(n=LITTLE)
    def copy(self, n: int) -> None:
        self.copied += n
        if self.mirror.parked:
            assert self.ebpf is not None
            self.ebpf += n
        else:
            self.ovs += n

    @rule()
    def ovs_writes(self) -> None:
        self.mirror = replace(self.mirror, statistics=written_by_ovs(self.ovs))
        self.known_ovs = self.ovs
        if self.totals is not None:
            self.totals.observe(M, self.mirror.statistics)
            self._pass()

    @precondition(
        lambda self: (
            self.mirror.parked
            or (self.totals is not None and COUNTED_KEY in self.mirror.external_ids)
        )
    )
    @rule()
    def ovs_restarts(self) -> None:
        """What it has not written is lost. What a native mirror has, with it, without a sidecar."""
        self.copied -= self.ovs - self.known_ovs
        self.ovs = self.known_ovs = 0
        self.ovs_writes()

    @rule()
    def start(self) -> None:
        if self.totals is None:
            self.totals = Totals()
            self._pass()

    @rule()
    def kill(self) -> None:
        self.totals = None

    @precondition(lambda self: self.totals is not None)
    @rule()
    def move(self) -> None:
        assert self.totals is not None
        self.ovs_writes()
        if not self.mirror.parked:
            self.ebpf = 0
            self._record()
            self.mirror = replace(self.mirror, select_vlan=PARKED_VLANS)
        else:
            assert self.ebpf is not None
            self._record()
            self.mirror = replace(self.mirror, select_vlan=())
            last, self.ebpf = self.ebpf, None
            self.totals.end({M: Counters(last, last)})
        self._pass()

    @invariant()
    def never_falls(self) -> None:
        if self.totals is not None:
            shown = self.mirror.statistics["tx_packets"]
            assert shown >= self.top
            self.top = shown

    @invariant()
    def all_is_counted(self) -> None:
        if self.totals is not None:
            self._pass()
            shown = self.mirror.statistics["tx_packets"]
            assert shown == self.copied - (self.ovs - self.known_ovs)


TestAnyOrderOfCounts = AnyOrderOfCounts.TestCase
TestAnyOrderOfCounts.settings = settings(max_examples=examples(200), stateful_step_count=30)


NEW = UUID(int=2)


def anew(packets: int | None = None) -> Mapping[UUID, Mirror]:
    """The row, made anew: it has nothing on record, and Open vSwitch's count is a new one."""
    statistics = {} if packets is None else written_by_ovs(packets)
    return {NEW: replace(row(), uuid=NEW, external_ids={}, statistics=statistics)}


def test_a_total_goes_on_in_another_row() -> None:
    made = totals(row(5), 5)
    made.look({}, counted(7))
    made.take_over({}, {M})
    made.look({}, counted(8))
    made.take_over({M: NEW}, set())
    made.look(anew(), {NEW: Counters(9, 9)})
    assert made.statistics() == {NEW: Count(9, 9).as_statistics}
    assert made.unrecorded() == {NEW}
    made.observe(NEW, written_by_ovs(2))
    assert made.statistics() == {NEW: Count(11, 11).as_statistics}


def test_a_total_goes_on_in_a_row_that_comes_at_once() -> None:
    made = totals(row(5), 5)
    made.take_over({M: NEW}, set())
    made.look(anew(), {NEW: Counters(6, 6)})
    assert made.statistics() == {NEW: Count(6, 6).as_statistics}


def test_what_hooks_have_counted_before_they_went_is_not_counted_again() -> None:
    made = totals(row(5), 5)
    made.look({}, counted(7))
    made.end(counted(8))
    made.take_over({M: NEW}, set())
    made.look(anew(), {NEW: Counters(1, 1)})
    assert made.statistics() == {NEW: Count(9, 9).as_statistics}


def test_a_total_is_forgotten_with_its_row() -> None:
    made = totals(row(5), 5)
    made.look({}, counted(7))
    made.take_over({}, set())
    made.take_over({M: NEW}, set())
    made.look(anew(), {NEW: Counters(1, 1)})
    assert made.statistics()[NEW]["tx_packets"] == 1
