"""The OVSDB client: reads the rows that matter, writes the edits asked for.

`replica` keeps a replica of the database; `Ovsdb.snapshot` turns it into the plain rows of the
model by `row_readers`, and `db_transaction` writes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ovs.poller
import structlog

from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.rows import Database
from ovs_ebpf_tap.model.transaction import Transaction
from ovs_ebpf_tap.observe.db_transaction import DbTransaction
from ovs_ebpf_tap.observe.replica import NO_ANSWER, Replica
from ovs_ebpf_tap.observe.row_readers import RowReader
from ovs_ebpf_tap.observe.schema import SchemaRequest, present_columns
from ovs_ebpf_tap.util.probes import probe

LOCK = "ovs_ebpf_tap"
"""The lock (RFC 7047, 4.1.8) of the one sidecar beside the database; ovsdb-server takes an <id>."""

_SCHEMA = 10.0
"""Seconds for a database that is back to send its schema."""

_SILENCE = 1.0
"""Seconds after which a transaction without an answer tells of a database that hangs."""

log = structlog.get_logger()


def default_remote() -> str:
    """The database of the Open vSwitch that `ovs-vsctl` would talk to."""
    return f"unix:{os.environ.get('OVS_RUNDIR', '/var/run/openvswitch')}/db.sock"


def ovs_run_dir(remote: str) -> Path:
    """Where the Open vSwitch of that database keeps its pid files and sockets."""
    return Path(remote.removeprefix("unix:")).parent


class Ovsdb:
    """A connection to the database that never blocks; drive it with `run` and `wait`.

    With `exclusive`, it is of a sidecar, of which there is one at a time: each transaction has the
    database check that the connection has `LOCK`. Without that, the database is taken to be away.
    """

    def __init__(self, remote: str, schema: dict[str, Any], *, exclusive: bool = False) -> None:
        self._remote = remote
        self._exclusive = exclusive
        self._locked_out = False
        """Whether it was said that another has the lock."""
        self._lost_at = 0.0
        """When the lock was last ours; 0 if it never was."""
        self._columns = present_columns(schema)
        self._replica = self._make_replica(schema)
        self._rows = RowReader(self._columns)
        self._connections = 1
        self._schema_request: SchemaRequest | None = None
        """Of a connection that was made anew: its rows are not read before."""
        self._seqno: int | None = None
        self._database = Database()
        self._trouble: str | None = None
        self._transaction: DbTransaction | None = None
        self.last_reconfigure = 0
        """The `next_cfg` of the last transaction that asked for one; 0 if it is not known."""

    def _make_replica(self, schema: dict[str, Any]) -> Replica:
        replica = Replica.of(self._remote, schema, self._columns)
        if self._exclusive:
            replica.set_lock(LOCK)
        return replica

    def close(self) -> None:
        """Drops the connection."""
        self._drop_schema_request()
        self._replica.close()

    def run(self) -> bool:
        """Takes in what has arrived; returns whether anything may have changed."""
        before = self._replica.change_seqno
        self._replica.run()
        txn = self._transaction
        if txn is not None and self._replica.complete and self._replica.is_silent(txn.begun):
            self._replica.leave(NO_ANSWER)
        if self._replica.connections != self._connections and self._replica.complete:
            self._connections = self._replica.connections
            self._ask_for_schema()
        self._mind_upgrade()
        self._tell_trouble()
        self._tell_lock()
        return self._finish_transaction() or before != self._replica.change_seqno

    def _ask_for_schema(self) -> None:
        """Of a database that was away: it may have been upgraded."""
        self._drop_schema_request()
        try:
            self._schema_request = SchemaRequest.send(self._remote, _SCHEMA)
        except ConnectionError as error:
            self._replica.leave(str(error))

    def _drop_schema_request(self) -> None:
        if self._schema_request is not None:
            self._schema_request.close()
            self._schema_request = None

    def _mind_upgrade(self) -> None:
        """Begins anew if the database has other columns since it was away."""
        if self._schema_request is None:
            return
        try:
            schema = self._schema_request.run()
        except (ConnectionError, TapError) as error:
            self._drop_schema_request()
            self._replica.leave(str(error))
            return
        if schema is None:
            return
        self._drop_schema_request()
        columns = present_columns(schema)
        if columns != self._columns:
            log.info("the database was upgraded")
            self._replica.close()
            self._columns = columns
            self._replica = self._make_replica(schema)
            self._rows = RowReader(columns)
            self._connections = 1
            self._seqno = self._transaction = None
            self.last_reconfigure = 0

    def _tell_trouble(self) -> None:
        """Logs once what is wrong with the database, and when nothing is any more."""
        trouble, before = self._replica.trouble, self._trouble
        self._trouble = trouble
        if trouble and trouble != before:
            log.warning("database lost, trying again", error=trouble)
        elif before and not trouble:
            log.info("database is back")

    def _tell_lock(self) -> None:
        """Logs once that another has the lock that was ours, and when it is ours again.

        For a moment, that may be a connection of ours which has ended.
        """
        now = time.monotonic()
        if self._exclusive and self.connected:
            self._lost_at = now
            if self._locked_out:
                self._locked_out = False
                log.info("the database's lock is back", lock=LOCK)
        elif self.locked_out and self._lost_at and not self._locked_out:
            self._locked_out = now >= self._lost_at + _SILENCE
            if self._locked_out:
                log.warning("another ovs-ebpf-tap has the database's lock", lock=LOCK)

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        self._replica.wait(poller)
        if self._transaction is not None:
            self._transaction.wait(poller)
        if self._schema_request is not None:
            self._schema_request.wait(poller)

    @property
    def connected(self) -> bool:
        """Whether the replica is complete, the connection was not lost, and has its lock."""
        return self._whole and (not self._exclusive or bool(self._replica.has_lock))

    @property
    def locked_out(self) -> bool:
        """Whether the database is there, and another connection has the lock."""
        return self._whole and self._exclusive and bool(self._replica.is_lock_contended)

    @property
    def _whole(self) -> bool:
        return self._replica.complete and self._schema_request is None

    @property
    def away(self) -> bool:
        """Whether the database is not there, or hangs, and the replica is what it last was."""
        if not self._replica.has_ever_connected():
            return False
        txn = self._transaction
        hangs = txn is not None and time.monotonic() >= txn.begun + _SILENCE
        return hangs or not self.connected

    def applied(self, db: Database) -> bool:
        """Whether ovs-vswitchd has taken in the last transaction that asked for it."""
        # A database that was put back to an earlier state counts from there.
        target = min(self.last_reconfigure, db.next_cfg) or db.next_cfg
        return db.cur_cfg >= target

    @property
    def busy(self) -> bool:
        """Whether a transaction is under way: wait for it before the next."""
        return self._transaction is not None

    # Reading.

    def snapshot(self) -> Database:
        """The rows as they are in the replica; the same object while these are the same.

        A row that is as it was stays the same object, too, and so does a table of such rows.
        """
        if self.connected and self._seqno != self._replica.change_seqno:
            self._seqno = self._replica.change_seqno
            database = self._rows.read(self._replica)
            if database != self._database:
                self._database = database
        probe("rows read")
        return self._database

    # Writing.

    def commit(self, edits: Transaction) -> None:
        """Starts a transaction: see `DbTransaction.begin`."""
        assert self._transaction is None, "a transaction is under way"
        probe("transaction about to be sent", edits)
        self._transaction = DbTransaction.begin(self._replica, edits)
        self._finish_transaction()
        probe("transaction sent", edits)

    def _finish_transaction(self) -> bool:
        """Carries the transaction on; returns whether it has ended."""
        txn = self._transaction
        if txn is None or not txn.run():
            return False
        if txn.reconfigures:
            self.last_reconfigure = txn.next_cfg
        self._transaction = None
        return True
