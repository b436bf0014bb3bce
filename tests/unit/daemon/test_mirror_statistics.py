"""The rows show what is counted, and are written no more often than they have to be."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import pytest
from fake_sidecar import FakeDatapath, FakeWriter

from ovs_ebpf_tap.daemon.statistics import MirrorStatistics
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.rows import PARKED_VLANS, Mirror

NOW = 1000.0
U = UUID(int=1)


@pytest.fixture
def source() -> FakeDatapath:
    source = FakeDatapath()
    source.counted = {U: Counters(5, 500, 0)}
    return source


@pytest.fixture
def writer() -> FakeWriter:
    return FakeWriter()


@pytest.fixture
def statistics(source: FakeDatapath, writer: FakeWriter) -> MirrorStatistics:
    return MirrorStatistics(source, writer)


def packets(writer: FakeWriter) -> list[int]:
    return [values[U]["tx_packets"] for values in writer.written]


def rows(shown: Mapping[str, int]) -> dict[UUID, Mirror]:
    return {U: Mirror(U, "m1", select_vlan=PARKED_VLANS, statistics=shown)}


def test_what_is_counted_is_written_every_few_seconds(
    statistics: MirrorStatistics, source: FakeDatapath, writer: FakeWriter
) -> None:
    statistics.count(rows({}), NOW)
    assert packets(writer) == [5]
    source.counted = {U: Counters(6, 600, 0)}
    statistics.count(rows(writer.held[U]), NOW + 4.9)
    assert packets(writer) == [5]
    statistics.count(rows(writer.held[U]), NOW + 5)
    assert packets(writer) == [5, 6]


def test_what_others_write_over_is_written_again_soon(
    statistics: MirrorStatistics, writer: FakeWriter
) -> None:
    statistics.count(rows({}), NOW)
    overwritten = {"tx_packets": 0, "tx_bytes": 0}
    statistics.count(rows(overwritten), NOW + 0.1)
    assert packets(writer) == [5]
    statistics.count(rows(overwritten), NOW + 0.2)
    assert packets(writer) == [5, 5]


def test_what_ovs_counted_meanwhile_is_added(
    statistics: MirrorStatistics, writer: FakeWriter
) -> None:
    statistics.count(rows({}), NOW)
    shown = rows(writer.held[U])
    writer.overwritten = {U: {"tx_packets": 3, "tx_bytes": 300}}
    statistics.run()
    statistics.count(shown, NOW + 5)
    assert packets(writer) == [5, 8]


def test_nothing_is_written_while_the_database_is_away(
    statistics: MirrorStatistics, writer: FakeWriter
) -> None:
    statistics.count(rows({}), NOW)
    shown = rows(writer.held[U])
    statistics.rest()
    assert writer.held == {}
    statistics.count(shown, NOW + 1)
    assert packets(writer) == [5, 5]


def test_a_total_is_to_be_recorded(statistics: MirrorStatistics) -> None:
    statistics.count(rows({}), NOW)
    assert statistics.unrecorded
    assert statistics.to_record(ending=False) == {U}
    assert statistics.records() == {U: "5,500 0,0 5,500"}
    recorded = Mirror(
        U, "m1", select_vlan=PARKED_VLANS, external_ids={"ebpf-tap-counted": "5,500 0,0 5,500"}
    )
    statistics.count({U: recorded}, NOW + 1)
    assert not statistics.unrecorded
