"""Real connections between the kernels of two hosts."""

from __future__ import annotations

import contextlib
import socket
import threading

from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.waiting import patience

_ANSWER = b"answer " * 3000
_LIMIT = 10.0


def connect(client: Netns, server: Netns, address: str, port: int = 8080, via: int = 0) -> None:
    """Opens a connection, asks, reads an answer of some segments, and closes it.

    The server listens at all its addresses, on `via` if that is not `port`: what the client
    connects to may be a load balancer's. Raises OSError if the client does not get the answer.
    """
    with server.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", via or port))
        listener.listen()
        listener.settimeout(patience(_LIMIT))
        answering = threading.Thread(target=_answer, args=(listener,), daemon=True)
        answering.start()
        with client.socket(socket.AF_INET, socket.SOCK_STREAM) as opened:
            opened.settimeout(patience(_LIMIT))
            opened.connect((address, port))
            opened.sendall(b"question\n")
            got = b""
            while part := opened.recv(1 << 16):
                got += part
        answering.join()
    if got != _ANSWER:
        raise OSError(f"{address}: {len(got)} bytes of {len(_ANSWER)} came back")


def _answer(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(100)
            accepted.sendall(_ANSWER)
