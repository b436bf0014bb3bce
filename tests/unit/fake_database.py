"""A database that answers as it is told: as ovsdb-server does, or with anything."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovs_ebpf_tap.lab.ovs_daemons import SCHEMA
from ovs_ebpf_tap.lab.resource import Resource

Message = dict[str, Any]
Answer = Callable[[Message], bytes | None]
"""From a request to what is sent; None ends the connection."""


def reply(request: Message, result: Any, error: Any = None) -> bytes:
    """A JSON-RPC reply."""
    return json.dumps({"id": request["id"], "result": result, "error": error}).encode()


def schema() -> Any:
    """Open vSwitch's."""
    return json.loads(SCHEMA.read_text())


def rows(*mirrors: str) -> Message:
    """What a monitor tells of a bridge br0 with these mirrors."""
    uuids = [f"00000000-0000-0000-0000-{n:012}" for n in range(1, len(mirrors) + 3)]
    references = ["set", [["uuid", uuid] for uuid in uuids[2:]]]
    return {
        "Open_vSwitch": {uuids[0]: {"initial": {"bridges": ["uuid", uuids[1]]}}},
        "Bridge": {uuids[1]: {"initial": {"name": "br0", "mirrors": references}}},
        "Mirror": {
            uuid: {"initial": {"name": name}} for uuid, name in zip(uuids[2:], mirrors, strict=True)
        },
    }


def honest(*mirrors: str) -> Answer:
    """As ovsdb-server, with these rows; transactions it takes, and does nothing."""

    def answer(request: Message) -> bytes:
        method, params = request["method"], request["params"]
        if method == "get_schema":
            if params[0] == "Open_vSwitch":
                return reply(request, schema())
            return reply(request, None, {"error": "unknown database"})
        if method == "monitor":
            told = {
                table: {uuid: {"new": each["initial"]} for uuid, each in found.items()}
                for table, found in rows(*mirrors).items()
            }
            return reply(request, told)
        if method == "lock":
            return reply(request, {"locked": True})
        if method.startswith("monitor_cond"):
            return reply(request, None, "unknown method")
        return reply(request, [{} for _ in params])

    return answer


class FakeDatabase(Resource):
    """Listens while the with-block runs, in a thread; `answer` may be changed meanwhile."""

    def __init__(self, path: Path, answer: Answer, greeting: bytes = b"") -> None:
        """`greeting` is sent to whoever connects."""
        self.remote = f"unix:{path}"
        self.answer = answer
        self.greeting = greeting
        self.connections = 0
        self.requests: list[Message] = []
        self._path = path
        self._clients: dict[socket.socket, str] = {}

    def open(self) -> None:
        """Listens."""
        self._path.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._path))
        self._listening.listen(50)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="fake-database", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends all connections, and listens no more."""
        self._wake.close()
        self._thread.join()
        for each in (*self._clients, self._listening, self._woken):
            each.close()

    def send(self, data: bytes) -> None:
        """Sends to all who are connected, without having been asked."""
        for client in list(self._clients):
            client.sendall(data)

    def _serve(self) -> None:
        while True:
            readable, _, _ = select.select(
                [self._listening, self._woken, *self._clients], [], [], None
            )
            if self._woken in readable:
                return
            for each in readable:
                try:
                    self._take(each)
                except OSError:
                    self._drop(each)

    def _take(self, each: socket.socket) -> None:
        if each is self._listening:
            client, _ = each.accept()
            client.settimeout(5)
            self.connections += 1
            self._clients[client] = ""
            with contextlib.suppress(OSError):  # It has ended already.
                client.sendall(self.greeting)
            return
        data = each.recv(1 << 16)
        if not data:
            self._drop(each)
            return
        text = self._clients[each] + data.decode()
        decoder = json.JSONDecoder()
        while text:
            try:
                request, end = decoder.raw_decode(text)
            except json.JSONDecodeError:
                break
            text = text[end:]
            self.requests.append(request)
            answer = self.answer(request)
            if answer is None:
                self._drop(each)
                return
            each.sendall(answer)
        self._clients[each] = text

    def _drop(self, client: socket.socket) -> None:
        self._clients.pop(client, None)
        client.close()
