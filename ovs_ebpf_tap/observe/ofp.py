"""OpenFlow messages as bytes, and what they say of flows and ports. Pure functions.

The formats are those of `include/openflow/*.h`, `lib/ofp-actions.c` and `lib/ofp-monitor.c`. What
is malformed raises ValueError or struct.error.

A flow's traits are what its actions can do to a packet that a mirror selects; an action that is
not known here is taken to do anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct

OF10, OF13, OF14, OF15 = 0x01, 0x04, 0x05, 0x06

HELLO = 0
ERROR = 1
ECHO_REQUEST = 2
ECHO_REPLY = 3
BARRIER_REPLY = 21
_BARRIER_REQUEST = 20
_FLOW_MOD = 14
_EXPERIMENTER = 4
_MULTIPART_10 = 16, 17
_MULTIPART = 18, 19

HEADER = Struct("!BBHI")
"""Version, type, length in bytes with this header, and transaction id."""

MAX_LENGTH = 0xFFFF
"""Bytes of the longest message."""

_FLOW_MOD_FIXED = Struct("!QQBBHHHIIIH2x")
"""Cookie, its mask, table, command, idle and hard timeout, priority, buffer, output port and group
to which a deletion is confined, flags."""

_U16 = Struct("!H")
_U32 = Struct("!I")
_TYPE_LENGTH = Struct("!HH")
_MULTIPART_HEADER = Struct("!HH")
_EXPERIMENTER_HEADER = Struct("!II")

_NX = 0x00002320
_ONF = 0x4F4E4600

PORT_DESC = 13
FLOW_MONITOR = 16
"""Kinds of multipart messages."""

_STATS_EXPERIMENTER = 0xFFFF
_ONF_FLOW_MONITOR = 1870
_NX_SET_CONTROLLER_ID = 20
_MORE = 1

_ALL = 0xFF
_ANY = 0xFFFFFFFF


def message(version: int, kind: int, xid: int, body: bytes = b"") -> bytes:
    """A message of the type `kind`."""
    return HEADER.pack(version, kind, HEADER.size + len(body), xid) + body


# Agreeing on a version.

_BITMAP = 1


def hello(version: int) -> bytes:
    """A HELLO that offers one version."""
    bitmap = _TYPE_LENGTH.pack(_BITMAP, 8) + _U32.pack(1 << version)
    return message(version, HELLO, 0, bitmap)


def offered(version: int, body: bytes) -> frozenset[int]:
    """The versions that a HELLO with this version in its header offers."""
    at = 0
    while at < len(body):
        kind, length = _TYPE_LENGTH.unpack_from(body, at)
        if length < _TYPE_LENGTH.size:
            raise ValueError("a HELLO element is too short")
        if kind == _BITMAP:
            (bits,) = _U32.unpack_from(body, at + _TYPE_LENGTH.size)
            return frozenset(each for each in range(32) if bits & 1 << each)
        at += (length + 7) // 8 * 8
    return frozenset(range(1, version + 1))


def set_controller_id(xid: int, number: int) -> bytes:
    """An OpenFlow 1.0 message that gives the connection a number of its own.

    With a connection before OpenFlow 1.3 whose number is 0, OVS sends packets that no flow matches
    to the controller instead of dropping them (`update_want_packet_in_on_miss` in
    `ofproto/connmgr.c`).
    """
    body = _EXPERIMENTER_HEADER.pack(_NX, _NX_SET_CONTROLLER_ID) + bytes(6) + _U16.pack(number)
    return message(OF10, _EXPERIMENTER, xid, body)


# Flows. The same in OpenFlow 1.3, 1.4 and 1.5.

_DELETE_STRICT = 4
_LAST_TABLE = 253
_ANY_PRIORITY = 1
_EMPTY_MATCH = _TYPE_LENGTH.pack(1, 4) + bytes(4)


def delete_none(version: int, xid: int, cookie: int) -> bytes:
    """A flow_mod that deletes the flow of that cookie, priority 1 and an empty match in table 253.

    With a random cookie there is none.
    """
    body = _FLOW_MOD_FIXED.pack(
        cookie,
        (1 << 64) - 1,
        _LAST_TABLE,
        _DELETE_STRICT,
        0,
        0,
        _ANY_PRIORITY,
        _ANY,
        _ANY,
        _ANY,
        0,
    )
    return message(version, _FLOW_MOD, xid, body + _EMPTY_MATCH)


def barrier_request(version: int, xid: int) -> bytes:
    """Asks for BARRIER_REPLY when all messages before it have been dealt with."""
    return message(version, _BARRIER_REQUEST, xid)


# Multipart messages.


def _multipart(version: int, xid: int, kind: int, body: bytes) -> bytes:
    if version == OF10:
        return message(version, _MULTIPART_10[0], xid, _MULTIPART_HEADER.pack(kind, 0) + body)
    return message(version, _MULTIPART[0], xid, _MULTIPART_HEADER.pack(kind, 0) + bytes(4) + body)


def multipart_reply(version: int, kind: int, body: bytes) -> tuple[int, bool, int] | None:
    """What kind of reply it is, whether more follow, and where its content begins in `body`.

    None if it is no such reply at all.
    """
    if kind != (_MULTIPART_10 if version == OF10 else _MULTIPART)[1]:
        return None
    stats, flags = _MULTIPART_HEADER.unpack_from(body)
    start = 4 if version == OF10 else 8
    if stats == _STATS_EXPERIMENTER:
        vendor, subtype = _EXPERIMENTER_HEADER.unpack_from(body, start)
        if (vendor, subtype) != (_ONF, _ONF_FLOW_MONITOR):
            return None
        stats, start = FLOW_MONITOR, start + _EXPERIMENTER_HEADER.size
    return stats, bool(flags & _MORE), start


# Ports.

NO_RECEIVE = 1 << 2
NO_RECEIVE_STP = 1 << 3
NO_FORWARD = 1 << 5
"""OFPPC_NO_RECV, OFPPC10_NO_RECV_STP and OFPPC_NO_FWD in a port's config."""

_PORT_10 = Struct("!2x6x16sI20x")
_PORT_13 = Struct("!4x4x6x2x16sI28x")
_PORT_14 = Struct("!4xH2x6x2x16sI4x")


def port_desc_request(version: int, xid: int) -> bytes:
    """Asks for all ports."""
    body = _U32.pack(_ANY) + bytes(4) if version == OF15 else b""
    return _multipart(version, xid, PORT_DESC, body)


def ports(version: int, content: bytes) -> Iterator[tuple[str, int]]:
    """The name and the config of each port; the flags that OpenFlow 1.1 dropped only in 1.0."""
    if version >= OF14:
        at = 0
        while at < len(content):
            length, name, config = _PORT_14.unpack_from(content, at)
            if length < _PORT_14.size:
                raise ValueError("a port is too short")
            yield _text(name), config
            at += length
        return
    layout = _PORT_10 if version == OF10 else _PORT_13
    for name, config in layout.iter_unpack(content):
        yield _text(name), config


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode(errors="replace")


# Flows.

MODIFIES = 1
SETS_METADATA = 2
OUTPUTS = 4
REPEATS = 8
_ANYTHING = MODIFIES | SETS_METADATA | OUTPUTS | REPEATS

_MONITOR_14 = Struct("!IIIHBB")
_MONITOR_13 = Struct("!IHHIB3x")
_MATCH_ALL = bytes.fromhex("0001000400000000")
_WATCH = 1 | 2 | 4 | 8 | 16
"""Flows that are there, added, removed and modified, with their instructions."""

_UPDATE = Struct("!HHBBHHH4xQ")
_UPDATE_13 = Struct("!HHHHHHHBxQ")

# OFPFME_*; those of OpenFlow 1.3, NXFME_*, are one less.
_EVENT_INITIAL, _EVENT_ADDED, _EVENT_REMOVED, _EVENT_MODIFIED = range(4)


@dataclass(frozen=True)
class FlowUpdate:
    """A flow that is there now, or no longer; `key` tells it from the bridge's other flows."""

    key: tuple[int, int, bytes]
    traits: int
    removed: bool


def flow_monitor_request(version: int, xid: int) -> bytes:
    """Asks for all flows of all tables, and to be told what changes of them."""
    if version == OF13:
        start = _EXPERIMENTER_HEADER.pack(_ONF, _ONF_FLOW_MONITOR)
        body = _MONITOR_13.pack(xid, _WATCH, 4, _ANY, _ALL) + _MATCH_ALL
        return _multipart(version, xid, _STATS_EXPERIMENTER, start + body)
    body = _MONITOR_14.pack(xid, _ANY, _ANY, _WATCH, _ALL, 0) + _MATCH_ALL
    return _multipart(version, xid, FLOW_MONITOR, body)


def flow_updates(version: int, content: bytes) -> Iterator[FlowUpdate]:
    """The updates of flows; that OVS pauses or resumes sending them says nothing of flows."""
    at, end = 0, len(content)
    while at < end:
        length, event = _TYPE_LENGTH.unpack_from(content, at)
        if length < 8 or at + length > end:
            raise ValueError("a flow update's length is wrong")
        if version == OF13:
            event += 1
        if event <= _EVENT_MODIFIED:
            yield _flow_update(version, content, at, at + length, event == _EVENT_REMOVED)
        at += length


def _flow_update(version: int, content: bytes, at: int, end: int, removed: bool) -> FlowUpdate:
    if version == OF13:
        _, _, _, priority, _, _, _, table, _ = _UPDATE_13.unpack_from(content, at)
    else:
        _, _, table, _, _, _, priority, _ = _UPDATE.unpack_from(content, at)
    match = at + _UPDATE.size
    _, match_length = _TYPE_LENGTH.unpack_from(content, match)
    instructions = match + (match_length + 7) // 8 * 8
    if match_length < _TYPE_LENGTH.size or instructions > end:
        raise ValueError("a flow's match has a wrong length")
    traits = 0 if removed else traits_of_instructions(content[instructions:end])
    return FlowUpdate((table, priority, content[match:instructions]), traits, removed)


_GOTO_TABLE, _WRITE_METADATA, _WRITE_ACTIONS, _APPLY_ACTIONS, _CLEAR_ACTIONS, _METER = range(1, 7)
_INSTRUCTION_HEADER = 8


@lru_cache(maxsize=4096)
def traits_of_instructions(instructions: bytes) -> int:
    """What a flow's instructions do: MODIFIES, SETS_METADATA, OUTPUTS, REPEATS, or none of them."""
    traits = 0
    for kind, at, length in _elements(instructions):
        if kind in (_WRITE_ACTIONS, _APPLY_ACTIONS):
            traits |= traits_of_actions(instructions[at + _INSTRUCTION_HEADER : at + length])
        elif kind not in (_GOTO_TABLE, _WRITE_METADATA, _CLEAR_ACTIONS, _METER):
            traits |= _ANYTHING
    return traits


def _elements(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, place and length of each element."""
    at = 0
    while at < len(data):
        kind, length = _TYPE_LENGTH.unpack_from(data, at)
        if length < 8 or at + length > len(data):
            raise ValueError("an action's length is wrong")
        yield kind, at, length
        at += length


# OFPP_NORMAL forwards with the bridge's VLANs and copies once; the others leave by no port.
_NO_OUTPUT = (0xFFFFFFFA, 0xFFFFFFFD, 0xFFFFFFFF)
# OFPP_NORMAL, OFPP_FLOOD and OFPP_ALL stand for several ports, OFPP_IN_PORT for none of these.
_SEVERAL = {0xFFFFFFFA, 0xFFFFFFFB, 0xFFFFFFFC}
_IN_PORT = 0xFFFFFFF8
_NOWHERE = (0xFFFFFFFD, 0xFFFFFFFF)

_OUTPUT, _SET_FIELD, _COPY_FIELD, _VENDOR = 0, 25, 28, 0xFFFF
_PLAIN_ACTIONS = {
    # OpenFlow 1.1's, which OVS keeps to where a flow does not say whose ports they are.
    9: MODIFIES,  # set_tp_src
    10: MODIFIES,  # set_tp_dst
    11: MODIFIES,  # copy_ttl_out
    12: MODIFIES,  # copy_ttl_in
    15: MODIFIES,  # set_mpls_ttl
    16: MODIFIES,  # dec_mpls_ttl
    17: MODIFIES,  # push_vlan
    18: MODIFIES,  # pop_vlan
    19: MODIFIES,  # push_mpls
    20: MODIFIES,  # pop_mpls
    21: 0,  # set_queue
    23: MODIFIES,  # set_nw_ttl
    24: MODIFIES,  # dec_nw_ttl
    29: 0,  # meter
}
# Group and learn are missing: groups are not looked into, and learned flows come and go.
_NX_ACTIONS = {
    1: 0,  # resubmit
    2: 0,  # set_tunnel
    4: 0,  # set_queue
    5: 0,  # pop_queue
    8: 0,  # note
    9: 0,  # set_tunnel64
    12: OUTPUTS,  # bundle
    14: 0,  # resubmit(,table)
    15: OUTPUTS,  # output:NXM_NX_REG0[]
    17: 0,  # exit
    18: MODIFIES,  # dec_ttl
    19: 0,  # fin_timeout
    20: 0,  # controller
    21: MODIFIES,  # dec_ttl(id,...)
    22: 0,  # write_metadata
    27: 0,  # push
    29: 0,  # sample
    32: OUTPUTS,  # output:reg, with an OXM of any length
    34: 0,  # conjunction
    36: MODIFIES,  # nat
    37: 0,  # controller
    38: 0,  # sample
    39: MODIFIES | OUTPUTS,  # output(port=...,max_len=...)
    41: 0,  # sample
    43: 0,  # ct_clear
    44: 0,  # resubmit(,table,ct)
    46: MODIFIES,  # encap
    47: MODIFIES,  # decap
    48: MODIFIES,  # dec_nsh_ttl
    50: 0,  # delete_field, of tunnel metadata
    51: 0,  # sample
}
# Where the fields begin that these write, as OXM headers.
_NX_LOADS = {7: 12, 33: 10}  # reg_load, reg_load2
_NX_WRITES = {10: 28, 13: 24, 28: 12, 49: 14}  # multipath, bundle_load, pop, check_pkt_larger
_NX_MOVE = 6, 16
_ONF_COPY_FIELD = 3200, 20
_NX_NESTS = {35: 24, 42: 16}  # ct, clone: where the actions in them begin


def traits_of_actions(actions: bytes) -> int:
    """What actions do: MODIFIES, SETS_METADATA, OUTPUTS, REPEATS, or none of them.

    As `reset_mirror_ctx` in `ofproto/ofproto-dpif-xlate.c` has it, and beyond that, MODIFIES
    stands for all that changes the packet. REPEATS: may send it to one port more than once.
    """
    traits = 0
    outputs: list[int] = []
    for kind, at, length in _elements(actions):
        action = actions[at : at + length]
        if kind == _OUTPUT:
            (port,) = _U32.unpack_from(action, 4)
            traits |= 0 if port in _NO_OUTPUT else OUTPUTS
            if port not in _NOWHERE:
                outputs.append(port)
        elif kind == _SET_FIELD:
            traits |= _loaded(action, 4)
        elif kind == _COPY_FIELD:
            traits |= _moved(action, 12)
        elif kind == _VENDOR:
            traits |= _vendor_action(action)
        else:
            traits |= _PLAIN_ACTIONS.get(kind, _ANYTHING)
    return traits | (REPEATS if _may_repeat(outputs) else 0)


def _may_repeat(ports: list[int]) -> bool:
    """Whether outputs to these ports may send to one of them more than once."""
    others = [port for port in ports if port != _IN_PORT]
    several = len(others) > 1 and not _SEVERAL.isdisjoint(others)
    return several or len(set(ports)) < len(ports)


def _vendor_action(action: bytes) -> int:
    (vendor,) = _U32.unpack_from(action, 4)
    (subtype,) = _U16.unpack_from(action, 8) if len(action) > 8 else (None,)
    if vendor == _ONF and subtype == _ONF_COPY_FIELD[0]:
        return _moved(action, _ONF_COPY_FIELD[1])
    if vendor != _NX or subtype is None:
        return _ANYTHING
    if subtype in _NX_LOADS:
        return _loaded(action, _NX_LOADS[subtype])
    if subtype in _NX_WRITES:
        return _written(action, _NX_WRITES[subtype])
    if subtype == _NX_MOVE[0]:
        return _moved(action, _NX_MOVE[1])
    if subtype in _NX_NESTS:
        return traits_of_actions(action[_NX_NESTS[subtype] :])
    return _NX_ACTIONS.get(subtype, _ANYTHING)


_OXM = Struct("!HB")
_OXM_EXPERIMENTER = 0xFFFF


def _numbers(oxm_class: int, fields: Iterable[int]) -> set[tuple[int, int]]:
    return {(oxm_class, number) for number in fields}


# `mf_is_any_metadata` in `lib/meta-flow.c`, by class and number. Tunnel fields other than
# `tun_metadata` are none to it.
_METADATA = {
    *_numbers(0x0000, [0]),  # in_port
    *_numbers(0x0001, range(16)),  # reg0 to reg15
    *_numbers(0x0001, [33, 35, 36, 37]),  # pkt_mark, dp_hash, recirc_id, conj_id
    *_numbers(0x0001, range(40, 104)),  # tun_metadata0 to tun_metadata63
    *_numbers(0x0001, range(105, 109)),  # ct_state, ct_zone, ct_mark, ct_label
    *_numbers(0x0001, range(111, 126)),  # xxreg0 to xxreg7, and ct's original tuple
    *_numbers(0x8000, [0, 2, 44]),  # in_port, metadata, packet_type
    *_numbers(0x8001, range(128)),  # xreg0 and on
}


def _is_metadata(action: bytes, at: int) -> bool:
    oxm_class, number = _OXM.unpack_from(action, at)
    return (oxm_class, number >> 1) in _METADATA


def _loaded(action: bytes, at: int) -> int:
    """A value put into a field: `OFPACT_SET_FIELD`."""
    return SETS_METADATA if _is_metadata(action, at) else MODIFIES


def _written(action: bytes, at: int) -> int:
    """A field written otherwise: OVS itself counts that as no modification."""
    return 0 if _is_metadata(action, at) else MODIFIES


def _moved(action: bytes, at: int) -> int:
    """One field copied into another, whose header follows the first one's."""
    (source_class,) = _U16.unpack_from(action, at)
    return _written(action, at + (8 if source_class == _OXM_EXPERIMENTER else 4))
