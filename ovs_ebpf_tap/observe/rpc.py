"""JSON-RPC, with bounds that python-ovs lacks.

`ovs.jsonrpc.Connection` reads for as long as data arrives and no message is complete, and keeps all
of it. If a chunk ends within a character, it reports an error or the end of the connection; a parse
error next to a character that is not ASCII raises UnicodeDecodeError.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import time
from collections.abc import Sequence
from errno import EAGAIN, ECONNRESET, EMSGSIZE
from pathlib import Path
from typing import Any, Self

import ovs.jsonrpc
import ovs.poller
import ovs.stream
import ovs.util

from ovs_ebpf_tap.util.timers import wake_at

_CHUNKS = 64
"""Reads, of 4 KiB each, after which the caller gets a turn."""

_OTHERS = re.compile(r"[^\x00-\x7f]+")

_REPLIES = (ovs.jsonrpc.Message.T_REPLY, ovs.jsonrpc.Message.T_ERROR)


def _spell(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


class AsciiStream:
    """A stream that gives a `Connection` ASCII, and `_CHUNKS` reads at a time.

    Other characters, which JSON allows only in strings, become JSON's escapes. What is not UTF-8
    becomes U+FFFD.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._chunks = 0
        self.taken = 0
        """Bytes that have arrived."""
        self.heard = 0.0
        """When something arrived last, by the monotonic clock."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def recv(self, size: int) -> tuple[int, bytes]:
        """As `ovs.stream.Stream.recv`."""
        while True:
            self._chunks += 1
            if self._chunks % _CHUNKS == 0:
                return EAGAIN, b""
            error, data = self._stream.recv(size)
            if error or not data:
                return error, b""
            self.taken += len(data)
            self.heard = time.monotonic()
            text = self._decoder.decode(data)
            if text:
                return 0, _OTHERS.sub(_spell, text).encode()


class BoundedStream(AsciiStream):
    """An `AsciiStream` that gives EMSGSIZE once more than `limit` bytes have arrived."""

    def __init__(self, stream: Any, limit: int) -> None:
        super().__init__(stream)
        self._limit = limit

    def recv(self, size: int) -> tuple[int, bytes]:
        """As `ovs.stream.Stream.recv`."""
        return (EMSGSIZE, b"") if self.taken > self._limit else super().recv(size)


class Client:
    """A connection that asks a peer; it does not block but in `ask`: drive it with `run`."""

    def __init__(self, stream: Any, limit: int) -> None:
        """`limit` is the number of bytes that are taken in at most, in all."""
        self._connection = ovs.jsonrpc.Connection(BoundedStream(stream, limit))

    @classmethod
    def open(cls, path: Path, limit: int, timeout: float = 0.0) -> Self:
        """To the peer that listens at a Unix socket.

        Raises OSError if nobody does, and TimeoutError if it has no room for a connection in
        `timeout` seconds; without them, the connection is waited for when something is sent.
        """
        error, stream = ovs.stream.Stream.open(f"unix:{path}")
        if timeout:
            milliseconds = int(timeout * 1000)
            error, stream = ovs.stream.Stream.open_block((error, stream), timeout=milliseconds)
        if error:
            raise OSError(error, os.strerror(error))
        return cls(stream, limit)

    def close(self) -> None:
        """Drops the connection."""
        self._connection.close()

    def run(self) -> None:
        """Sends what is still to be sent."""
        self._connection.run()

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when something can be sent, or has arrived."""
        self._connection.wait(poller)
        self._connection.recv_wait(poller)

    def send(self, method: str, params: Sequence[Any] = ()) -> Any:
        """Sends a request; returns its id. If that fails, `receive` raises."""
        request = ovs.jsonrpc.Message.create_request(method, list(params))
        self._connection.send(request)
        return request.id

    def receive(self) -> Any:
        """The next message, None if none has arrived.

        Raises OSError once the connection has ended: EPROTO or EMSGSIZE where the peer is at fault.
        """
        error, message = self._connection.recv()
        if error == EAGAIN:
            return None
        if error == ovs.util.EOF:
            raise ConnectionResetError(ECONNRESET, os.strerror(ECONNRESET))
        if error:
            raise OSError(error, os.strerror(error))
        return message

    def reply(self, request: Any) -> Any:
        """The reply to the request of that id, None if it has not arrived. Raises as `receive`."""
        while (message := self.receive()) is not None:
            if message.type in _REPLIES and message.id == request:
                return message
        return None

    def ask(self, method: str, timeout: float) -> Any:
        """Sends a request; returns its reply, or None if there is none in `timeout` seconds.

        python-ovs's own `transact_block` would wait without end. Raises as `receive`.
        """
        deadline = time.monotonic() + timeout
        request = self.send(method)
        while (reply := self.reply(request)) is None and time.monotonic() < deadline:
            poller = ovs.poller.Poller()
            self.wait(poller)
            wake_at(poller, deadline)
            poller.block()
            self.run()
        return reply
