"""Changes of devices, qdiscs and filters by rtnetlink, in the network namespace of the caller."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from errno import EINVAL, ENODEV, ENOENT
from typing import Any, Self

import tenacity
from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink import NLMSG_ERROR
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from ovs_ebpf_tap.observe import netlink

GONE = (ENODEV, ENOENT, EINVAL)
"""Errors of requests about a device, qdisc or filter that is not there."""

ANSWER_TIMEOUT = 5.0
"""Seconds for the kernel's answer, which is there when `send` returns unless there was no room."""

_LONGEST_ANSWER = 1 << 16
_MAX_SEQUENCE = (1 << 32) - 1

retry_dump = tenacity.retry(
    retry=tenacity.retry_if_exception_type(NetlinkDumpInterrupted),
    stop=tenacity.stop_after_attempt(5),
    reraise=True,
)


@contextlib.contextmanager
def kernel_errors(*, ignored: tuple[int, ...] = ()) -> Iterator[None]:
    """Raises pyroute2's errors as OSError, but for these, by errno: they end the block."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in ignored:
            raise OSError(error.code, os.strerror(error.code)) from None


class Rtnetlink:
    """Requests to the kernel: by `route`, pyroute2's, or by `request`, for what that lacks."""

    def __init__(self, route: Any, opened: socket.socket) -> None:
        """`opened` is a netlink socket with a timeout."""
        self.route = route
        self._socket = opened
        self._sequence = 0
        self._marshal = MarshalRtnl()

    @classmethod
    def open(cls) -> Self:
        """Raises OSError."""
        opened = netlink.open_socket()
        opened.settimeout(ANSWER_TIMEOUT)
        return cls(IPRoute(), opened)

    def close(self) -> None:
        """Closes the sockets."""
        self.route.close()
        self._socket.close()

    def request(self, message: Any) -> list[Any]:
        """Sends a message; returns the answers before the kernel's acknowledgement.

        Raises OSError as the kernel says it, and TimeoutError if it says nothing.
        """
        # IPRoute.nlm_request of pyroute2 0.9.7 raises KeyError ('nlm_generator') for any message;
        # that of earlier versions takes ten times as long, and has no timeout.
        self._sequence = self._sequence % _MAX_SEQUENCE + 1
        message["header"]["sequence_number"] = self._sequence
        message.encode()
        self._socket.send(message.data)
        answers = []
        while True:
            for each in self._marshal.parse(self._socket.recv(_LONGEST_ANSWER)):
                if each["header"]["sequence_number"] != self._sequence:
                    continue  # Of an earlier request, whose answer came too late.
                if each["header"]["type"] != NLMSG_ERROR:
                    answers.append(each)
                elif each["header"]["error"] is None:
                    return answers
                else:
                    code = each["header"]["error"].code
                    raise OSError(code, os.strerror(code))
