"""The OVSDB client: reads the rows that matter, writes the edits asked for.

The only module that talks to the database. python-ovs's IDL keeps a replica; `snapshot` turns
it into the plain rows of `model`, reading again only rows that changed: what is as it was stays
the same object. After a reconnect the replica is rebuilt, without a word on rows that went away
meanwhile, so then all rows are read again.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from errno import EMSGSIZE, ENODEV, EPROTO
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import UUID

import ovs.db.error
import ovs.db.idl
import ovs.db.schema
import ovs.jsonrpc
import ovs.poller
import ovs.stream
import ovs.util
import structlog

from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.rows import Bridge, Database, Interface, Mirror, Port
from ovs_ebpf_tap.model.transaction import MirrorEdit, Transaction
from ovs_ebpf_tap.observe import rpc
from ovs_ebpf_tap.util.text import printable
from ovs_ebpf_tap.util.timers import wake_at

DATABASE = "Open_vSwitch"

LOCK = "ovs_ebpf_tap"
"""The lock (RFC 7047, 4.1.8) of the one sidecar beside the database; ovsdb-server takes an <id>."""

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Open_vSwitch": (
        "bridges",
        "external_ids",
        "other_config",
        "next_cfg",
        "cur_cfg",
        "ovs_version",
    ),
    "Bridge": (
        "name",
        "datapath_type",
        "ports",
        "mirrors",
        "stp_enable",
        "rstp_enable",
        "external_ids",
    ),
    "Port": (
        "name",
        "interfaces",
        "tag",
        "trunks",
        "cvlans",
        "vlan_mode",
        "bond_mode",
        "bond_active_slave",
        "other_config",
        "protected",
    ),
    "Interface": (
        "name",
        "type",
        "ofport",
        "error",
        "ifindex",
        "ingress_policing_rate",
        "ingress_policing_kpkts_rate",
    ),
    "Mirror": (
        "name",
        "select_all",
        "select_src_port",
        "select_dst_port",
        "select_vlan",
        "output_port",
        "output_vlan",
        "snaplen",
        "filter",
        "external_ids",
        "statistics",
    ),
}
# Columns that schemas of supported versions of Open vSwitch lack.
_OPTIONAL = {("Interface", "ingress_policing_kpkts_rate"), ("Mirror", "filter"), ("Port", "cvlans")}

# LEGACY_MAX_VLAN_HEADERS and FLOW_MAX_VLAN_HEADERS in OVS's `include/openvswitch/flow.h`.
_LEGACY_VLAN_LIMIT = 1
_MAX_VLAN_LIMIT = 2
# What strtoll takes to its end; longer ones are out of range.
_INT = re.compile(r"[ \t-\r]*[+-]?[0-9]{1,20}")

_MAX_MESSAGE = 64 << 20
"""Bytes of a message beyond which it can't be of this database."""

_NO_DEVICE = os.strerror(ENODEV)
"""In an Interface's `error` if there was no device of its name."""

_ANSWER = 10.0
_LONGEST_ANSWER = 60.0
"""Seconds without a word in which a database has to send its rows, and to answer to a transaction,
and in which it has to, whatever else it sends."""

_NO_ANSWER = "it does not answer, or not to what it was asked"

_CLOSED = {
    ovs.util.EOF: "it has closed the connection",
    EPROTO: "it sends what is no JSON-RPC",
    EMSGSIZE: "it sends a message without an end",
}

_RECONNECT = 200, 200
_RECONNECT_TO_MAD = 1000, 8000
"""Least and most milliseconds between two tries to reach a database that went away, or one that
sent what none does. The latter are python-ovs's own, for the sake of hosts that are far."""

_SILENCE = 1.0
"""Seconds after which a transaction without an answer tells of a database that hangs."""

log = structlog.get_logger()


def default_remote() -> str:
    """The database of the Open vSwitch that `ovs-vsctl` would talk to."""
    return f"unix:{os.environ.get('OVS_RUNDIR', '/var/run/openvswitch')}/db.sock"


def ovs_run_dir(remote: str) -> Path:
    """Where the Open vSwitch of that database keeps its pid files and sockets."""
    return Path(remote.removeprefix("unix:")).parent


def fetch_schema(remote: str, timeout: float) -> dict[str, Any]:
    """The database's schema, as JSON.

    Raises ConnectionError if nobody answers within `timeout` seconds, and TapError if the
    answer says that it is not Open vSwitch's database.
    """
    with contextlib.closing(_SchemaRequest(remote, timeout)) as request:
        while True:
            schema = request.run()
            if schema is not None:
                return schema
            poller = ovs.poller.Poller()
            request.wait(poller)
            poller.block()


class _SchemaRequest:
    """Asks for the schema, on a connection of its own, and does not block."""

    def __init__(self, remote: str, timeout: float) -> None:
        """Raises ConnectionError if nobody listens."""
        if not remote.startswith("unix:"):
            raise TapError(f"the database is to be named as unix:PATH, not {remote}")
        error, stream = ovs.stream.Stream.open(remote)
        if error:
            raise ConnectionError(f"cannot connect to {remote}: {os.strerror(error)}")
        self._remote = remote
        self._deadline = time.monotonic() + timeout
        self._connection = rpc.connection(stream, _MAX_MESSAGE)
        self._request = ovs.jsonrpc.Message.create_request("get_schema", [DATABASE])
        self._connection.send(self._request)

    def close(self) -> None:
        """Drops the connection."""
        self._connection.close()

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        self._connection.wait(poller)
        self._connection.recv_wait(poller)
        wake_at(poller, self._deadline)

    def run(self) -> dict[str, Any] | None:
        """The schema, once it is there. Raises as `fetch_schema` does."""
        self._connection.run()
        reply = rpc.receive(self._connection, self._request)
        if reply is None:
            if self._connection.get_status() or time.monotonic() >= self._deadline:
                raise ConnectionError(f"{self._remote} does not answer")
            return None
        if reply.error is not None:
            raise TapError(
                f"{self._remote} has no database {DATABASE}: is it Open vSwitch's socket?"
            )
        _check_schema(self._remote, reply.result)
        return dict(reply.result)


def _check_schema(remote: str, schema: Any) -> None:
    try:
        tables = ovs.db.schema.DbSchema.from_json(schema).tables
    except Exception as error:  # python-ovs takes much of what it reads for granted.
        why = printable(str(getattr(error, "msg", error)))
        raise TapError(f"the database at {remote} has a schema that is none: {why}") from None
    for table, columns in _COLUMNS.items():
        if table not in tables:
            raise TapError(f"the database at {remote} has no table {table}")
        for column in columns:
            if column not in tables[table].columns and (table, column) not in _OPTIONAL:
                raise TapError(f"the database at {remote} has no column {table}.{column}")


def _present(schema: dict[str, Any]) -> dict[str, list[str]]:
    """The columns that we read, and that the schema has, by table."""
    return {
        table: [column for column in columns if column in schema["tables"][table]["columns"]]
        for table, columns in _COLUMNS.items()
    }


class _Idl(ovs.db.idl.Idl):  # type: ignore[misc]
    """The replica, which notes the rows that changed.

    From a peer that sends what no database does it takes nothing more, and begins anew.
    """

    def __init__(self, remote: str, schema: ovs.db.idl.SchemaHelper) -> None:
        self.changed: set[tuple[str, UUID]] = set()
        self.connections = 0
        self.trouble: str | None = None
        """What is wrong with the peer, since the replica was last complete."""
        self._asked = 0.0
        self._left: Any = None
        super().__init__(remote, schema)
        self._wait_between_tries(_RECONNECT)

    def _wait_between_tries(self, milliseconds: tuple[int, int]) -> None:
        # `set_backoff` takes no less than a second.
        reconnect = self._session.reconnect
        reconnect.min_backoff, reconnect.max_backoff = milliseconds

    def restart_fsm(self) -> None:
        self.connections += 1
        super().restart_fsm()

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        self.changed.add((row._table.name, row.uuid))

    @property
    def complete(self) -> bool:
        """Whether the replica is whole, and followed."""
        return bool(self.state == self.IDL_S_MONITORING and self._session.is_connected())

    def run(self) -> bool:
        connection = self._session.rpc
        if connection is not None:
            self._bound(connection)
        try:
            changed = bool(super().run())
        except Exception as error:  # python-ovs takes much of what it reads for granted.
            self.leave(f"it sends what no database does: {type(error).__name__}: {error}")
            return True
        if self.complete:
            self.trouble = None
            self._wait_between_tries(_RECONNECT)
        elif connection is not None and connection is not self._left:
            if connection.get_status():
                self.trouble = _CLOSED.get(connection.get_status(), "the connection was lost")
            elif self.is_silent(self._asked):
                self.leave(_NO_ANSWER)
        return changed

    def is_silent(self, since: float) -> bool:
        """Whether no answer is to be waited for any more that was asked for then."""
        now = time.monotonic()
        stream = self._session.rpc.stream if self._session.rpc is not None else None
        heard = max(since, getattr(stream, "heard", 0.0))
        return now >= heard + _ANSWER or now >= since + _LONGEST_ANSWER

    def _bound(self, connection: Any) -> None:
        if not isinstance(connection.stream, rpc.BoundedStream):
            connection.stream = rpc.BoundedStream(connection.stream, _MAX_MESSAGE)
            self._asked = time.monotonic()
        if connection.parser is None:
            connection.stream.restart()

    def leave(self, trouble: str) -> None:
        """Trusts neither the peer nor the replica any more."""
        self.trouble = trouble
        self._wait_between_tries(_RECONNECT_TO_MAD)
        self._left = self._session.rpc
        self.state = self.IDL_S_INITIAL
        self.last_id = str(UUID(int=0))  # All rows, the next time.
        self._session.force_reconnect()


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
        self._columns = _present(schema)
        self._idl = self._make_replica(schema)
        self._connections = 1
        self._schema_request: _SchemaRequest | None = None
        """Of a connection that was made anew: its rows are not read before."""
        self._read_of = 0
        """Of how many connections the rows were read: after another, none is known to be there."""
        self._rows: dict[str, dict[UUID, Any]] = {table: {} for table in _READERS}
        self._seqno: int | None = None
        self._database = Database()
        self.version = 0
        """Grows when `snapshot` returns other rows than before."""
        self._trouble: str | None = None
        self._txn: Any = None
        self._reconfigure = False
        self._next_cfg: int | None = None
        """What an empty transaction writes."""
        self._begun = 0.0
        self.last_reconfigure = 0
        """The `next_cfg` of the last transaction that asked for one; 0 if it is not known."""

    def _make_replica(self, schema: dict[str, Any]) -> _Idl:
        helper = ovs.db.idl.SchemaHelper(schema_json=schema)
        for table, columns in self._columns.items():
            helper.register_columns(table, columns)
        replica = _Idl(self._remote, helper)
        if self._exclusive:
            replica.set_lock(LOCK)
        return replica

    def close(self) -> None:
        """Drops the connection."""
        self._drop_schema_request()
        self._idl.close()

    def run(self) -> bool:
        """Takes in what has arrived; returns whether anything may have changed."""
        before = self._idl.change_seqno
        self._idl.run()
        if self._txn is not None and self._idl.complete and self._idl.is_silent(self._begun):
            self._idl.leave(_NO_ANSWER)
        if self._idl.connections != self._connections and self._idl.complete:
            self._connections = self._idl.connections
            self._ask_for_schema()
        self._mind_upgrade()
        self._tell_trouble()
        self._tell_lock()
        return self._finish_transaction() or before != self._idl.change_seqno

    def _ask_for_schema(self) -> None:
        """Of a database that was away: it may have been upgraded."""
        self._drop_schema_request()
        try:
            self._schema_request = _SchemaRequest(self._remote, _ANSWER)
        except ConnectionError as error:
            self._idl.leave(str(error))

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
            self._idl.leave(str(error))
            return
        if schema is None:
            return
        self._drop_schema_request()
        columns = _present(schema)
        if columns != self._columns:
            log.info("the database was upgraded")
            self._idl.close()
            self._columns = columns
            self._idl = self._make_replica(schema)
            self._connections, self._read_of = 1, 0
            self._seqno = self._txn = None
            self.last_reconfigure = 0

    def _tell_trouble(self) -> None:
        """Logs once what is wrong with the database, and when nothing is any more."""
        trouble, before = self._idl.trouble, self._trouble
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
        self._idl.wait(poller)
        if self._txn is not None:
            self._txn.wait(poller)
        if self._schema_request is not None:
            self._schema_request.wait(poller)

    @property
    def connected(self) -> bool:
        """Whether the replica is complete, the connection was not lost, and has its lock."""
        return self._whole and (not self._exclusive or bool(self._idl.has_lock))

    @property
    def locked_out(self) -> bool:
        """Whether the database is there, and another connection has the lock."""
        return self._whole and self._exclusive and bool(self._idl.is_lock_contended)

    @property
    def _whole(self) -> bool:
        return self._idl.complete and self._schema_request is None

    @property
    def away(self) -> bool:
        """Whether the database is not there, or hangs, and the replica is what it last was."""
        if not self._idl.has_ever_connected():
            return False
        hangs = self._txn is not None and time.monotonic() >= self._begun + _SILENCE
        return hangs or not self.connected

    def applied(self, db: Database) -> bool:
        """Whether ovs-vswitchd has taken in the last transaction that asked for it."""
        # A database that was put back to an earlier state counts from there.
        target = min(self.last_reconfigure, db.next_cfg) or db.next_cfg
        return db.cur_cfg >= target

    @property
    def busy(self) -> bool:
        """Whether a transaction is under way: wait for it before the next."""
        return self._txn is not None

    # Reading.

    def snapshot(self) -> Database:
        """The rows as they are in the replica; the same object while these are the same.

        A row that is as it was stays the same object, too, and so does a table of such rows.
        """
        if self.connected and self._seqno != self._idl.change_seqno:
            self._seqno = self._idl.change_seqno
            changed, self._idl.changed = self._idl.changed, set()
            for table in _READERS:
                self._read(table, {uuid for name, uuid in changed if name == table})
            self._read_of = self._idl.connections
            database = self._make_database()
            if database != self._database:
                self._database = database
                self.version += 1
        return self._database

    def _read(self, table: str, changed: set[UUID]) -> None:
        """Reads rows that changed, and those that the IDL said nothing of."""
        replica = self._idl.tables[table].rows
        if self._read_of != self._idl.connections:
            changed = {*self._rows[table], *replica}
        if not changed and len(self._rows[table]) == len(replica):
            return
        rows = dict(self._rows[table])
        for uuid in changed:
            if uuid not in replica:
                rows.pop(uuid, None)
                continue
            row = _READERS[table](replica[uuid], self._columns[table])
            if rows.get(uuid) != row:
                rows[uuid] = row
        # It says nothing of new rows with no value but default ones.
        for uuid in replica.keys() - rows.keys() if len(rows) < len(replica) else ():
            rows[uuid] = _READERS[table](replica[uuid], self._columns[table])
        if rows != self._rows[table]:
            self._rows[table] = rows

    def _make_database(self) -> Database:
        top = next(iter(self._idl.tables["Open_vSwitch"].rows.values()), None)
        if top is None:
            return Database()
        bridges = self._rows["Bridge"]
        wanted = [row.uuid for row in top.bridges if row.uuid in bridges]
        return Database(
            bridges={uuid: bridges[uuid] for uuid in wanted},
            ports=self._rows["Port"],
            interfaces=self._rows["Interface"],
            mirrors=self._rows["Mirror"],
            external_ids=dict(top.external_ids),
            hw_offload=_bool(top.other_config, "hw-offload"),
            userspace_tso=_bool(top.other_config, "userspace-tso-enable"),
            vlan_limit=_vlan_limit(top.other_config.get("vlan-limit", "")),
            next_cfg=top.next_cfg,
            cur_cfg=top.cur_cfg,
            ovs_version=_first(top.ovs_version),
        )

    # Writing.

    def commit(self, edits: Transaction) -> None:
        """Starts a transaction; rows that are gone by now are passed over.

        A Mirror whose `select_vlan` changed meanwhile makes it fail, and nothing is written.
        """
        assert self._txn is None, "a transaction is under way"
        txn = ovs.db.idl.Transaction(self._idl)
        for mirror_edit in edits.mirrors:
            row = self._idl.tables["Mirror"].rows.get(mirror_edit.mirror)
            if row is not None:
                _edit_mirror(row, mirror_edit)
        for port_edit in edits.ports:
            row = self._idl.tables["Port"].rows.get(port_edit.port)
            if row is not None:
                row.protected = port_edit.protected
        self._next_cfg = None
        if edits.reconfigure:
            top = next(iter(self._idl.tables["Open_vSwitch"].rows.values()))
            if edits.mirrors or edits.ports:
                top.increment("next_cfg")
            else:  # python-ovs leaves out an increment where it is all.
                top.verify("next_cfg")
                self._next_cfg = top.next_cfg = top.next_cfg + 1
        self._txn, self._reconfigure = txn, edits.reconfigure
        self._finish_transaction()
        self._begun = time.monotonic()

    def _finish_transaction(self) -> bool:
        """Carries the transaction on; returns whether it has ended."""
        if self._txn is None:
            return False
        status = self._txn.commit()
        if status == ovs.db.idl.Transaction.INCOMPLETE:
            return False
        if self._reconfigure:
            # Of one that was cut off nobody knows whether it was made.
            success = status == ovs.db.idl.Transaction.SUCCESS
            self.last_reconfigure = (
                (self._next_cfg or self._txn.get_increment_new_value()) if success else 0
            )
        if status not in (
            ovs.db.idl.Transaction.SUCCESS,
            ovs.db.idl.Transaction.UNCHANGED,
            ovs.db.idl.Transaction.TRY_AGAIN,
            ovs.db.idl.Transaction.NOT_LOCKED,
        ):
            log.warning("transaction failed", error=self._txn.get_error())
        self._txn = None
        return True


def _edit_mirror(row: Any, edit: MirrorEdit) -> None:
    if edit.select_vlan is not None:
        row.verify("select_vlan")
        row.select_vlan = list(edit.select_vlan)
    for key, value in edit.set_ids.items():
        row.setkey("external_ids", key, value)
    for key in edit.delete_ids:
        row.delkey("external_ids", key)


# From the IDL's rows to the model's.


def _uuids(row: Any, column: str) -> tuple[UUID, ...]:
    """The rows that a column refers to, from its datum: the IDL would make a Row of each."""
    atoms = row._data[column].values
    return tuple(sorted((atom.value for atom in atoms), key=attrgetter("int")))


def _first(values: Sequence[Any], default: Any = None) -> Any:
    return values[0] if values else default


def _bool(settings: Mapping[str, str], key: str) -> bool:
    """As `smap_get_bool` reads it, where the default is false."""
    return settings.get(key, "").lower() == "true"


def _vlan_limit(text: str) -> int:
    """How many tags OVS looks at: `smap_get_int`, then `flow_limit_vlans`, which knows two."""
    limit = int(text) if _INT.fullmatch(text) else None
    if limit is None or not -(1 << 31) <= limit < 1 << 31:
        return _LEGACY_VLAN_LIMIT
    return min(limit, _MAX_VLAN_LIMIT) if limit > 0 else _MAX_VLAN_LIMIT


def _bridge(row: Any, columns: list[str]) -> Bridge:
    return Bridge(
        uuid=row.uuid,
        name=row.name,
        datapath_type=row.datapath_type,
        ports=_uuids(row, "ports"),
        mirrors=_uuids(row, "mirrors"),
        spanning_tree=row.stp_enable or row.rstp_enable,
        external_ids=dict(row.external_ids),
    )


def _port(row: Any, columns: list[str]) -> Port:
    return Port(
        uuid=row.uuid,
        name=row.name,
        interfaces=_uuids(row, "interfaces"),
        tag=_first(row.tag),
        trunks=tuple(sorted(row.trunks)),
        cvlans=tuple(sorted(row.cvlans)) if "cvlans" in columns else (),
        vlan_mode=_first(row.vlan_mode),
        priority_tags=row.other_config.get("priority-tags"),
        qinq_ethtype=row.other_config.get("qinq-ethtype"),
        bond_mode=_first(row.bond_mode),
        bond_active_member=_first(row.bond_active_slave),
        protected=row.protected,
    )


def _interface(row: Any, columns: list[str]) -> Interface:
    rates = [row.ingress_policing_rate]
    if "ingress_policing_kpkts_rate" in columns:
        rates.append(row.ingress_policing_kpkts_rate)
    return Interface(
        uuid=row.uuid,
        name=row.name,
        type=row.type,
        policed=any(rates),
        opened=any(number >= 0 for number in row.ofport),
        refused=any(number < 0 for number in row.ofport)
        and _NO_DEVICE not in _first(row.error, ""),
        ifindex=_first(row.ifindex),
    )


def _mirror(row: Any, columns: list[str]) -> Mirror:
    return Mirror(
        uuid=row.uuid,
        name=row.name,
        select_all=row.select_all,
        select_src_port=_uuids(row, "select_src_port"),
        select_dst_port=_uuids(row, "select_dst_port"),
        select_vlan=tuple(sorted(row.select_vlan)),
        output_port=_first(_uuids(row, "output_port")),
        output_vlan=_first(row.output_vlan),
        snaplen=_first(row.snaplen),
        filter=_first(row.filter) if "filter" in columns else None,
        external_ids=dict(row.external_ids),
        statistics=dict(row.statistics),
    )


_READERS: Mapping[str, Callable[[Any, list[str]], Any]] = {
    "Bridge": _bridge,
    "Port": _port,
    "Interface": _interface,
    "Mirror": _mirror,
}
