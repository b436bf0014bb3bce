"""Netlink's messages as bytes, and those about devices: a thousand are read in milliseconds.

The formats are those of Linux's `include/uapi/linux/netlink.h`, `rtnetlink.h` and `if_link.h`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from errno import EINTR, EINVAL, ENODEV

from ovs_ebpf_tap.model.device import Departure, Device

NEWLINK = 16
DELLINK = 17

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_GETLINK = 18
_REQUEST = 0x1  # NLM_F_REQUEST
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST, NLM_F_ROOT, NLM_F_MATCH
_DUMP_INTERRUPTED = 0x10

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_INT = struct.Struct("=i")
_U32 = struct.Struct("=I")
_TYPE_MASK = 0x3FFF

_ADDRESS = 1
_NAME = 3
_MTU = 4
_LINKINFO = 18
_WANTED = (_ADDRESS, _NAME, _MTU, _LINKINFO)
_INFO_KIND = 1
_INFO_SLAVE_KIND = 4
_NEW_NETNSID = 45
_TARGET_NETNSID = 46
_NEW_IFINDEX = 49
_EXT_MASK = 29
_SKIP_STATISTICS = 1 << 3

_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_ARPHRD_ETHER = 1

_LONGEST = 1 << 16


class InterruptedDumpError(OSError):
    """Devices came or went while they were listed: the list may lack some."""

    def __init__(self) -> None:
        super().__init__(EINTR, "devices came or went while they were listed")


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The type, flags and body of each message."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            raise ValueError("a netlink message is shorter than its header")
        yield kind, flags, data[at + _HEADER.size : at + length]
        at += _aligned(length)


def device(body: bytes) -> Device | None:
    """The device that a message of type `NEWLINK` or `DELLINK` is about.

    None for one of another family than AF_UNSPEC: bridges notify of their ports' state so.
    """
    family, kind, index, flags, _ = _LINK.unpack_from(body)
    if family != socket.AF_UNSPEC:
        return None
    found: dict[int, bytes] = {}
    for attribute, value in attributes(body, _LINK.size):
        if attribute in _WANTED:
            found[attribute] = value
            if len(found) == len(_WANTED):
                break  # The kernel sends some 40 of them.
    info = dict(attributes(found.get(_LINKINFO, b""), 0))
    return Device(
        ifindex=index,
        name=_text(found.get(_NAME, b"")),
        mtu=_U32.unpack(found[_MTU])[0] if _MTU in found else 0,
        up=bool(flags & _IFF_UP),
        running=bool(flags & _IFF_UP and flags & _IFF_LOWER_UP),
        ethernet=kind == _ARPHRD_ETHER,
        address=found.get(_ADDRESS, b"").hex(":"),
        kind=_text(info.get(_INFO_KIND, b"")),
        slave=_text(info.get(_INFO_SLAVE_KIND, b"")),
    )


def departure(body: bytes) -> Departure | None:
    """Where the device has gone that a message of type `DELLINK` is about; None if it has ended.

    The kernel says it of one that has moved to another namespace (`__dev_change_net_namespace` in
    its `net/core/dev.c`).
    """
    found = dict(attributes(body, _LINK.size))
    if _NEW_NETNSID not in found or _NEW_IFINDEX not in found:
        return None
    (nsid,), (ifindex,) = _INT.unpack(found[_NEW_NETNSID]), _INT.unpack(found[_NEW_IFINDEX])
    return Departure(nsid, ifindex)


def is_there(departed: Departure) -> bool:
    """Whether the device is where it went; not if it has gone on, come back or ended.

    The kernel tells those with CAP_NET_ADMIN there; where it does not, the device is taken to be.
    """
    target = _ATTRIBUTE.pack(_ATTRIBUTE.size + _INT.size, _TARGET_NETNSID) + _INT.pack(
        departed.nsid
    )
    body = _LINK.pack(socket.AF_UNSPEC, 0, departed.ifindex, 0, 0) + target
    request = _HEADER.pack(_HEADER.size + len(body), _GETLINK, _REQUEST, 1, 0) + body
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as opened:
        opened.send(request)
        answer, _, content = next(messages(opened.recv(_LONGEST)))
    if answer != _NLMSG_ERROR:
        return True
    return -_INT.unpack_from(content)[0] not in (ENODEV, EINVAL)  # EINVAL: no such namespace.


def list_devices() -> list[Device]:
    """All devices. Raises OSError, and InterruptedDumpError if it is to be tried again."""
    # Statistics are most of what the kernel would send.
    mask = _ATTRIBUTE.pack(_ATTRIBUTE.size + _U32.size, _EXT_MASK) + _U32.pack(_SKIP_STATISTICS)
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + mask
    dumped = dump(socket.NETLINK_ROUTE, _GETLINK, body)
    return [found for kind, body in dumped if kind == NEWLINK and (found := device(body))]


def dump(protocol: int, kind: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and body of each message that the kernel answers a request for all with.

    Raises OSError, and InterruptedDumpError if it is to be tried again.
    """
    request = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_DUMP, 1, 0) + body
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
    ) as opened:
        opened.send(request)
        while True:
            for answer, flags, content in messages(opened.recv(_LONGEST)):
                if flags & _DUMP_INTERRUPTED:
                    raise InterruptedDumpError
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    error = -_INT.unpack_from(content)[0]
                    raise OSError(error, os.strerror(error))
                yield answer, content


def attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """The type and value of each attribute from a place of a message's body on."""
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            raise ValueError("a netlink attribute is shorter than its header")
        yield kind & _TYPE_MASK, body[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def _aligned(length: int) -> int:
    return (length + 3) & ~3
