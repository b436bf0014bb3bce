"""The names of python-ovs that it keeps to itself, or does not document, and that are used here.

A version that lacks one is not to be installed: see `ovs` in `pyproject.toml`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ovs.jsonrpc
import ovs.poller
import ovs.unixctl.server
import pytest
from fake_database import FakeDatabase, honest, schema

from ovs_ebpf_tap.observe.ovsdb import Ovsdb


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Ovsdb]:
    with FakeDatabase(tmp_path / "db.sock", honest("m1")) as fake:
        made = Ovsdb(fake.remote, schema())
        while not made.connected:
            poller = ovs.poller.Poller()
            made.wait(poller)
            poller.timer_wait(100)
            poller.block()
            made.run()
        yield made
        made.close()


def test_the_replica_has_a_session(client: Ovsdb) -> None:
    session = client._replica._session
    assert isinstance(session, ovs.jsonrpc.Session)
    assert isinstance(session.rpc, ovs.jsonrpc.Connection)
    assert {"stream"} <= vars(session.rpc).keys()
    assert {"min_backoff", "max_backoff"} <= vars(session.reconnect).keys()
    assert client._replica.state == client._replica.IDL_S_MONITORING
    assert {"last_id"} <= vars(client._replica).keys()


def test_a_row_has_its_table_and_data(client: Ovsdb) -> None:
    (bridge,) = client._replica.tables["Bridge"].rows.values()
    assert bridge._table.name == "Bridge"
    (atom,) = bridge._data["mirrors"].values
    assert atom.value in client._replica.tables["Mirror"].rows


def test_a_server_has_a_listener_and_connections(tmp_path: Path) -> None:
    error, server = ovs.unixctl.server.UnixctlServer.create(str(tmp_path / "ctl"))
    assert not error
    assert server._conns == []
    assert callable(server._listener.accept)
    assert callable(ovs.unixctl.server.UnixctlConnection._close)
    server.close()
