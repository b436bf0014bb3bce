"""From the replica's rows to the model's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from ovs_ebpf_tap.model.rows import Database
from ovs_ebpf_tap.observe import row_readers
from ovs_ebpf_tap.observe.replica import Replica
from ovs_ebpf_tap.observe.row_readers import RowReader


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("", 1),
        ("1", 1),
        ("2", 2),
        ("3", 2),
        ("0", 2),
        ("-1", 2),
        ("+2", 2),
        (" \t2", 2),
        ("02", 2),
        ("2147483647", 2),
        # What strtoll does not take to its end, or what is no int.
        ("2 ", 1),
        ("0x2", 1),
        ("0b10", 1),
        ("1_0", 1),
        ("\u0662", 1),
        ("two", 1),
        ("2147483648", 1),
        ("-2147483649", 1),
        ("9" * 30, 1),
        ("9" * 5000, 1),
    ],
)
def test_vlan_limit(text: str, limit: int) -> None:
    """As `smap_get_int` and `flow_limit_vlans` read it."""
    assert row_readers._vlan_limit(text) == limit


class FakeReplica:
    """Bridges, and what python-ovs's replica tells of them."""

    def __init__(self, *names: str) -> None:
        self.connections = 1
        self.changed: set[tuple[str, UUID]] = set()
        tables = ("Open_vSwitch", "Bridge", "Port", "Interface", "Mirror")
        self.tables = {table: SimpleNamespace(rows={}) for table in tables}
        top: dict[str, Any] = {
            "bridges": [],
            "external_ids": {},
            "other_config": {},
            "ovs_version": [],
        }
        self.top = SimpleNamespace(**top, next_cfg=0, cur_cfg=0)
        self.tables["Open_vSwitch"].rows[UUID(int=0)] = self.top
        for name in names:
            self.add(name)

    @property
    def bridges(self) -> dict[UUID, Any]:
        rows: dict[UUID, Any] = self.tables["Bridge"].rows
        return rows

    def add(self, name: str) -> UUID:
        """Without a word on it: python-ovs says nothing of rows with default values."""
        uuid = UUID(int=1000 + len(self.bridges))
        row = {
            "name": name,
            "datapath_type": "",
            "stp_enable": False,
            "rstp_enable": False,
            "protocols": [],
        }
        data = {"ports": SimpleNamespace(values=[]), "mirrors": SimpleNamespace(values=[])}
        self.bridges[uuid] = SimpleNamespace(**row, uuid=uuid, external_ids={}, _data=data)
        self.top.bridges.append(self.bridges[uuid])
        return uuid

    def rename(self, uuid: UUID, name: str, *, told: bool = True) -> None:
        self.bridges[uuid].name = name
        if told:
            self.changed.add(("Bridge", uuid))

    def remove(self, uuid: UUID, *, told: bool = True) -> None:
        self.top.bridges.remove(self.bridges.pop(uuid))
        if told:
            self.changed.add(("Bridge", uuid))


@pytest.fixture
def replica() -> FakeReplica:
    return FakeReplica("br0", "br1")


@pytest.fixture
def reader() -> RowReader:
    return RowReader(dict.fromkeys(("Bridge", "Port", "Interface", "Mirror"), ()))


def read(reader: RowReader, replica: FakeReplica) -> Database:
    return reader.read(cast(Replica, replica))


def names(db: Database) -> list[str]:
    return [bridge.name for bridge in db.bridges.values()]


def test_rows_that_nothing_was_said_of_are_read(reader: RowReader, replica: FakeReplica) -> None:
    assert names(read(reader, replica)) == ["br0", "br1"]
    replica.add("br2")
    assert names(read(reader, replica)) == ["br0", "br1", "br2"]


def test_what_is_as_it_was_stays_the_same_object(reader: RowReader, replica: FakeReplica) -> None:
    before = read(reader, replica)
    first, second = before.bridges
    replica.rename(first, "br0")
    replica.rename(second, "new")
    after = read(reader, replica)
    assert names(after) == ["br0", "new"]
    assert after.bridges[first] is before.bridges[first]
    assert after.ports is before.ports


def test_only_rows_that_changed_are_read(reader: RowReader, replica: FakeReplica) -> None:
    first, second = read(reader, replica).bridges
    replica.rename(first, "untold", told=False)
    replica.rename(second, "told")
    assert names(read(reader, replica)) == ["br0", "told"]
    assert not replica.changed


def test_after_a_reconnect_all_rows_are_read(reader: RowReader, replica: FakeReplica) -> None:
    """Nothing is said of rows that went away meanwhile."""
    first, second = read(reader, replica).bridges
    replica.connections += 1
    replica.rename(first, "new", told=False)
    replica.remove(second, told=False)
    assert names(read(reader, replica)) == ["new"]


def test_a_row_that_is_gone(reader: RowReader, replica: FakeReplica) -> None:
    first, _ = read(reader, replica).bridges
    replica.remove(first)
    assert names(read(reader, replica)) == ["br1"]


def test_a_database_without_its_row(reader: RowReader, replica: FakeReplica) -> None:
    """It is there, but ovs-vsctl has not initialized it."""
    replica.tables["Open_vSwitch"].rows.clear()
    assert read(reader, replica) == Database()
