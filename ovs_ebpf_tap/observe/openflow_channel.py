"""A connection to a bridge's management socket, where ovs-vswitchd speaks OpenFlow.

Nothing that is sent there changes a flow, a port or a setting of the bridge. Connections that look
are kept, not made for each look: as long as OVS does not know a connection's version, it sends
packets that no flow matches to the controller instead of dropping them
(`update_want_packet_in_on_miss` in `ofproto/connmgr.c`).
"""

from __future__ import annotations

import os
import struct
import time
from abc import ABC, abstractmethod
from errno import EAGAIN
from pathlib import Path
from typing import Any

import ovs.poller
import ovs.stream

from ovs_ebpf_tap.observe import ofp
from ovs_ebpf_tap.util.timers import wake_at

CHUNK = 65536
"""Bytes that are taken in at once."""

_ANSWER = 10.0
"""Seconds in which a peer has to say something when it was asked."""

_RECONNECT = 0.5
"""Seconds before the next try where nobody listens, or where a connection that served ended."""

_BACK_OFF = 10.0
"""Seconds before the next try with a peer that does not answer, or with what it should not; most
seconds before it where connections end early."""

_REST = 0.1
"""Seconds after which a connection that serves is read again: of a thousand changes a second, each
would wake up the loop."""

_NO_VERSION = 60.0
"""Longest back-off, in seconds, from a bridge that speaks no version that would do."""

LATER_VERSIONS = frozenset((ofp.OF13, ofp.OF14, ofp.OF15))
"""Those of one format of flows."""

_LONGEST_NAME = 80
"""Bytes of a bridge's name in the path of a socket, which has room for 107."""


def may_serve(bridge: str) -> bool:
    """Whether there can be a socket: not where the name has a slash, or is too long for a path."""
    return "/" not in bridge and len(bridge.encode(errors="replace")) <= _LONGEST_NAME


def management_socket(run_dir: Path, bridge: str) -> Path:
    """Where ovs-vswitchd takes OpenFlow connections for a bridge."""
    return run_dir / f"{bridge}.mgmt"


class Channel(ABC):
    """A connection to a bridge's management socket, made again when it is lost."""

    def __init__(self, socket: Path) -> None:
        self._name = f"unix:{socket}"
        self._stream: Any = None
        self._input = bytearray()
        self._output = b""
        self._version = 0
        self._next_try = 0.0
        self._delay = _RECONNECT
        self._answer_by: float | None = None
        self._rests_until = 0.0

    def close(self) -> None:
        """Drops the connection, and what is known through it."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._input.clear()
        self._output = b""
        self._version = 0
        self._answer_by = None
        self._forget()

    def run(self, until: float) -> None:
        """Takes in what has arrived, until about that time by the monotonic clock."""
        try:
            if self._connected():
                self._receive(until)
                self._run(time.monotonic())
                self._flush()
                if self._answer_by is not None and time.monotonic() >= self._answer_by:
                    raise TimeoutError("no answer")
        except ConnectionError:
            delay = _RECONNECT if self._serves else min(2 * self._delay, _BACK_OFF)
            self._retry(delay)
        except (TimeoutError, ValueError, struct.error):
            self._retry(_BACK_OFF)
        except _NoVersionError:
            self._retry(min(2 * self._delay, _NO_VERSION))

    def retry(self) -> None:
        """Ends the back-off, and starts the next one from its shortest."""
        if self._stream is None:
            self._next_try, self._delay = 0.0, _RECONNECT

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        if self._stream is None:
            wake_at(poller, self._next_try)
            return
        if self._stream.connect() == EAGAIN:
            self._stream.connect_wait(poller)
        else:
            if time.monotonic() < self._rests_until:
                wake_at(poller, self._rests_until)
            else:
                self._stream.recv_wait(poller)
            if self._output:
                self._stream.send_wait(poller)
        if self._answer_by is not None:
            wake_at(poller, self._answer_by)
        due = self._due()
        if due is not None:
            wake_at(poller, due)

    # What differs.

    @property
    @abstractmethod
    def _serves(self) -> bool:
        """Whether what was asked for is known."""

    @abstractmethod
    def _forget(self) -> None:
        """Forgets what is known: it is no longer told when that changes."""

    @abstractmethod
    def _choose(self, offered: frozenset[int]) -> int | None:
        """The version to speak, of those that the bridge offers."""

    @abstractmethod
    def _run(self, now: float) -> None:
        """Asks for what there is to ask for, once the version is agreed on."""

    @abstractmethod
    def _due(self) -> float | None:
        """When there is something to ask for."""

    @abstractmethod
    def _reply(self, stats: int, more: bool, content: bytes) -> None:
        """Takes in a multipart message."""

    @abstractmethod
    def _refused(self) -> None:
        """Takes in that the bridge has refused a request."""

    # The connection.

    def _connected(self) -> bool:
        now = time.monotonic()
        if self._stream is None:
            if now < self._next_try:
                return False
            error, stream = ovs.stream.Stream.open(self._name)
            if error:
                if stream is not None:
                    stream.close()
                self._next_try = now + _RECONNECT
                return False
            self._stream = stream
            self._await_answer(now)
        error = self._stream.connect()
        if error not in (0, EAGAIN):
            raise ConnectionError(os.strerror(error))
        return not error

    def _await_answer(self, now: float) -> None:
        self._answer_by = now + _ANSWER

    def _retry(self, delay: float) -> None:
        self._delay = delay
        self._next_try = time.monotonic() + delay
        self.close()

    def _receive(self, until: float) -> None:
        while True:
            error, data = self._stream.recv(CHUNK)
            if error == EAGAIN:
                return
            if error or not data:
                raise ConnectionError("the peer has closed")
            if self._answer_by is not None:
                self._await_answer(time.monotonic())
            self._input += data
            self._take_messages()
            if self._serves:
                self._rests_until = time.monotonic() + _REST
            if time.monotonic() >= until:
                return

    def _take_messages(self) -> None:
        at = 0
        while len(self._input) - at >= ofp.HEADER.size:
            version, kind, length, xid = ofp.HEADER.unpack_from(self._input, at)
            if length < ofp.HEADER.size:
                raise ValueError("a message is shorter than its header")
            if len(self._input) - at < length:
                break
            body = bytes(self._input[at + ofp.HEADER.size : at + length])
            at += length
            self._take(version, kind, xid, body)
        del self._input[:at]

    def _take(self, version: int, kind: int, xid: int, body: bytes) -> None:
        if not self._version:
            self._agree(version, kind, body)
        elif version != self._version:
            raise ValueError("a message is of another version than was agreed on")
        elif kind == ofp.ECHO_REQUEST:
            self._send(ofp.message(version, ofp.ECHO_REPLY, xid, body))
        elif kind == ofp.ERROR:
            self._answer_by = None
            self._refused()
        else:
            reply = ofp.multipart_reply(version, kind, body)
            if reply is not None:
                stats, more, start = reply
                self._reply(stats, more, body[start:])

    def _agree(self, version: int, kind: int, body: bytes) -> None:
        if kind != ofp.HELLO:
            raise ValueError("the first message is no HELLO")
        chosen = self._choose(ofp.offered(version, body))
        if chosen is None:
            raise _NoVersionError
        self._version = chosen
        self._send(ofp.hello(chosen))

    def _send(self, data: bytes) -> None:
        self._output += data
        if len(self._output) > ofp.MAX_LENGTH:
            raise ValueError("the peer asks and does not read")

    def _flush(self) -> None:
        if self._output:
            sent = self._stream.send(self._output)
            if sent < 0 and sent != -EAGAIN:
                raise ConnectionError(os.strerror(-sent))
            self._output = self._output[max(sent, 0) :]


class _NoVersionError(Exception):
    """The bridge speaks no version that would do."""
