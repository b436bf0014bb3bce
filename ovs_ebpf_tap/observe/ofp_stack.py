"""What actions push and pop: `OFPACT_STACK_PUSH` in `lib/ofp-actions.c`."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from ovs_ebpf_tap.model.flow import IN_PORT, STACK_DEPTH, Action, Bits, Move, pushed
from ovs_ebpf_tap.observe import ofp_fields
from ovs_ebpf_tap.observe.ofp_fields import Part

_U16 = Struct("!H")
_WIDEST = 128
"""Bits that have room at one depth."""


def stack_part(action: bytes) -> Part:
    """What a push or pop action pushes, or pops to."""
    (start,) = _U16.unpack_from(action, 10)
    head = ofp_fields.header(action, 12)
    return Part(head.field, start, *_U16.unpack_from(action, head.payload))


class Stack:
    """What one list of actions has pushed."""

    def __init__(self) -> None:
        self._pushed: list[Bits | None] = []
        """Where each lies; None if that is not known."""

    def push(self, part: Part) -> Iterable[Action]:
        """Pushes what some bits of a field are."""
        bits = part.tracked
        depth = len(self._pushed)
        if bits is None or depth >= STACK_DEPTH or bits.width > _WIDEST:
            self._pushed.append(None)
            return ()
        place = pushed(depth, bits.width)
        self._pushed.append(place)
        return (Move(bits, place),)

    def pop(self, part: Part) -> Iterable[Action]:
        """Pops what was pushed last to some bits of a field."""
        place = self._pushed.pop() if self._pushed else None
        bits = part.tracked
        other = part.field.packet or part.field.bits is IN_PORT
        if other or bits is None or place is None or place.width != bits.width:
            return ofp_fields.forget(part)
        return (Move(place, bits),)

    def forget(self) -> None:
        """Has it be unknown what was pushed."""
        self._pushed = [None] * len(self._pushed)
