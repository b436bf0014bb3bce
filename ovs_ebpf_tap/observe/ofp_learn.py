"""The action `learn`: which flows it adds.

The format is that of `decode_LEARN_specs` in `lib/ofp-actions.c`; what is made of it, of
`learn_execute` in `lib/learn.c`. What is malformed raises ValueError or struct.error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from struct import Struct

from ovs_ebpf_tap.model.flow import ANY_PORT, Action, Known, Load, Output
from ovs_ebpf_tap.observe import ofp_fields
from ovs_ebpf_tap.observe.ofp_fields import Part, overwritten

_FLAGS_TABLE = Struct("!HB")
_PRIORITY_AT = 14
_FLAGS_AT = 24
_START = 32
_U16 = Struct("!H")
_SUBFIELD = Struct("!IH")
"""A header, and the first bit."""

# Of `learn` with a limit or a result.
_RESULT_AT = 36
_START_2 = 40
_WRITES_RESULT = 1 << 2

_WIDTH = 0x3FF
_IMMEDIATE = 1 << 13
_DESTINATION = 3 << 11
_MATCH, _LOAD, _OUTPUT = 0 << 11, 1 << 11, 2 << 11


@dataclass(frozen=True, slots=True)
class Learn:
    """What a `learn` does."""

    result: Part | None
    """The bit that the flow itself has written: whether another was learned."""
    table: int
    match: Known
    """What the learned flows match of the metadata."""
    actions: tuple[Action, ...]
    """What these do."""
    priority: int


def learn(action: bytes, *, second: bool) -> Learn:
    """Reads NXAST_LEARN, or the second version, NXAST_LEARN2."""
    flags, table = _FLAGS_TABLE.unpack_from(action, _FLAGS_AT)
    at, result = _START_2 if second else _START, None
    if second and flags & _WRITES_RESULT:
        (start,) = _U16.unpack_from(action, _RESULT_AT)
        head = ofp_fields.header(action, at)
        at, result = head.payload, Part(head.field, start, 1)
    match, actions = Known(), list[Action]()
    for kind, destination, immediate in _specs(action, at):
        if destination is None:
            actions.append(Output(ANY_PORT))  # The number that a field has while it learns.
        elif immediate is None:
            actions += ofp_fields.forget(destination) if kind == _LOAD else ()
        else:
            start, ones = destination.start, (1 << destination.width) - 1
            loads = ofp_fields.load(
                destination.field, immediate << start, ones << start, typed=False
            )
            if kind == _LOAD:
                actions += loads
            else:
                match = reduce(
                    overwritten, (each.known for each in loads if isinstance(each, Load)), match
                )
    (priority,) = _U16.unpack_from(action, _PRIORITY_AT)
    return Learn(result, table, match, tuple(actions), priority)


def _specs(action: bytes, at: int) -> Iterator[tuple[int, Part | None, int | None]]:
    """What each one does, to what, and the value if it is an immediate one."""
    while at + _U16.size <= len(action):
        (head,) = _U16.unpack_from(action, at)
        at += _U16.size
        if not head:
            return
        width, kind = head & _WIDTH, head & _DESTINATION
        immediate = None
        if head & _IMMEDIATE:
            end = at + (width + 15) // 16 * 2
            immediate = int.from_bytes(action[at:end]) & (1 << width) - 1
            at = end
        else:
            at += _SUBFIELD.size
        destination = None
        if kind in (_MATCH, _LOAD):
            destination = _subfield(action, at, width)
            at += _SUBFIELD.size
        elif kind != _OUTPUT:
            raise ValueError("a learn action has an unknown part")
        if at > len(action):
            raise ValueError("a learn action ends within a part")
        yield kind, destination, immediate


def _subfield(action: bytes, at: int, width: int) -> Part:
    _, start = _SUBFIELD.unpack_from(action, at)
    return Part(ofp_fields.header(action, at).field, start, width)
