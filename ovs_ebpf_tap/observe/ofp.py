"""OpenFlow messages as bytes, and what they say of flows and ports. Pure functions.

The formats are those of `include/openflow/*.h` and `lib/ofp-monitor.c`. What is malformed raises
ValueError or struct.error.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from ovs_ebpf_tap.model.flow import ETH_DST, ETH_TYPE, Flow, Output, OutputField
from ovs_ebpf_tap.model.tunnel import GeneveOption
from ovs_ebpf_tap.observe.ofp_fields import match_of
from ovs_ebpf_tap.observe.ofp_pipeline import instructions_of

OF10, OF13, OF14, OF15 = 0x01, 0x04, 0x05, 0x06

HELLO = 0
ERROR = 1
ECHO_REQUEST = 2
ECHO_REPLY = 3
BARRIER_REPLY = 21
_BARRIER_REQUEST = 20
_FLOW_MOD = 14
_SET_ASYNC = 28
_REQUESTFORWARD = 32
EXPERIMENTER = 4
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

GROUP_DESC = 7
PORT_DESC = 13
FLOW_MONITOR = 16
"""Kinds of multipart messages."""

_STATS_EXPERIMENTER = 0xFFFF
_ONF_FLOW_MONITOR = 1870
_ONF_REQUESTFORWARD = 2350
_NX_SET_CONTROLLER_ID = 20
_NX_TLV_TABLE_REQUEST = 25
_NX_TLV_TABLE_REPLY = 26
_NX_SET_ASYNC_CONFIG2 = 27
_MORE = 1

_ALL = 0xFF
_ANY = 0xFFFFFFFF
_ALL_GROUPS = 0xFFFFFFFC


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
    return message(OF10, EXPERIMENTER, xid, body)


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


# Groups.

_ASYNC_PROPERTY = Struct("!HHI")
_PRIMARY_PROPERTIES = 1, 3, 5, 7, 9, 11
"""Asynchronous messages to a connection: packets, ports, flows removed, roles, tables, and requests
of other connections."""
_OF_REQUESTS = 11
_GROUP_MODS = 1 << 0


def group_desc_request(version: int, xid: int) -> bytes:
    """Asks for all groups."""
    body = _U32.pack(_ALL_GROUPS) + bytes(4) if version == OF15 else b""
    return _multipart(version, xid, GROUP_DESC, body)


def set_async(version: int, xid: int) -> bytes:
    """Asks to be told of each change of a group by others, and of nothing else but flows.

    `handle_nxt_set_async_config` in `ofproto/ofproto.c` (3.1.0).
    """
    body = b"".join(
        _ASYNC_PROPERTY.pack(each, _ASYNC_PROPERTY.size, _GROUP_MODS * (each == _OF_REQUESTS))
        for each in _PRIMARY_PROPERTIES
    )
    if version == OF13:
        header = _EXPERIMENTER_HEADER.pack(_NX, _NX_SET_ASYNC_CONFIG2)
        return message(version, EXPERIMENTER, xid, header + body)
    return message(version, _SET_ASYNC, xid, body)


def is_request_of_others(version: int, kind: int, body: bytes) -> bool:
    """Whether a message tells of a request of another connection."""
    if version == OF13 and kind == EXPERIMENTER:
        return _EXPERIMENTER_HEADER.unpack_from(body) == (_ONF, _ONF_REQUESTFORWARD)
    return kind == _REQUESTFORWARD


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


# Geneve options.

_TLV_TABLE_FIXED = 16
_TLV_MAP = Struct("!HBB4x")


def tlv_table_request(version: int, xid: int) -> bytes:
    """Asks for the Geneve options that the bridge knows."""
    return message(
        version, EXPERIMENTER, xid, _EXPERIMENTER_HEADER.pack(_NX, _NX_TLV_TABLE_REQUEST)
    )


def tlv_table(body: bytes) -> frozenset[GeneveOption] | None:
    """What an experimenter's message tells of them; None if it is about something else."""
    if _EXPERIMENTER_HEADER.unpack_from(body) != (_NX, _NX_TLV_TABLE_REPLY):
        return None
    maps = body[_EXPERIMENTER_HEADER.size + _TLV_TABLE_FIXED :]
    return frozenset(GeneveOption(*fields) for fields in _TLV_MAP.iter_unpack(maps))


# Flows.

_MONITOR_14 = Struct("!IIIHBB")
_MONITOR_13 = Struct("!IHHIB3x")
_MATCH_ALL = bytes.fromhex("0001000400000000")
_WATCH = 1 | 2 | 4 | 8 | 16
"""Flows that are there, added, removed and modified, with their instructions."""

_UPDATE = Struct("!HHBBHHH4xQ")
_UPDATE_13 = Struct("!HHHHHHHBxQ")

# OFPFME_*; those of OpenFlow 1.3, NXFME_*, are one less.
_EVENT_INITIAL, _EVENT_ADDED, _EVENT_REMOVED, _EVENT_MODIFIED = range(4)


class Does(NamedTuple):
    """What a flow does."""

    flows: tuple[Flow, ...]
    """Itself and the flows that it may add, as `Flow` has it."""
    groups: frozenset[int]
    """The groups that it uses."""


class FlowUpdate(NamedTuple):
    """A flow that is there now, or no longer."""

    key: tuple[int, int, bytes]
    """Table, priority and match: no other flow of the bridge has the same."""
    cookie: int
    does: Does | None
    """None: it is there no longer."""


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
        _, _, _, priority, _, _, _, table, cookie = _UPDATE_13.unpack_from(content, at)
    else:
        _, _, table, _, _, _, priority, cookie = _UPDATE.unpack_from(content, at)
    start = at + _UPDATE.size
    _, match_length = _TYPE_LENGTH.unpack_from(content, start)
    middle = start + (match_length + 7) // 8 * 8
    if match_length < _TYPE_LENGTH.size or middle > end:
        raise ValueError("a flow's match has a wrong length")
    match = content[start:middle]
    key = table, priority, match
    if removed:
        return FlowUpdate(key, cookie, None)
    instructions = content[middle:end]
    known, exact = match_of(match)
    typed = known.mask & ETH_TYPE.mask == ETH_TYPE.mask
    parsed = instructions_of(table, instructions, typed=typed)
    own: tuple[Flow, ...] = ()
    exact = exact and not parsed.partial
    if known.mask & ETH_DST.mask and any(
        isinstance(each, Output | OutputField) for each in parsed.actions
    ):
        exact = False
        known = known.only(~ETH_DST.mask)
    if parsed.actions or exact:
        own = (Flow(table, known, parsed.actions, priority, exact),)
    return FlowUpdate(key, cookie, Does(own + parsed.learned, parsed.groups))
