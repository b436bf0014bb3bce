"""The shortest programs that copy, in BPF bytecode: what the helpers alone cost."""

from __future__ import annotations

import socket
import struct

_TC_INDEX = 44
"""Offset of `tc_index` in `struct __sk_buff`."""


def _code(*instructions: tuple[int, int, int, int]) -> bytes:
    """The code of a program that returns TC_ACT_UNSPEC: opcode, registers, offset, immediate."""
    ends = ((0xB7, 0, 0, -1), (0x95, 0, 0, 0))
    return b"".join(struct.pack("=BBhi", *each) for each in (*instructions, *ends))


def bare_clone(output: int) -> bytes:
    """Only calls `bpf_clone_redirect`."""
    return _code((0xB7, 2, 0, output), (0xB7, 3, 0, 0), (0x85, 0, 0, 13))


def marked_clone(output: int) -> bytes:
    """As `bare_clone`, with `tc_index` set on the copy and cleared on the original."""
    return _code(
        (0xBF, 0x16, 0, 0),
        (0xB7, 2, 0, 1),
        (0x63, 0x26, _TC_INDEX, 0),
        (0xB7, 2, 0, output),
        (0xB7, 3, 0, 0),
        (0x85, 0, 0, 13),
        (0xB7, 2, 0, 0),
        (0x63, 0x26, _TC_INDEX, 0),
    )


_PUSHES = ((0xB7, 2, 0, socket.htons(0x8100)), (0xB7, 3, 0, 10), (0x85, 0, 0, 18))

BARE_PUSH = _code(*_PUSHES)
"""Only calls `bpf_skb_vlan_push`."""

MARKED_PUSH = _code(
    (0x61, 0x12, _TC_INDEX, 0),
    (0x15, 2, 2 + len(_PUSHES), 0),
    (0xB7, 3, 0, 0),
    (0x63, 0x31, _TC_INDEX, 0),
    *_PUSHES,
)
"""As `BARE_PUSH`, for packets with `tc_index` set only, which it clears."""
