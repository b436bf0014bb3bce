"""Other writers of the database, fast and without manners, and what the sidecar writes then."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.waiting import patience
from ovs_ebpf_tap.observe.schema import DATABASE

Operation = dict[str, Any]

COMMENT = "a controller"


def where(name: str) -> list[list[str]]:
    """The rows of that name."""
    return [["name", "==", name]]


def update(table: str, name: str, **columns: Any) -> Operation:
    """Sets columns of a row, in OVSDB's JSON."""
    return {"op": "update", "table": table, "where": where(name), "row": columns}


def delete_keys(mirror: str, *keys: str) -> Operation:
    """Removes keys of a Mirror's external_ids."""
    mutations = [["external_ids", "delete", ["set", list(keys)]]]
    return {"op": "mutate", "table": "Mirror", "where": where(mirror), "mutations": mutations}


class Controller(Resource):
    """A client of the database that writes at once what it is told to."""

    def __init__(self, remote: str) -> None:
        """`remote` is a database's address, `unix:PATH`."""
        self._path = remote.removeprefix("unix:")
        self.written = 0

    def open(self) -> None:
        """Connects."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(self._path)
        self._socket.settimeout(patience(60))

    def close(self) -> None:
        """Drops the connection."""
        self._socket.close()

    def write(self, *operations: Operation) -> None:
        """Commits one transaction. Raises ValueError if it is refused."""
        self.written += 1
        comment = {"op": "comment", "comment": COMMENT}
        params = [DATABASE, *operations, comment]
        request = {"method": "transact", "params": params, "id": self.written}
        self._socket.sendall(json.dumps(request).encode())
        reply = self._receive()
        if reply["error"] or any(each and "error" in each for each in reply["result"]):
            raise ValueError(reply)

    def _receive(self) -> Any:
        text = ""
        while True:
            data = self._socket.recv(1 << 20)
            if not data:
                raise ConnectionError("the database has closed the connection")
            text += data.decode()
            if text.endswith("}"):
                with contextlib.suppress(json.JSONDecodeError):
                    return json.loads(text)


class Loop:
    """Calls `act` again and again, from a thread, while the with-block runs."""

    def __init__(self, act: Callable[[int], None], every: float) -> None:
        """`act` gets the number of the call, `every` is in seconds."""
        self._act = act
        self._every = every
        self._end = threading.Event()
        self._failure: Exception | None = None
        self.count = 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._end.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._end.wait(self._every):
                self._act(self.count)
                self.count += 1
        except Exception as error:  # Raised where the block ends.
            self._failure = error


class Journal:
    """The transactions in the database's file, from where it was opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._from = path.stat().st_size
        self.since = time.monotonic()

    def _records(self) -> Iterator[dict[str, Any]]:
        """As `ovsdb-tool show-log` reads them: a line with the length, then so many bytes."""
        data = self._path.read_bytes()[self._from :]
        while data:
            head, _, rest = data.partition(b"\n")
            length = int(head.split()[2])
            yield json.loads(rest[:length])
            data = rest[length:]

    def of_the_sidecar(self) -> int:
        """How many transactions wrote Mirrors or Ports without saying whose they are.

        `ovs-vsctl` and `Controller` comment theirs; ovs-vswitchd writes neither to the file.
        """
        return sum(
            not record.get("_comment") and bool({"Mirror", "Port"} & record.keys())
            for record in self._records()
        )
