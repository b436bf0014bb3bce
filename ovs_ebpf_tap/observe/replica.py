"""The replica of the database that python-ovs's IDL keeps, and what that lacks.

Of the names that python-ovs keeps to itself, those used here and in `row_readers` are listed in
`tests/unit/observe/test_python_ovs.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from errno import EPROTO
from typing import Any, Self
from uuid import UUID

import ovs.db.idl
import ovs.util

from ovs_ebpf_tap.observe import rpc

NO_ANSWER = "it does not answer, or not to what it was asked"

_ANSWER = 10.0
"""Seconds of silence after which the answer to a request, for rows or a transaction, is overdue."""
_LONGEST_ANSWER = 60.0
"""Seconds after which it is overdue whatever else arrives."""

_CLOSED = {
    ovs.util.EOF: "it has closed the connection",
    EPROTO: "it sends what is no JSON-RPC",
}

_RECONNECT = 200, 200
"""Least and most milliseconds between two tries to reach a database that went away."""
_BACK_OFF = 1000, 8000
"""The same for one that does not answer as a database does; each try costs it a dump of all rows.
These are python-ovs's defaults."""


class Replica(ovs.db.idl.Idl):  # type: ignore[misc]
    """The rows of the database, and those of them that changed.

    If the peer does not answer, or sends what python-ovs does not understand, it begins anew.
    """

    def __init__(self, remote: str, schema: ovs.db.idl.SchemaHelper) -> None:
        self.changed: set[tuple[str, UUID]] = set()
        """Rows that changed, by table and UUID; it is for the reader to empty it."""
        self.connections = 0
        """How many connections there were: with each, the replica is rebuilt."""
        self.trouble: str | None = None
        """What is wrong with the peer, since the replica was last complete."""
        self._asked = 0.0
        self._left: Any = None
        """The connection that was given up."""
        super().__init__(remote, schema)
        self._wait_between_tries(_RECONNECT)

    @classmethod
    def of(cls, remote: str, schema: dict[str, Any], columns: Mapping[str, Sequence[str]]) -> Self:
        """A replica of these columns by table; it connects in `run`."""
        helper = ovs.db.idl.SchemaHelper(schema_json=schema)
        for table, names in columns.items():
            helper.register_columns(table, names)
        return cls(remote, helper)

    def _wait_between_tries(self, milliseconds: tuple[int, int]) -> None:
        # `set_backoff` takes no less than a second.
        reconnect = self._session.reconnect
        reconnect.min_backoff, reconnect.max_backoff = milliseconds

    def restart_fsm(self) -> None:
        """Notes that there is another connection."""
        self.connections += 1
        super().restart_fsm()

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """Notes a row that changed."""
        self.changed.add((row._table.name, row.uuid))

    @property
    def complete(self) -> bool:
        """Whether the replica is whole, and followed."""
        return bool(self.state == self.IDL_S_MONITORING and self._session.is_connected())

    def run(self) -> bool:
        """Takes in what has arrived; returns whether something changed."""
        connection = self._session.rpc
        if connection is not None:
            self._wrap(connection)
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
                self.leave(NO_ANSWER)
        return changed

    def is_silent(self, since: float) -> bool:
        """Whether the answer to a request that was sent then is overdue."""
        now = time.monotonic()
        stream = self._session.rpc.stream if self._session.rpc is not None else None
        heard = max(since, getattr(stream, "heard", 0.0))
        return now >= heard + _ANSWER or now >= since + _LONGEST_ANSWER

    def _wrap(self, connection: Any) -> None:
        """Has the connection read through an `AsciiStream`."""
        if not isinstance(connection.stream, rpc.AsciiStream):
            connection.stream = rpc.AsciiStream(connection.stream)
            self._asked = time.monotonic()

    def leave(self, trouble: str) -> None:
        """Gives up the connection, and reads all rows anew from the next."""
        self.trouble = trouble
        self._wait_between_tries(_BACK_OFF)
        self._left = self._session.rpc
        # python-ovs has no call for these two. In state MONITORING, force_reconnect() would skip
        # the back-off; with a last_id, the next connection would get later changes only.
        self.state = self.IDL_S_INITIAL
        self.last_id = str(UUID(int=0))
        self.force_reconnect()
