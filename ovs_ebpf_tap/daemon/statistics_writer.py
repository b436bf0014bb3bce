"""Keeps `Mirror.statistics` as the sidecar wants it, beside ovs-vswitchd, which writes it, too.

ovs-vswitchd writes its own count over the column of all mirrors, in one transaction every
`stats-update-interval` (`run_stats_update` in OVS's `vswitchd/bridge.c`). A client that is told of
that and then writes leaves a gap of some milliseconds. So the transaction that mends it waits in
ovsdb-server already: a `wait` operation (RFC 7047, 5.2.6) holds it back until the column of one row
differs. ovsdb-server runs it in the same round of its main loop, before it waits for other clients
again (`ovsdb_trigger_run` in `ovsdb/trigger.c`), and returns what was overwritten.

It has a connection of its own: its transactions are to be in order among themselves, and
python-ovs's replica has no place for one that waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Self
from uuid import UUID

import ovs.jsonrpc
import ovs.poller
import structlog

_DATABASE = "Open_vSwitch"

_AT_ONCE = 64
"""Messages after which somebody else's turn has come."""

Statistics = Mapping[str, int]

log = structlog.get_logger()


class StatisticsWriter:
    """A connection to the database that never blocks; drive it with `run` and `wait`."""

    def __init__(self, session: Any) -> None:
        """`session` is a `jsonrpc.Session` of python-ovs."""
        self._session = session
        self._seqno = self._session.get_seqno()
        self._fresh = False
        """Whether nothing was written yet on this connection."""
        self._waiting: Any = None
        """The id of the transaction that waits in ovsdb-server."""
        self._overwritten: Collection[UUID] = ()
        """The rows that were last written over."""
        self.held: Mapping[UUID, Statistics] = {}
        """What the rows are to show."""

    @classmethod
    def open(cls, remote: str) -> Self:
        """Connects to the database, again and again until it answers."""
        return cls(ovs.jsonrpc.Session.open(remote))

    def close(self) -> None:
        """Drops the connection, and with it what waits."""
        self._session.close()

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        self._session.wait(poller)
        self._session.recv_wait(poller)

    @property
    def holds(self) -> bool:
        """Whether nothing is to be done so that the rows show what they are to show."""
        if not self._session.is_connected():
            return True
        return not self._fresh and (self._waiting is not None or not self.held)

    def run(self) -> dict[UUID, Statistics]:
        """Takes in what has arrived: what was written over the rows, and put right again."""
        found: dict[UUID, Statistics] = {}
        try:
            self._session.run()
            if self._seqno != self._session.get_seqno():
                self._seqno = self._session.get_seqno()
                self._fresh, self._waiting, self.held = True, None, {}
            for _ in range(_AT_ONCE):
                message = self._session.recv()
                if message is None:
                    break
                found |= self._take(message)
        except Exception as error:  # python-ovs takes much of what it reads for granted.
            log.warning("statistics not written", error=f"{type(error).__name__}: {error}")
            self._session.force_reconnect()
        return found

    def _take(self, message: Any) -> dict[UUID, Statistics]:
        if message.type == ovs.jsonrpc.Message.T_ERROR:
            log.warning("statistics not written", error=str(message.error))
        if message.type != ovs.jsonrpc.Message.T_REPLY:
            return {}
        for result in message.result:
            if result and "error" in result:
                log.warning("statistics not written", error=str(result))
        if self._waiting is None or message.id != self._waiting:
            return {}
        self._waiting = None
        rows = message.result[1]["rows"] if message.result[1] else ()
        seen: dict[UUID, Statistics] = {
            UUID(row["_uuid"][1]): dict(row["statistics"][1]) for row in rows
        }
        found = {u: each for u, each in seen.items() if u in self.held and each != self.held[u]}
        self._overwritten = found.keys()
        return found

    def hold(self, values: Mapping[UUID, Statistics], stale: Collection[UUID] = ()) -> None:
        """Has the rows show these from now on; the `stale` ones do not show what they held."""
        if not self._session.is_connected() or self._session.get_backlog():
            return
        self._fresh = False
        self._cancel()  # Else it would write the older values over the new ones.
        changed = {u: each for u, each in values.items() if u in stale or self.held.get(u) != each}
        self.held = dict(values)
        if changed:
            self._transact(list(_updates(changed)))
        if values:
            # That of one which was overwritten before will be again; else of one that differs most.
            most = max(values, key=lambda uuid: values[uuid]["tx_packets"])
            watched = next((u for u in (*stale, *self._overwritten) if u in values), most)
            self._waiting = self._transact(
                [
                    _wait(watched, values),
                    {"op": "select", "table": "Mirror", "where": [], "columns": _READ},
                    *_updates(values),
                ]
            )

    def rest(self) -> None:
        """Writes nothing more, nor what waits, until `hold` is called again."""
        self._cancel()
        self.held = {}

    def _cancel(self) -> None:
        if self._waiting is not None:
            cancel = ovs.jsonrpc.Message.create_notify("cancel", [self._waiting])
            self._session.send(cancel)
            self._waiting = None

    def _transact(self, operations: list[dict[str, Any]]) -> Any:
        request = ovs.jsonrpc.Message.create_request("transact", [_DATABASE, *operations])
        self._session.send(request)
        return request.id


_READ = ["_uuid", "statistics"]


def _where(uuid: UUID) -> list[Any]:
    return [["_uuid", "==", ["uuid", str(uuid)]]]


def _row(statistics: Statistics) -> dict[str, Any]:
    return {"statistics": ["map", [[key, value] for key, value in statistics.items()]]}


def _updates(values: Mapping[UUID, Statistics]) -> Iterator[dict[str, Any]]:
    """A row that is gone meanwhile is none to be updated, and no error."""
    for uuid, statistics in values.items():
        yield {"op": "update", "table": "Mirror", "where": _where(uuid), "row": _row(statistics)}


def _wait(watched: UUID, values: Mapping[UUID, Statistics]) -> dict[str, Any]:
    """Until a row shows something else; ovs-vswitchd writes all at once, so that one is enough."""
    return {
        "op": "wait",
        "table": "Mirror",
        "where": _where(watched),
        "columns": ["statistics"],
        "until": "!=",
        "rows": [_row(values[watched])],
    }
