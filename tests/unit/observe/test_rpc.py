"""JSON-RPC with peers that send anything."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from errno import EAGAIN, EMSGSIZE
from pathlib import Path
from typing import Any

import ovs.jsonrpc
import ovs.stream
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ebpf_tap.observe import rpc

LIMIT = 10_000
# OVS takes no NUL.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


class Scripted:
    """A stream that gives chunks, and then nothing."""

    name = "scripted"

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    def recv(self, size: int) -> tuple[int, bytes]:
        return (0, self._chunks.pop(0)) if self._chunks else (EAGAIN, b"")

    def close(self) -> None:
        self._chunks.clear()


def received(chunks: list[bytes], limit: int = LIMIT) -> tuple[list[Any], int]:
    """The results of the replies in what arrives, and the connection's status then."""
    connection = rpc.connection(Scripted(chunks), limit)
    results = []
    for _ in range(1000):
        error, message = connection.recv()
        if message is not None:
            results.append(message.result)
        elif error != EAGAIN:
            break
    return results, connection.get_status()


@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(1, 9))
@settings(deadline=None)
def test_characters_may_be_cut_anywhere(texts: list[str], size: int) -> None:
    messages = [{"id": n, "result": text, "error": None} for n, text in enumerate(texts)]
    data = b"".join(json.dumps(each, ensure_ascii=False).encode() for each in messages)
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    assert received(chunks) == (texts, 0)


def test_what_is_no_utf_8_is_replaced() -> None:
    data = b'{"id":1,"error":null,"result":"\xed\xb0\x80 \xff x"}'
    ((text,), status) = received([data])
    assert text.endswith(" \ufffd x")
    assert status == 0


@pytest.mark.parametrize("data", [b'{"id":1,"result":"', b'{"id":1,"result":[0,', b" "])
def test_messages_have_an_end(data: bytes) -> None:
    chunks = [data] + [b"0," * 500] * 100
    assert received(chunks)[1] == (EMSGSIZE if b"{" in data else 71)  # EPROTO


def test_others_have_their_turn() -> None:
    """A peer that sends faster than is read does not keep us from all else."""
    endless = [b'{"id":1,"result":"'] + [b"x" * 4096] * 1000
    connection = rpc.connection(Scripted(endless), 1 << 30)
    assert connection.recv() == (EAGAIN, None)
    assert len(endless) > 900


def test_bytes_may_be_counted_anew() -> None:
    stream = rpc.BoundedStream(Scripted([b"x" * 60] * 3), 100)
    for _ in range(3):
        assert stream.recv(4096) == (0, b"x" * 60)
        stream.restart()
    stream = rpc.BoundedStream(Scripted([b"x" * 60] * 3), 100)
    assert [stream.recv(4096)[0] for _ in range(3)] == [0, 0, EMSGSIZE]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Any, socket.socket]]:
    """A connection, and the peer's end of it."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        _, stream = ovs.stream.Stream.open(f"unix:{path}")
        peer, _ = listening.accept()
        connection = rpc.connection(stream, LIMIT)
        with peer:
            yield connection, peer
        connection.close()


def transact(connection: Any, timeout: float = 0.2) -> Any:
    return rpc.transact(connection, ovs.jsonrpc.Message.create_request("ask", []), timeout)


def test_a_peer_that_does_not_answer(pair: tuple[Any, socket.socket]) -> None:
    started = time.monotonic()
    assert transact(pair[0]) is None
    assert 0.15 < time.monotonic() - started < 5


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        b"[]",
        b"{",
        b'{"id":"another","result":1,"error":null}',
        b'{"method":"update","params":[],"id":null}',
        b"[" * 5000,
        b'{"id":1,"result":"' + b"x" * 50_000,
    ],
)
def test_a_peer_that_answers_something_else(pair: tuple[Any, socket.socket], data: bytes) -> None:
    connection, peer = pair
    peer.sendall(data)
    assert transact(connection) is None
