"""What OpenFlow instructions and actions, as bytes, do: in the terms of `model/flow.py`.

The formats are those of `include/openflow/*.h` and `lib/ofp-actions.c`. What is malformed raises
ValueError or struct.error. What OVS writes into headers is not kept, so that flows that differ in
nothing else are one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct

from ovs_ebpf_tap.model.flow import (
    ANY_PORT,
    ICMP_CODE,
    ICMP_TYPE,
    IP_PROTO,
    METADATA,
    METADATA_MASK,
    TABLE,
    TUN_ID,
    VLAN,
    VLAN_PRESENT,
    Action,
    Actions,
    Clone,
    Flow,
    Forget,
    Known,
    Load,
    Modify,
    Move,
    Output,
    OutputField,
    Resubmit,
    ToGroup,
    Write,
)
from ovs_ebpf_tap.observe import ofp_fields
from ovs_ebpf_tap.observe.ofp_fields import Part
from ovs_ebpf_tap.observe.ofp_learn import learn
from ovs_ebpf_tap.observe.ofp_plain_actions import BY_TYPE, MAY_MODIFY, PLAIN, PLAIN_NX
from ovs_ebpf_tap.observe.ofp_stack import Stack, stack_part

ANYTHING: Actions = (Output(ANY_PORT), Output(ANY_PORT))
"""What an action does that is not known here: it may send the packet to any port, twice."""

_U8 = Struct("!B")
_U16 = Struct("!H")
_U16_U8 = Struct("!HB")
_U32 = Struct("!I")
_U64 = Struct("!Q")
_U64_U64 = Struct("!QQ")
_U16_U16_U16 = Struct("!HHH")
_TYPE_LENGTH = Struct("!HH")

# Of NXAST_CONTROLLER2: where its properties begin, and NXAC2PT_PAUSE.
_PROPERTIES, _PAUSE = 16, 4

_NX = 0x00002320
_ONF = 0x4F4E4600


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type of each element, and the element with its header."""
    at = 0
    while at < len(data):
        kind, length = _TYPE_LENGTH.unpack_from(data, at)
        if length < 8 or at + length > len(data):
            raise ValueError("an action's length is wrong")
        yield kind, data[at : at + length]
        at += length


# Instructions.

_GOTO_TABLE, _WRITE_METADATA, _WRITE_ACTIONS, _APPLY_ACTIONS, _CLEAR_ACTIONS, _METER = range(1, 7)
_INSTRUCTION_HEADER = 8


@dataclass(frozen=True, slots=True)
class Instructions:
    """What a flow does."""

    actions: Actions
    learned: tuple[Flow, ...]
    """The flows that it may add, those that have outputs or change packets."""
    groups: frozenset[int]
    """The groups that it uses."""
    partial: bool
    """Whether what matches it may go on to flows of lower priority: `conjunction`."""


@lru_cache(maxsize=4096)
def instructions_of(table: int, instructions: bytes, *, typed: bool) -> Instructions:
    """What the instructions of a flow in that table do; `typed`: it matches a `dl_type`."""
    learned: list[Flow] = []
    parser = _Parser(table, learned, typed=typed)
    actions: list[Action] = []
    # From the highest number to the lowest, they are in the order in which OVS executes them.
    for kind, element in sorted(_elements(instructions), key=lambda each: -each[0]):
        if kind == _APPLY_ACTIONS:
            actions += parser.steps(element[_INSTRUCTION_HEADER:])
        elif kind == _WRITE_ACTIONS:
            actions += parser.written(element[_INSTRUCTION_HEADER:])
        elif kind == _WRITE_METADATA:
            value, mask = _U64_U64.unpack_from(element, 8)
            actions.append(Load(Known.of(METADATA, value, mask)))
        elif kind == _GOTO_TABLE:
            actions.append(Resubmit(*_U8.unpack_from(element, 4)))
        elif kind not in (_CLEAR_ACTIONS, _METER):
            actions += ANYTHING
    simple = simplified(actions)
    return Instructions(simple, tuple(learned), frozenset(groups_of(simple)), parser.partial)


def bucket_of(actions: bytes) -> Actions:
    """What the actions of a group's bucket do, which OVS executes as an action set."""
    return _Parser(None, [], typed=False).action_set(actions)


def groups_of(actions: Actions) -> Iterator[int]:
    """The groups that actions use."""
    for action in actions:
        if isinstance(action, Write):
            action = action.final
        if isinstance(action, ToGroup):
            yield action.group
        elif isinstance(action, Clone):
            yield from groups_of(action.actions)


# Actions.

_OUTPUT, _POP_VLAN, _PUSH_VLAN, _GROUP, _SET_FIELD, _COPY_FIELD = 0, 18, 17, 22, 25, 28
_EXPERIMENTER = 0xFFFF
_ONF_COPY_FIELD = 3200
_SET_VLAN_VID = 1
_CURRENT_TABLE = 0xFF
_NO_TABLE = 0xFF
_SAME_PORT = 0xFFF8
"""OFPP_IN_PORT."""

# OFPP_CONTROLLER and OFPP_ANY: they lead to no port.
_NOWHERE = {0xFFFFFFFD, 0xFFFFFFFF}

_PUSH, _POP = (_U32.pack(_NX) + _U16.pack(subtype) for subtype in (27, 28))
_NAT = _U32.pack(_NX) + _U16.pack(36)
# Which of an action set's actions come first: `ACTION_SET_ORDER` in `lib/ofp-actions.c`. Of those
# from _FINAL on only the highest is executed, and without one, none: `ACTION_SET_FINAL_PRIORITY`.
_RANKS = {_POP_VLAN: 0, 20: 1, 19: 1, _PUSH_VLAN: 2, _OUTPUT: 7, _GROUP: 8}
_RANKS_NX = {46: 1, 47: 1, 35: 4, 43: 5, 1: 6, 14: 6, 44: 6}
_OTHERS, _FINAL = 3, 4


class _Parser:
    """Parses actions of a flow in a table, or of a group, where the table is not known."""

    def __init__(self, table: int | None, learned: list[Flow], *, typed: bool) -> None:
        self._typed = typed
        self._table = table
        self._learned = learned
        self.partial = False

    def steps(self, data: bytes) -> Iterator[Action]:
        """Actions that OVS executes one after the other."""
        stack = Stack()
        for kind, element in _elements(data):
            if kind == _EXPERIMENTER and element[4:10] in (_PUSH, _POP):
                part = stack_part(element)
                yield from stack.push(part) if element[4:10] == _PUSH else stack.pop(part)
                continue
            for action in self._one(kind, element):
                if isinstance(action, Resubmit | ToGroup | Forget):
                    stack.forget()  # Other flows, or a controller, may push and pop, too.
                yield action

    def written(self, data: bytes) -> Actions:
        """Actions that are added to the packet's action set."""
        changes, final = self._set(data)
        if not final:
            return (Clone((Modify(),)),) if changes else ()
        if len(final) == 1 and isinstance(final[0], Output | ToGroup):
            return (Write(final[0], changes=bool(changes)),)
        return ANYTHING

    def action_set(self, data: bytes) -> Actions:
        """Actions that OVS executes in the order of an action set."""
        changes, final = self._set(data)
        return simplified((*changes, *final)) if final else ()

    def _set(self, data: bytes) -> tuple[Actions, Actions]:
        """What a set changes, in order, and where it sends the packet."""
        changes: list[tuple[int, Actions]] = []
        final: tuple[int, Actions] = 0, ()
        for kind, element in _elements(data):
            actions = tuple(self._one(kind, element))
            rank = _rank(kind, element)
            if rank < _FINAL:
                changes.append((rank, actions))
            elif rank >= final[0]:
                final = rank, actions
        changes.sort(key=lambda each: each[0])
        return tuple(each for _, group in changes for each in group), final[1]

    def _one(self, kind: int, action: bytes) -> Iterable[Action]:
        if kind == _OUTPUT:
            return _output(*_U32.unpack_from(action, 4))
        if kind == _SET_FIELD:
            return ofp_fields.load(*ofp_fields.value(action, 4), typed=self._typed)
        if kind == _EXPERIMENTER:
            return self._experimenter(action)
        if kind == _GROUP:
            return (ToGroup(*_U32.unpack_from(action, 4)),)
        if kind == _COPY_FIELD:
            return _move(action, 4, 12)
        if kind == _SET_VLAN_VID:
            (vid,) = _U16.unpack_from(action, 4)
            return Modify(), Load(Known.of(VLAN, VLAN_PRESENT | vid))
        if kind in BY_TYPE:
            return (Modify(self._typed),)
        return PLAIN.get(kind, ANYTHING)

    def _experimenter(self, action: bytes) -> Iterable[Action]:
        (vendor,) = _U32.unpack_from(action, 4)
        (subtype,) = _U16.unpack_from(action, 8) if len(action) > 8 else (None,)
        if vendor == _ONF and subtype == _ONF_COPY_FIELD:
            return _move(action, 12, 20)
        if vendor != _NX or subtype is None:
            return ANYTHING
        plain = PLAIN_NX.get(subtype)
        return self._nicira(subtype, action) if plain is None else plain

    def _nicira(self, subtype: int, action: bytes) -> Iterable[Action]:
        match subtype:
            case 18 | 21:  # dec_ttl
                return (Modify(self._typed),)
            case 1:  # resubmit
                (port,) = _U16.unpack_from(action, 10)
                return self._resubmit(port, _CURRENT_TABLE)
            case 14:  # resubmit(,table)
                return self._resubmit(*_U16_U8.unpack_from(action, 10))
            case 12:  # bundle
                return _bundle(action)
            case 44:  # resubmit(,table,ct), with the protocol and ports that conntrack knows
                kind = Forget(IP_PROTO.mask | ICMP_TYPE.mask | ICMP_CODE.mask)
                return kind, *self._resubmit(*_U16_U8.unpack_from(action, 10))
            case 34:  # conjunction
                self.partial = True
                return ()
            case 37:  # controller
                return _controller(action)
            case 35:  # ct
                return _ct(action)
            case 42:  # clone
                cloned = simplified(self.steps(action[16:]))
                return (Clone(cloned),) if cloned else ()
            case 16 | 45:  # learn
                return self._learn(action, second=subtype == 45)
            case 39:  # output(port=...,max_len=...)
                # What is cut is what is sent there: the packet itself stays as it is.
                sent = _output(ofp_fields.widened(*_U16.unpack_from(action, 10)))
                return (Clone((MAY_MODIFY, *sent)),) if sent else ()
        return self._writes(subtype, action)

    def _resubmit(self, port: int, table: int) -> Actions:
        number = self._table if table == _CURRENT_TABLE else table
        if number is None:
            return ANYTHING
        return (Resubmit(number, other_port=port != _SAME_PORT),)

    def _learn(self, action: bytes, *, second: bool) -> Iterable[Action]:
        learned = learn(action, second=second)
        if any(isinstance(each, Output | Modify) for each in learned.actions):
            if self._table is None:
                return ANYTHING
            actions = simplified(learned.actions)
            flow = Flow(learned.table, learned.match, actions, learned.priority)
            self._learned.append(flow)
        return () if learned.result is None else ofp_fields.forget(learned.result)

    def _writes(self, subtype: int, action: bytes) -> Iterable[Action]:
        match subtype:
            case 7:  # reg_load
                part = _part(action, 12, *_U16.unpack_from(action, 10))
                (value,) = _U64.unpack_from(action, 16)
                ones = (1 << part.width) - 1
                return ofp_fields.load(
                    part.field, value << part.start, ones << part.start, typed=self._typed
                )
            case 33:  # reg_load2
                return ofp_fields.load(*ofp_fields.value(action, 10), typed=self._typed)
            case 2:  # set_tunnel
                return (Load(Known.of(TUN_ID, *_U32.unpack_from(action, 12))),)
            case 9:  # set_tunnel64
                return (Load(Known.of(TUN_ID, *_U64.unpack_from(action, 16))),)
            case 22:  # write_metadata
                return (Load(Known.of(METADATA, *_U64_U64.unpack_from(action, 16))),)
            case 6:  # reg_move
                return _move(action, 10, 16)
            case 15:  # output:NXM_NX_REG0[]
                return _output_field(_part(action, 12, *_U16.unpack_from(action, 10)))
            case 32:  # output:reg, with an OXM of any length
                return _output_field(_part(action, 14, *_U16.unpack_from(action, 10)))
            case 10:  # multipath
                return ofp_fields.forget(_part(action, 28, *_U16.unpack_from(action, 26)))
            case 13:  # bundle_load
                return ofp_fields.forget(_part(action, 24, *_U16.unpack_from(action, 22)))
            case 28:  # pop, where it is not known what was pushed
                return ofp_fields.forget(stack_part(action))
            case 49:  # check_pkt_larger
                (start,) = _U16.unpack_from(action, 12)
                return ofp_fields.forget(Part(ofp_fields.header(action, 14).field, start, 1))
        return ANYTHING


def _output(port: int) -> Actions:
    if port == TABLE:
        return (Resubmit(0),)
    return () if port in _NOWHERE else (Output(port),)


def _bundle(action: bytes) -> Actions:
    """It sends to one of its members, which may be OFPP_TABLE."""
    (count,) = _U16.unpack_from(action, 20)
    members = (_U16.unpack_from(action, 32 + 2 * index)[0] for index in range(count))
    return ANYTHING if TABLE & 0xFFFF in members else (Output(ANY_PORT),)


def _controller(action: bytes) -> Actions:
    """Where it pauses, the controller may change all before it has the packet go on."""
    at = _PROPERTIES
    while at + _TYPE_LENGTH.size <= len(action):
        kind, length = _TYPE_LENGTH.unpack_from(action, at)
        if kind == _PAUSE:
            return MAY_MODIFY, Forget(METADATA_MASK)
        at += max(8, (length + 7) // 8 * 8)
    return ()


def _ct(action: bytes) -> Actions:
    """What it does to the connection is not looked at; NAT may change the packet.

    What is looked up again is a copy: nothing of it comes back to the actions after `ct`.
    """
    (table,) = _U8.unpack_from(action, 18)
    kinds = (element[4:10] for kind, element in _elements(action[24:]) if kind == _EXPERIMENTER)
    changed = (MAY_MODIFY,) if _NAT in kinds else ()
    return changed if table == _NO_TABLE else (*changed, Clone((Resubmit(table),)))


def _move(action: bytes, widths_at: int, headers_at: int) -> Iterable[Action]:
    width, read_from, write_to = _U16_U16_U16.unpack_from(action, widths_at)
    source = ofp_fields.header(action, headers_at)
    destination = ofp_fields.header(action, source.payload)
    return ofp_fields.move(
        Part(source.field, read_from, width), Part(destination.field, write_to, width)
    )


def _part(action: bytes, header_at: int, start_width: int) -> Part:
    field = ofp_fields.header(action, header_at).field
    return Part(field, start_width >> 6, (start_width & 0x3F) + 1)


def _output_field(source: Part) -> Actions:
    bits = source.tracked
    if bits is not None:
        return (OutputField(bits),)
    # The number may be OFPP_TABLE if there is room for it: `xlate_output_reg_action`.
    return ANYTHING if source.width >= 16 else (Output(ANY_PORT),)


def _rank(kind: int, action: bytes) -> int:
    if kind != _EXPERIMENTER or len(action) <= 8:
        return _RANKS.get(kind, _OTHERS)
    (subtype,) = _U16.unpack_from(action, 8)
    return _RANKS_NX.get(subtype, _OTHERS)


def simplified(actions: Iterable[Action]) -> Actions:
    """The fewest that do the same: changes of the packet between two outputs are one."""
    simple: list[Action] = []
    change: Modify | None = None
    for action in actions:
        last = simple[-1] if simple else None
        if isinstance(action, Modify):
            change = action if change is None or action.always else change
        elif isinstance(action, Load) and isinstance(last, Load):
            simple[-1] = Load(ofp_fields.overwritten(last.known, action.known))
        elif isinstance(action, Forget) and isinstance(last, Forget):
            simple[-1] = Forget(last.mask | action.mask)
        elif isinstance(action, Load | Move | Forget):
            simple.append(action)
        else:
            if change is not None:
                simple.append(change)
                change = None
            simple.append(action)
    return tuple(simple) if change is None else (*simple, change)
