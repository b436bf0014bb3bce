"""JSON-RPC with peers that send anything."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from errno import EAGAIN, EMSGSIZE
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
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
    """The results of the replies in what arrives, and the error that ended it."""
    client = rpc.Client(Scripted(chunks), limit)
    results: list[Any] = []
    for _ in range(1000):
        try:
            message = client.receive()
        except OSError as error:
            return results, error.errno or 0
        if message is not None:
            results.append(message.result)
    return results, 0


@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(1, 9))
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
    client = rpc.Client(Scripted(endless), 1 << 30)
    assert client.receive() is None
    assert len(endless) > 900


def test_more_bytes_than_the_limit_are_an_error() -> None:
    stream = rpc.BoundedStream(Scripted([b"x" * 60] * 3), 100)
    assert [stream.recv(4096)[0] for _ in range(3)] == [0, 0, EMSGSIZE]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[rpc.Client, socket.socket]]:
    """A client, and the peer's end of its connection."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        client = rpc.Client.open(path, LIMIT)
        peer, _ = listening.accept()
        with peer:
            yield client, peer
        client.close()


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rpc.Client.open(tmp_path / "socket", LIMIT)


@pytest.mark.parametrize("timeout", [0.0, 5.0])
def test_a_peer_that_answers(tmp_path: Path, timeout: float) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        client = rpc.Client.open(path, LIMIT, timeout)
        peer, _ = listening.accept()
        with peer, contextlib.closing(client):
            first, second = client.send("first"), client.send("second", [1])
            asked = peer.recv(4096).decode()
            assert '"method":"first"' in asked
            assert '"params":[1]' in asked
            assert client.reply(first) is None
            for each in (first, second):
                peer.sendall(json.dumps({"id": each, "result": 7, "error": None}).encode())
            assert client.reply(second).result == 7
            peer.close()
            with pytest.raises(ConnectionResetError):
                client.receive()


def test_a_peer_that_does_not_answer(pair: tuple[rpc.Client, socket.socket]) -> None:
    started = time.monotonic()
    assert pair[0].ask("ask", 0.2) is None
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
def test_a_peer_that_answers_something_else(
    pair: tuple[rpc.Client, socket.socket], data: bytes
) -> None:
    client, peer = pair
    peer.sendall(data)
    with contextlib.suppress(OSError):
        assert client.ask("ask", 0.2) is None
