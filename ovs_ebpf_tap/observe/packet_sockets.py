"""Packet sockets: which there are, and frames in them that passed a device's hook before that was
there.

Open vSwitch's userspace datapath takes frames out of one packet socket for each device, behind the
device's hooks. What is in there when a hook is attached, Open vSwitch has yet to copy, and the hook
has not. The kernel tells how much it is (`packet_diag` in its `net/packet/diag.c`).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Collection, Mapping
from typing import Self

from ovs_ebpf_tap.observe.netlink import attributes, dump

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SHOW_INFO = 0x1
_SHOW_MEMORY = 0x10
_SHOW_FILTER = 0x20
_INFO = 0
_MEMORY = 6
_FILTER = 7

_REQUEST = struct.Struct("=BBHIIQ")  # struct packet_diag_req
_MESSAGE = struct.Struct("=BBHIQ")  # struct packet_diag_msg
_U32 = struct.Struct("=I")
_INT = struct.Struct("=i")

_ETH_P_ALL = 3
_INBOUND = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x28, 0, 0, 0xFFFFF004),  # ldh [type]
        (0x15, 0, 1, 4),  # jeq #PACKET_OUTGOING
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0xFFFF),
    )
)
"""The filter of Open vSwitch's sockets: `netdev_linux_rxq_construct` in `lib/netdev-linux.c`, the
same from 2.11 to 3.5."""

_IN_HAND = 0.01
"""Seconds in which Open vSwitch has dealt with the frames that it has just taken."""
_UNKNOWN = 0.03
"""Seconds that are waited where there is no socket: upcalls, and queues of internal ports."""
_LOOK = 0.003
_LIMIT = 1.0
"""Seconds after which no more is waited: somebody else's socket may never be emptied."""


def queued() -> dict[int, int]:
    """Bytes that wait in the packet sockets of each device, by ifindex; the most of any socket.

    Empty where the kernel does not tell.
    """
    found: dict[int, int] = {}
    request = _REQUEST.pack(socket.AF_PACKET, 0, 0, 0, _SHOW_INFO | _SHOW_MEMORY, 0)
    with contextlib.suppress(OSError):
        for _, body in dump(_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, request):
            told = dict(attributes(body, _MESSAGE.size))
            if _INFO in told and _MEMORY in told:
                (ifindex,) = _U32.unpack_from(told[_INFO])
                (waiting,) = _U32.unpack_from(told[_MEMORY])
                found[ifindex] = max(waiting, found.get(ifindex, 0))
    return found


def open_sockets() -> dict[int, int] | None:
    """The ifindex that each of Open vSwitch's packet sockets is bound to, by the socket's inode.

    It is 0 once the device has ended or left. They are known by their filter; where the kernel does
    not tell that (without CAP_NET_ADMIN), by what they receive. None where it does not tell at all.
    """
    found: dict[int, int] = {}
    request = _REQUEST.pack(socket.AF_PACKET, 0, 0, 0, _SHOW_INFO | _SHOW_FILTER, 0)
    try:
        for _, body in dump(_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, request):
            _, kind, protocol, inode, _ = _MESSAGE.unpack_from(body)
            told = dict(attributes(body, _MESSAGE.size))
            raw = kind == socket.SOCK_RAW and protocol == _ETH_P_ALL
            if raw and _INFO in told and told.get(_FILTER) in (_INBOUND, b""):
                found[inode] = max(0, *_INT.unpack_from(told[_INFO]))
    except OSError:
        return None
    return found


class SocketDrain:
    """Waits until Open vSwitch has dealt with what waited for it on these devices."""

    def __init__(self, ifindexes: Collection[int], waiting: Mapping[int, int], now: float) -> None:
        """`waiting` is what `queued` told at `now`, a time of the monotonic clock."""
        self._limit = now + _LIMIT
        self._full = set(ifindexes) & waiting.keys()
        self.done = False
        self.wake = now + (_UNKNOWN if set(ifindexes) - waiting.keys() else _IN_HAND)
        """When, by the monotonic clock, `run` has something to do."""
        self._drain(now, waiting)

    @classmethod
    def begin(cls, ifindexes: Collection[int]) -> Self:
        """What waits now is what is waited for."""
        return cls(ifindexes, queued(), time.monotonic())

    def _drain(self, now: float, waiting: Mapping[int, int]) -> None:
        self._full = {ifindex for ifindex in self._full if waiting.get(ifindex)}
        self.wake = max(self.wake, now + (_LOOK if self._full else _IN_HAND))

    def run(self) -> None:
        """Looks again if it is time."""
        now = time.monotonic()
        if now < self.wake or self.done:
            return
        if self._full and now < self._limit:
            self._drain(now, queued())
        else:
            self.done = True
