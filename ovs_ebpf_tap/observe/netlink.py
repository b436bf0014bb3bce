"""Netlink's messages as bytes, and requests for what the kernel has.

The formats are those of Linux's `include/uapi/linux/netlink.h`. What is looked at often is read
here and not by pyroute2, which parses all attributes of each message: so a thousand devices take
milliseconds.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from errno import EINTR

import tenacity

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_REQUEST = 0x1  # NLM_F_REQUEST
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST, NLM_F_ROOT, NLM_F_MATCH
_DUMP_INTERRUPTED = 0x10

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_TYPE_MASK = 0x3FFF

_LONGEST = 1 << 16
"""Bytes of the longest message."""


class InterruptedDumpError(OSError):
    """What was listed changed meanwhile: the list may lack some."""

    def __init__(self) -> None:
        super().__init__(EINTR, "it changed while it was listed")


retry_dump = tenacity.retry(
    retry=tenacity.retry_if_exception_type(InterruptedDumpError),
    stop=tenacity.stop_after_attempt(5),
    reraise=True,
)


def open_socket(protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """A socket in the network namespace of the caller. Raises OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The type, flags and body of each message."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            raise ValueError("a netlink message is shorter than its header")
        yield kind, flags, data[at + _HEADER.size : at + length]
        at += _aligned(length)


def attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """The type and value of each attribute from a place of a message's body on."""
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            raise ValueError("a netlink attribute is shorter than its header")
        yield kind & _TYPE_MASK, body[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute as bytes; the length of `value` is a multiple of 4."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def ask(kind: int, body: bytes) -> bytes:
    """The body of the kernel's answer to a request for one thing. Raises OSError."""
    with open_socket() as opened:
        opened.send(_request(kind, _REQUEST, body))
        answer, _, content = next(messages(opened.recv(_LONGEST)))
    if answer == _NLMSG_ERROR:
        raise _error(content)
    return content


def dump(protocol: int, kind: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and body of each message that the kernel answers a request for all with.

    Raises OSError, and InterruptedDumpError if it is to be tried again.
    """
    with open_socket(protocol) as opened:
        opened.send(_request(kind, _REQUEST_DUMP, body))
        while True:
            for answer, flags, content in messages(opened.recv(_LONGEST)):
                if flags & _DUMP_INTERRUPTED:
                    raise InterruptedDumpError
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    raise _error(content)
                yield answer, content


def _request(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def _error(content: bytes) -> OSError:
    error = -_ERROR.unpack_from(content)[0]
    return OSError(error, os.strerror(error))


def _aligned(length: int) -> int:
    return (length + 3) & ~3
