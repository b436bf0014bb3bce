"""When Mirror rows changed, as the database tells all its clients."""

from __future__ import annotations

import codecs
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.model.desired import OFFLOADED, keys_agree
from ovs_ebpf_tap.model.rows import PARKED_VLANS, STATE_KEY
from ovs_ebpf_tap.observe.schema import DATABASE


@dataclass(frozen=True)
class MirrorUpdate:
    """A Mirror row, and by CLOCK_REALTIME when the database told of it, in seconds."""

    told: float
    name: str
    external_ids: Mapping[str, str]
    select_vlan: tuple[int, ...]

    @property
    def offloaded(self) -> bool:
        """Whether OVS has been told not to copy."""
        return self.external_ids.get(STATE_KEY) == OFFLOADED and self.select_vlan == PARKED_VLANS

    @property
    def settled(self) -> bool:
        """Whether no move is under way."""
        return keys_agree(self.external_ids)


class MirrorLog:
    """Follows the Mirror table from a thread, while the with-block runs."""

    def __init__(self, remote: str) -> None:
        """`remote` is a database's address, `unix:PATH`."""
        self._path = remote.removeprefix("unix:")
        self._rows: dict[str, MirrorUpdate] = {}
        self._told: list[MirrorUpdate] = []
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(self._path)
        columns = {"columns": ["name", "external_ids", "select_vlan"]}
        self._send(method="monitor", params=[DATABASE, None, {"Mirror": columns}], id=0)
        self._thread = threading.Thread(target=self._follow, name="mirror-log", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    @property
    def rows(self) -> list[MirrorUpdate]:
        """The rows as they are."""
        return list(self._rows.values())

    @property
    def told(self) -> list[MirrorUpdate]:
        """All that the database has told of, in order."""
        return list(self._told)

    def wait_row(
        self, name: str, since: float, what: Callable[[MirrorUpdate], bool]
    ) -> MirrorUpdate:
        """The first row of that name told of since then that `what` is true for."""

        def find() -> MirrorUpdate | None:
            told = (row for row in list(self._told) if row.told >= since and row.name == name)
            return next(filter(what, told), None)

        row = self._wait(find, f"mirror {name}")
        assert isinstance(row, MirrorUpdate)
        return row

    def wait_all(self, count: int, what: Callable[[MirrorUpdate], bool]) -> float:
        """Waits until there are `count` rows and all are so; returns when the last one was."""

        def check() -> bool:
            rows = self.rows
            return len(rows) == count and all(map(what, rows))

        self._wait(check, f"{count} mirrors")
        return max((row.told for row in self.rows), default=0.0)

    def _wait(self, condition: Callable[[], Any], what: str) -> Any:
        def check() -> Any:
            if self._failure is not None:
                raise RuntimeError("the database is not followed any more") from self._failure
            return condition()

        return wait_for(check, 60, what, every=0.005)

    def _send(self, **message: Any) -> None:
        self._socket.sendall(json.dumps(message).encode())

    def _follow(self) -> None:
        decoder = json.JSONDecoder()
        utf8 = codecs.getincrementaldecoder("utf-8")()
        text = ""
        # What counts is when the database told of it, not when this thread came to run.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        try:
            while data := self._socket.recv(1 << 20):
                now = time.time()
                text += utf8.decode(data)
                while text:
                    try:
                        message, end = decoder.raw_decode(text)
                    except json.JSONDecodeError:
                        break  # The rest is on its way.
                    text = text[end:].lstrip()
                    self._take(message, now)
        except Exception as error:  # Kept for whoever waits.
            self._failure = error

    def _take(self, message: Mapping[str, Any], now: float) -> None:
        if message.get("method") == "echo":
            self._send(result=message["params"], error=None, id=message["id"])
        elif message.get("method") == "update":
            self._update(message["params"][1], now)
        elif message.get("error"):
            raise OSError(0, f"the database refuses: {message['error']}", os.fspath(self._path))
        elif "result" in message:
            self._update(message["result"], now)

    def _update(self, tables: Mapping[str, Any], now: float) -> None:
        for uuid, change in tables.get("Mirror", {}).items():
            new = change.get("new")
            if new is None:
                self._rows.pop(uuid, None)
                continue
            row = MirrorUpdate(
                now, new["name"], dict(new["external_ids"][1]), _numbers(new["select_vlan"])
            )
            self._rows[uuid] = row
            self._told.append(row)


def _numbers(value: Any) -> tuple[int, ...]:
    """A set of integers as OVSDB writes it: one stands by itself."""
    return tuple(value[1]) if isinstance(value, list) else (value,)
