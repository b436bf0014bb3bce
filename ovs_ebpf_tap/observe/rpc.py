"""JSON-RPC with peers that may send anything: bounds that python-ovs lacks.

Its `Connection` reads on for as long as something arrives and no message is complete, and keeps all
of it. A chunk that ends within a character it takes for an error, or for the end of the connection,
and an error beside a character that is not ASCII raises UnicodeDecodeError.
"""

from __future__ import annotations

import codecs
import json
import re
import time
from errno import EAGAIN, EMSGSIZE
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.timeval

_CHUNKS = 64
"""Reads, of 4 KiB each, after which somebody else's turn has come."""

_OTHERS = re.compile(r"[^\x00-\x7f]+")

_REPLIES = (ovs.jsonrpc.Message.T_REPLY, ovs.jsonrpc.Message.T_ERROR)


def _spell(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


class BoundedStream:
    """A stream for a `Connection` to read: in ASCII, and `limit` bytes at most.

    More are EMSGSIZE. Other characters are spelled as JSON does, within whose texts alone they have
    a meaning; what is no UTF-8 becomes U+FFFD.
    """

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._chunks = 0
        self._taken = 0
        self.heard = 0.0
        """When something arrived last, by the monotonic clock."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def restart(self) -> None:
        """Counts the bytes from here on."""
        self._taken = 0

    def recv(self, size: int) -> tuple[int, bytes]:
        """As `ovs.stream.Stream.recv`."""
        while True:
            self._chunks += 1
            if self._chunks % _CHUNKS == 0:
                return EAGAIN, b""
            if self._taken > self._limit:
                return EMSGSIZE, b""
            error, data = self._stream.recv(size)
            if error or not data:
                return error, b""
            self._taken += len(data)
            self.heard = time.monotonic()
            text = self._decoder.decode(data)
            if text:
                return 0, _OTHERS.sub(_spell, text).encode()


def connection(stream: Any, limit: int) -> Any:
    """A `Connection` that takes at most `limit` bytes in all."""
    return ovs.jsonrpc.Connection(BoundedStream(stream, limit))


def receive(connection: Any, request: Any) -> Any:
    """The reply to a request that was sent, or None if it has not arrived; does not wait."""
    error = 0
    while not error:
        error, reply = connection.recv()
        if not error and reply.type in _REPLIES and reply.id == request.id:
            return reply
    return None


def transact(connection: Any, request: Any, timeout: float) -> Any:
    """Sends a JSON-RPC request; returns its reply, or None if there is none in `timeout` seconds.

    python-ovs's own `transact_block` would wait without end.
    """
    deadline = ovs.timeval.msec() + int(timeout * 1000)
    error = connection.send(request)
    while not error and ovs.timeval.msec() < deadline:
        error, reply = connection.recv()
        if not error and reply.type in _REPLIES and reply.id == request.id:
            return reply
        if error == EAGAIN:
            error = 0
            connection.run()
            poller = ovs.poller.Poller()
            connection.wait(poller)
            connection.recv_wait(poller)
            poller.timer_wait_until(deadline)
            poller.block()
    return None
