"""Which notifications of devices, qdiscs and filters a netlink socket receives.

The kernel notifies of everybody's filters, and with hw-offload Open vSwitch adds and removes one
for each flow. So a classic BPF program on the socket (`sk_filter` in the kernel's
`net/core/filter.c`) drops those that are not worth waking for.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Collection

from ovs_ebpf_tap.observe import links, tc

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_LOAD_WORD, _LOAD_HALF, _EQUAL, _RETURN, _ALWAYS = 0x20, 0x28, 0x15, 0x06, 0x05
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER: include/uapi/asm-generic/socket.h
_TYPE_AT, _INDEX_AT, _PARENT_AT, _PRIORITY_AT = 4, 20, 28, 34  # In a message with its header.
_ALL, _NONE = 0xFFFFFFFF, 0

MOST_DEVICES = 1900
"""Devices whose filters can be told from others': BPF_MAXINSNS is 4096, and each takes two."""


def _half(value: int) -> int:
    """What a load, big-endian, makes of the host's 16 bits."""
    return int(socket.htons(value))


def _word(value: int) -> int:
    return int(socket.htonl(value))


def program(devices: Collection[int], ours: Collection[int]) -> bytes:
    """A program that lets pass what is to be received.

    That are devices, qdiscs for arrivals, filters on these devices, and removed filters on any
    device with one of the priorities in `ours`. Filters of more than `MOST_DEVICES` devices are
    all received.
    """

    def code(what: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return _INSTRUCTION.pack(what, yes, no, value)

    accept, drop = code(_RETURN, _ALL), code(_RETURN, _NONE)
    qdisc = [
        code(_LOAD_WORD, _PARENT_AT),
        code(_EQUAL, _word(tc.INGRESS_PARENT), no=1),
        accept,
        drop,
    ]
    new = [code(_LOAD_HALF, _PRIORITY_AT)]
    for priority in ours:
        new += [code(_EQUAL, _half(priority), no=1), drop]
    gone = [code(_LOAD_HALF, _PRIORITY_AT)]
    for priority in ours:
        gone += [code(_EQUAL, _half(priority), no=1), accept]
    new.append(code(_ALWAYS, len(gone)))
    on_devices = [accept]
    if len(devices) <= MOST_DEVICES:
        on_devices = [code(_LOAD_WORD, _INDEX_AT)]
        for index in sorted(devices):
            on_devices += [code(_EQUAL, _word(index), no=1), accept]
        on_devices.append(drop)
    start = [
        code(_LOAD_HALF, _TYPE_AT),
        code(_EQUAL, _half(links.NEWLINK), yes=6),
        code(_EQUAL, _half(links.DELLINK), yes=5),
        code(_EQUAL, _half(tc.NEWQDISC), yes=5),
        code(_EQUAL, _half(tc.DELQDISC), yes=4),
        code(_EQUAL, _half(tc.NEWTFILTER), yes=3 + len(qdisc)),
        code(_EQUAL, _half(tc.DELTFILTER), yes=2 + len(qdisc) + len(new)),
        drop,
        accept,
    ]
    return b"".join(start + qdisc + new + gone + on_devices)


def receive_only(opened: socket.socket, program: bytes) -> None:
    """Has the socket receive what the classic BPF program lets pass. Raises OSError."""
    code = ctypes.create_string_buffer(program)
    length = len(program) // _INSTRUCTION.size
    packed = struct.pack("@HP", length, ctypes.addressof(code))
    opened.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, packed)
