"""Databases that restart, stall, or send what is none of their rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ovs.poller
import pytest
from fake_database import Answer, FakeDatabase, Message, honest, reply, schema

from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.lab.waiting import patience
from ovs_ebpf_tap.model.transaction import MirrorEdit, Transaction
from ovs_ebpf_tap.observe import db_transaction, ovsdb, replica
from ovs_ebpf_tap.observe import schema as db_schema
from ovs_ebpf_tap.observe.ovsdb import Ovsdb
from ovs_ebpf_tap.observe.schema import fetch_schema

# Peers that are no database, or a bad one.

ENDLESS = b'{"id":0,"result":"' + b"x" * (1 << 16)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ovsdb, "_SCHEMA", 0.3)
    monkeypatch.setattr(replica, "_ANSWER", 0.3)
    monkeypatch.setattr(replica, "_LONGEST_ANSWER", 1.0)
    monkeypatch.setattr(db_schema, "_MAX_MESSAGE", 1 << 20)


@pytest.fixture
def fake(tmp_path: Path, quick: None) -> Iterator[FakeDatabase]:
    with FakeDatabase(tmp_path / "db.sock", honest("m1", "m2")) as made:
        yield made


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged."""
    lines: list[str] = []

    class Log:
        def warning(self, event: str, error: str = "") -> None:
            lines.append(f"{event}: {error}" if error else event)

        info = warning

    for module in (ovsdb, db_transaction):
        monkeypatch.setattr(module, "log", Log())
    return lines


def until(client: Ovsdb, condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + patience(seconds)
    while not condition():
        assert time.monotonic() < deadline
        client.run()
        poller = ovs.poller.Poller()
        client.wait(poller)
        poller.timer_wait(20)
        poller.block()


def names(client: Ovsdb) -> set[str]:
    return {mirror.name for mirror in client.snapshot().mirrors.values()}


@pytest.fixture
def client(fake: FakeDatabase, log: list[str]) -> Iterator[Ovsdb]:
    made = Ovsdb(fake.remote, schema())
    reconnect = made._replica._session.reconnect
    reconnect.min_backoff = reconnect.max_backoff = 50  # ms
    until(made, lambda: made.connected)
    assert names(made) == {"m1", "m2"}
    yield made
    made.close()


def test_a_honest_peer(fake: FakeDatabase, client: Ovsdb, log: list[str]) -> None:
    assert fetch_schema(fake.remote, 5) == schema()
    (mirror, _) = client.snapshot().mirrors
    client.commit(Transaction((MirrorEdit(mirror, set_ids={"a": "b"}),)))
    until(client, lambda: not client.busy)
    assert log == []
    assert fake.connections == 2


def test_a_lock_that_another_has(tmp_path: Path) -> None:
    """Without it, the database is as good as away; with it, each transaction asserts it."""
    taken = honest("m1")

    def answer(request: Message) -> bytes | None:
        if request["method"] == "lock":
            return reply(request, {"locked": False})
        return taken(request)

    with FakeDatabase(tmp_path / "db.sock", answer) as made:

        def tell(what: str) -> None:
            told = {"id": None, "method": what, "params": [ovsdb.LOCK]}
            made.send(json.dumps(told).encode())

        client = Ovsdb(made.remote, schema(), exclusive=True)
        until(client, lambda: client.locked_out)
        assert not client.connected
        assert client.away
        tell("locked")
        until(client, lambda: client.connected)
        assert not client.locked_out
        (mirror,) = client.snapshot().mirrors
        client.commit(Transaction((MirrorEdit(mirror, set_ids={"a": "b"}),)))
        until(client, lambda: not client.busy)
        (written,) = [each for each in made.requests if each["method"] == "transact"]
        assert written["params"][1] == {"op": "assert", "lock": ovsdb.LOCK}
        tell("stolen")
        until(client, lambda: client.locked_out)
        assert not client.connected
        client.close()


def broken(change: Callable[[Any], object]) -> Any:
    made = schema()
    change(made)
    return made


SCHEMAS: list[tuple[Any, str]] = [
    (None, "schema that is none"),
    ([], "schema that is none"),
    ("text", "schema that is none"),
    ({}, "schema that is none"),
    ({"name": "Open_vSwitch", "tables": []}, "schema that is none"),
    ({"name": "Open_vSwitch", "tables": {}}, "no table"),
    (broken(lambda made: made["tables"].pop("Mirror")), "schema that is none"),
    (broken(lambda made: made["tables"]["Mirror"]["columns"].pop("name")), "no column Mirror.name"),
    (broken(lambda made: made["tables"]["Mirror"].update(columns=7)), "schema that is none"),
    (broken(lambda made: made["tables"].update(Mirror="\x1b[2J\n")), "schema that is none"),
]


@pytest.mark.parametrize(("result", "why"), SCHEMAS)
def test_a_schema_that_is_none(fake: FakeDatabase, result: Any, why: str) -> None:
    fake.answer = lambda request: reply(request, result, None if result is not None else 7)
    with pytest.raises(TapError) as caught:
        fetch_schema(fake.remote, 5)
    if result is not None:
        assert why in str(caught.value)
    assert str(caught.value).isprintable()


NO_ANSWERS: dict[str, Answer] = {
    "nothing": lambda request: b"",
    "the end": lambda request: None,
    "garbage": lambda request: b"\xff\0 garbage",
    "half": lambda request: reply(request, schema())[:-9],
    "wrong id": lambda request: reply({"id": "another"}, schema()),
    "endless": lambda request: ENDLESS * 40,
    "deep": lambda request: b"[" * 5000,
    "a request": lambda request: json.dumps({**request, "method": "x"}).encode(),
    "not an object": lambda request: b"[1]",
}


@pytest.mark.parametrize("what", NO_ANSWERS)
def test_no_schema(fake: FakeDatabase, what: str) -> None:
    fake.answer = NO_ANSWERS[what]
    with pytest.raises(ConnectionError, match="does not answer"):
        fetch_schema(fake.remote, 0.3)


def test_the_schema_of_a_database_that_is_back_is_not_waited_for(
    fake: FakeDatabase, client: Ovsdb, log: list[str]
) -> None:
    """Until it is there, rows stay as they were."""
    as_ever = honest("m3")
    asked: list[Message] = []

    def answer(request: Message) -> bytes | None:
        if request["method"] == "get_schema" and request["params"] == ["Open_vSwitch"]:
            asked.append(request)
            return b""
        return as_ever(request)

    fake.answer = answer
    fake.send(b"}")
    until(client, lambda: asked)
    turns = 0
    while turns < 5:  # Each within its time, or the lines that are logged are more than two.
        client.run()
        turns += 1
    assert not client.connected
    assert names(client) == {"m1", "m2"}
    fake.send(reply(asked.pop(), schema()))
    until(client, lambda: client.connected)
    assert not asked
    assert names(client) == {"m3"}
    assert len(log) == 2


BAD_ROWS: dict[str, Answer] = {
    **NO_ANSWERS,
    "refusal": lambda request: reply(request, None, "not today"),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_peer_that_goes_mad(fake: FakeDatabase, client: Ovsdb, log: list[str], what: str) -> None:
    """What was known stays, is said once, and it is tried again."""
    fake.answer = BAD_ROWS[what]
    before = client.snapshot()
    fake.send(b"}")
    until(client, lambda: not client.connected)
    deadline = time.monotonic() + patience(1)
    while time.monotonic() < deadline:
        known = fake.connections
        until(client, lambda n=known: fake.connections > n or time.monotonic() > deadline)  # type: ignore[misc]
        assert client.snapshot() is before
        assert not client.connected
    assert 1 <= len(log) <= 4
    assert len(set(log)) == len(log)
    assert all(line.startswith("database lost, trying again: it ") for line in log)
    fake.answer = honest("m3")
    until(client, lambda: client.connected, 20)
    assert names(client) == {"m3"}
    assert log[-1] == "database is back"


def test_a_mad_peer_is_not_tried_all_the_time(
    fake: FakeDatabase, quick: None, log: list[str]
) -> None:
    fake.answer = honest("m1")
    client = Ovsdb(fake.remote, schema())
    until(client, lambda: client.connected)
    fake.answer = BAD_ROWS["nothing"]
    fake.send(b"}")
    until(client, lambda: not client.connected)
    deadline = time.monotonic() + patience(3)
    until(client, lambda: time.monotonic() > deadline)
    assert 2 <= fake.connections <= 4
    client.close()


UPDATES = [
    b'{"id":null,"result":null}',
    b"}",
]


@pytest.mark.parametrize("update", UPDATES)
def test_an_update_that_is_none(
    fake: FakeDatabase, client: Ovsdb, log: list[str], update: bytes
) -> None:
    fake.answer = honest("m1", "m2", "m3")
    fake.send(update)
    until(client, lambda: names(client) == {"m1", "m2", "m3"}, 20)
    assert len(log) == 2
    assert log[0].startswith("database lost, trying again: it sends ")
    assert log[1] == "database is back"


def test_a_transaction_without_an_answer(fake: FakeDatabase, client: Ovsdb, log: list[str]) -> None:
    as_ever = fake.answer
    fake.answer = lambda request: b"" if request["method"] == "transact" else as_ever(request)
    (mirror, _) = client.snapshot().mirrors
    client.commit(Transaction((MirrorEdit(mirror, set_ids={"a": "b"}),)))
    assert client.busy
    until(client, lambda: not client.busy)
    until(client, lambda: client.connected, 20)
    assert len(log) == 2
    assert "does not answer" in log[0]


def test_a_peer_that_talks_and_does_not_answer(
    fake: FakeDatabase, client: Ovsdb, log: list[str]
) -> None:
    as_ever = fake.answer
    chatter = b'{"id":null,"method":"update2","params":[null,{}]}'
    fake.answer = lambda request: b"" if request["method"] == "transact" else as_ever(request)
    (mirror, _) = client.snapshot().mirrors
    client.commit(Transaction((MirrorEdit(mirror, set_ids={"a": "b"}),)))

    def chat() -> bool:
        fake.send(chatter)
        return not client.busy

    until(client, chat)
    assert "does not answer" in log[0]


def test_what_is_no_row_of_ours_is_passed_over(fake: FakeDatabase, client: Ovsdb) -> None:
    """Values of the wrong type are as if they were not there."""
    uuid = next(iter(client.snapshot().mirrors))
    change = {"modify": {"select_vlan": "x", "output_port": 7, "nobody": [], "name": "new"}}
    told = {"id": None, "method": "update2", "params": [None, {"Mirror": {str(uuid): change}}]}
    fake.send(json.dumps(told).encode())
    until(client, lambda: "new" in names(client))
    assert client.snapshot().mirrors[uuid].select_vlan == ()
