"""The columns of Open vSwitch's database that are read, and the schema that says which exist."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import ovs.db.schema
import ovs.poller

from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.observe import rpc
from ovs_ebpf_tap.util.text import printable
from ovs_ebpf_tap.util.timers import wake_at

DATABASE = "Open_vSwitch"

_UNIX = "unix:"

_MAX_MESSAGE = 64 << 20
"""Bytes of a message beyond which it can't be of this database."""

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
        "protocols",
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
        "options",
        "ofport",
        "error",
        "ifindex",
        "options",
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


def fetch_schema(remote: str, timeout: float) -> dict[str, Any]:
    """The database's schema, as JSON.

    Raises ConnectionError if nobody answers within `timeout` seconds, and TapError if the
    answer says that it is not Open vSwitch's database.
    """
    with contextlib.closing(SchemaRequest.send(remote, timeout)) as request:
        while True:
            schema = request.run()
            if schema is not None:
                return schema
            poller = ovs.poller.Poller()
            request.wait(poller)
            poller.block()


def present_columns(schema: dict[str, Any]) -> dict[str, Sequence[str]]:
    """The columns that are read, and that the schema has, by table."""
    return {
        table: [column for column in columns if column in schema["tables"][table]["columns"]]
        for table, columns in _COLUMNS.items()
    }


class SchemaRequest:
    """Asks for the schema, on a connection of its own, and does not block."""

    def __init__(self, remote: str, client: rpc.Client, request: Any, deadline: float) -> None:
        """`request` is the id of what was sent by `client`; `deadline` is monotonic."""
        self._remote = remote
        self._client = client
        self._request = request
        self._deadline = deadline

    @classmethod
    def send(cls, remote: str, timeout: float) -> Self:
        """Raises ConnectionError if nobody listens."""
        if not remote.startswith(_UNIX):
            raise TapError(f"the database is to be named as unix:PATH, not {remote}")
        try:
            client = rpc.Client.open(Path(remote.removeprefix(_UNIX)), _MAX_MESSAGE)
        except OSError as error:
            raise ConnectionError(f"cannot connect to {remote}: {error.strerror}") from None
        request = client.send("get_schema", [DATABASE])
        return cls(remote, client, request, time.monotonic() + timeout)

    def close(self) -> None:
        """Drops the connection."""
        self._client.close()

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        self._client.wait(poller)
        wake_at(poller, self._deadline)

    def run(self) -> dict[str, Any] | None:
        """The schema, once it is there. Raises as `fetch_schema` does."""
        self._client.run()
        try:
            reply = self._client.reply(self._request)
        except OSError:
            raise ConnectionError(f"{self._remote} does not answer") from None
        if reply is None:
            if time.monotonic() >= self._deadline:
                raise ConnectionError(f"{self._remote} does not answer")
            return None
        if reply.error is not None:
            raise TapError(
                f"{self._remote} has no database {DATABASE}: is it Open vSwitch's socket?"
            )
        _check(self._remote, reply.result)
        return dict(reply.result)


def _check(remote: str, schema: Any) -> None:
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
