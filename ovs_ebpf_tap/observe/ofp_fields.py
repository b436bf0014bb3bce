"""OXM and NXM fields: which of them are metadata, and what matches say of those.

The headers are those of `include/openvswitch/meta-flow.h` and `lib/nx-match.c`. What is malformed
raises ValueError or struct.error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from ovs_ebpf_tap.model.flow import (
    ETH_DST,
    ETH_GROUP,
    ETH_TYPE,
    ICMP_CODE,
    ICMP_TYPE,
    IN_PORT,
    IP_PROTO,
    METADATA,
    PKT_MARK,
    TUN_ID,
    VLAN,
    Action,
    Bits,
    Forget,
    Known,
    Load,
    Modify,
    Move,
    register,
)

_TYPE_LENGTH = Struct("!HH")
_U32 = Struct("!I")

_NXM_0, _NXM_1, _OXM, _REGISTERS, _EXPERIMENTER = 0x0000, 0x0001, 0x8000, 0x8001, 0xFFFF
_NX = 0x00002320
_ONF = 0x4F4E4600

_MATCH_OXM = 1
_HAS_MASK = 0x100


@dataclass(frozen=True, slots=True)
class Field:
    """What a field is to flows."""

    bits: Bits | None = None
    """Where it lies among the metadata; of its own bits, the lowest. None: not there."""
    packet: bool = False
    """It is the packet's own, or a part of it is."""
    everywhere: bool = False
    """Every packet has it. OVS sets a field only in packets that have it (`mf_are_prereqs_ok` in
    `lib/meta-flow.c`, 3.1.0)."""
    by_type: bool = False
    """Every packet of its `dl_type` has it; later fragments lack ports, for example."""

    def change(self, *, typed: bool) -> Modify:
        """The change that setting it makes; `typed`: the flow matches a `dl_type`."""
        return Modify(self.everywhere or (self.by_type and typed))


_NXM_IN_PORT = Field(IN_PORT)
"""16 bits wide, while port numbers on the wire have 32."""
_OF_PACKET = Field(packet=True)
_OF_STATION = Field(packet=True, everywhere=True)
_OF_TYPE = Field(packet=True, by_type=True)
_UNTRACKED = Field()


def _tracked() -> Iterator[tuple[int, int, int, Field]]:
    """Class, number, bytes and field."""
    yield _NXM_0, 0, 2, _NXM_IN_PORT
    yield _OXM, 0, 4, Field(IN_PORT)
    yield _OXM, 2, 8, Field(METADATA)
    yield _NXM_1, 16, 8, Field(TUN_ID)
    yield _OXM, 38, 8, Field(TUN_ID)
    yield _NXM_1, 33, 4, Field(PKT_MARK)
    # The bit of `vlan_tci` that is called CFI says, as OFPVID_PRESENT of `vlan_vid`, that there is
    # a tag; its priority, above that, is of the packet alone.
    yield _NXM_0, 4, 2, Field(VLAN, packet=True, everywhere=True)
    yield _OXM, 6, 2, Field(VLAN, packet=True, everywhere=True)
    for number in range(16):
        yield _NXM_1, number, 4, Field(register(number))
    for number in range(8):
        yield _REGISTERS, number, 8, Field(register(number, words=2))
    for number in range(4):
        yield _NXM_1, 111 + number, 16, Field(register(number, words=4))


def _untracked() -> Iterator[tuple[int, int]]:
    """Class and number of other metadata: `mf_is_any_metadata` in `lib/meta-flow.c`, and tunnels.

    What is set of a tunnel becomes a part of outer headers, later.
    """
    for number in (31, 32, *range(35, 105), *range(105, 111), *range(115, 126)):
        # tun_src, tun_dst; dp_hash, recirc_id, conj_id, tun_gbp_*, tun_metadata0 to 63, tun_flags;
        # ct_*, tun_ipv6_*; xxreg4 to xxreg7, and ct's original tuple.
        yield _NXM_1, number
    for number in (43, 44):  # actset_output, packet_type
        yield _OXM, number
    for number in range(8, 128):  # Registers above reg15.
        yield _REGISTERS, number


def _of_packet() -> Iterator[tuple[int, Sequence[int], Field]]:
    """Class and numbers of fields that the packet has, if it is of their type."""
    yield _NXM_0, (1, 2), _OF_STATION
    yield _OXM, (3, 4), _OF_STATION
    # IP's, ARP's, IPv6's and MPLS's.
    yield _NXM_0, (5, 7, 8, 15, 16, 17), _OF_TYPE
    yield _NXM_1, (17, 18, 19, 20, 27, 28, 29), _OF_TYPE
    yield _OXM, (8, 9, 11, 12, *range(21, 29), 34, 35, 36), _OF_TYPE


# By class and number, as the upper 23 bits of a header have them.
_FIELDS: dict[int, Field] = {
    **{each << 7 | number: field for each, some, field in _of_packet() for number in some},
    **{oxm_class << 7 | number: _UNTRACKED for oxm_class, number in _untracked()},
    **{oxm_class << 7 | number: field for oxm_class, number, _, field in _tracked()},
}

# By number. Nicira's: dp_hash, tunnels' ERSPAN and GTP-U, registers above reg15; ONF's:
# actset_output.
_EXPERIMENTERS_METADATA = {_NX: {0, *range(11, 37)}, _ONF: {43}}


class Header(NamedTuple):
    """A field's header, as it lies in an action."""

    field: Field
    payload: int
    """Where the value begins, or the next header if there is no value."""
    length: int
    """Bytes of the value, and of the mask."""
    masked: bool


def header(data: bytes, at: int) -> Header:
    """The header that begins there."""
    (head,) = _U32.unpack_from(data, at)
    length = head & 0xFF
    if head >> 16 != _EXPERIMENTER:
        field = _FIELDS.get(head >> 9, _OF_PACKET)
        return Header(field, at + 4, length, bool(head & _HAS_MASK))
    (vendor,) = _U32.unpack_from(data, at + 4)
    metadata = (head >> 9 & 0x7F) in _EXPERIMENTERS_METADATA.get(vendor, ())
    field = _UNTRACKED if metadata else _OF_PACKET
    return Header(field, at + 8, max(length - 4, 0), bool(head & _HAS_MASK))


def value(data: bytes, at: int) -> tuple[Field, int, int]:
    """The field whose header begins there, its value, and its mask."""
    head = header(data, at)
    size = head.length // 2 if head.masked else head.length
    end = head.payload + head.length
    if end > len(data):
        raise ValueError("a field's value is too long")
    read = int.from_bytes(data[head.payload : head.payload + size])
    if not head.masked:
        return head.field, read, (1 << 8 * size) - 1
    return head.field, read, int.from_bytes(data[head.payload + size : end])


# Matches.


def _matched() -> Iterator[tuple[int, tuple[int, int]]]:
    """Header of 32 bits, and where its field lies: its offset, and a mask for its value."""
    for oxm_class, number, size, field in _tracked():
        assert field.bits is not None
        at = field.bits.offset, (1 << min(field.bits.width, 8 * size)) - 1
        yield oxm_class << 16 | number << 9 | size, at
        if field.bits is not IN_PORT:
            yield oxm_class << 16 | number << 9 | _HAS_MASK | 2 * size, at


def _kinds() -> Iterator[tuple[int, tuple[int, int]]]:
    """The same of fields that say what kind of packet it is, where they are matched as a whole."""
    for number, size, bits in (
        (5, 2, ETH_TYPE),
        (10, 1, IP_PROTO),
        (19, 1, ICMP_TYPE),
        (20, 1, ICMP_CODE),
        (29, 1, ICMP_TYPE),
        (30, 1, ICMP_CODE),
    ):
        yield _OXM << 16 | number << 9 | size, (bits.offset, (1 << bits.width) - 1)


_ETH_DST = {each << 16 | number << 9 | 6 for each, number in ((_OXM, 3), (_NXM_0, 1))}
_ETH_DST_MASKED = {head - 6 | _HAS_MASK | 12 for head in _ETH_DST}
_MATCHED = {**dict(_matched()), **dict(_kinds())}
_NXM_IN_PORT_HEADER = 2


class Match(NamedTuple):
    """What a flow's match says of the metadata and of the kind of packet."""

    known: Known
    exact: bool
    """Whether it says nothing else."""


def match_of(match: bytes) -> Match:
    """Reads a flow's match, with its type and length in front."""
    kind, end = _TYPE_LENGTH.unpack_from(match)
    if kind != _MATCH_OXM or end > len(match):
        raise ValueError("a flow's match is of another type, or too long")
    known = mask = 0
    exact = True
    at = 4
    while at < end:
        head = int.from_bytes(match[at : at + 4])
        start = at + 4
        at = start + (head & 0xFF)
        if head in _MATCHED:
            offset, of_field = _MATCHED[head]
            if head & _HAS_MASK:
                middle = (start + at) // 2
                of_field &= int.from_bytes(match[middle:at])
                known |= (int.from_bytes(match[start:middle]) & of_field) << offset
            elif head == _NXM_IN_PORT_HEADER:
                of_field = IN_PORT.mask >> offset
                known |= widened(int.from_bytes(match[start:at])) << offset
            else:
                known |= (int.from_bytes(match[start:at]) & of_field) << offset
            mask |= of_field << offset
        else:
            station = _station(head, match[start:at])
            known |= station.value
            mask |= station.mask
            exact = exact and station.mask & ETH_DST.mask == ETH_DST.mask
    if at != end:
        raise ValueError("a flow's match ends within a field")
    return Match(Known(known, mask), exact)


def _station(head: int, content: bytes) -> Known:
    """What a match of the destination's address says of it; nothing, if it is one of another."""
    if head in _ETH_DST:
        group = Known.of(ETH_GROUP, content[0] & 1)
        return group.both(Known.of(ETH_DST, int.from_bytes(content)))
    if head in _ETH_DST_MASKED and content[6] & 1:
        return Known.of(ETH_GROUP, content[0] & 1)
    return Known()


def widened(port: int) -> int:
    """A port's number of 16 bits as one of 32: those from 0xff00 on are OFPP_*."""
    return port | 0xFFFF0000 if 0xFF00 <= port <= 0xFFFF else port


# What flows write.


def overwritten(before: Known, by: Known) -> Known:
    """What is known once the bits of `by` are written."""
    return Known(before.value & ~by.mask | by.value, before.mask | by.mask)


@dataclass(frozen=True, slots=True)
class Part:
    """Some bits of a field, from the bit `start` on."""

    field: Field
    start: int
    width: int

    @property
    def tracked(self) -> Bits | None:
        """Where they lie among the metadata, if all of them do."""
        bits = self.field.bits
        if bits is None or self.start + self.width > bits.width:
            return None
        return Bits(bits.offset + self.start, self.width)

    @property
    def mask(self) -> int:
        """Those of them that lie among the metadata."""
        bits = self.field.bits
        if bits is None:
            return 0
        return (1 << self.width) - 1 << bits.offset + self.start & bits.mask


def load(field: Field, value: int, mask: int, *, typed: bool) -> Iterator[Action]:
    """Writes those bits of a value that are in a mask; `typed` as of `Field.change`."""
    if field.packet:
        yield field.change(typed=typed)
    if field.bits is IN_PORT:
        if mask & 0xFFFF == 0xFFFF:
            yield Load(Known.of(IN_PORT, widened(value)))
        elif mask:
            yield Forget(IN_PORT.mask)
    elif field.bits is not None:
        known = Known.of(field.bits, value, mask)
        if known.mask:
            yield Load(known)


def forget(part: Part) -> Iterator[Action]:
    """Writes a value that is not known; it may be the one that was there.

    OVS does not take a copy from another field for a change: `reset_mirror_ctx` in
    `ofproto/ofproto-dpif-xlate.c` (3.5.0).
    """
    if part.field.packet:
        yield Modify(always=False)
    # A part of a port's number, with 16 bits, may decide about the upper ones, too.
    mask = IN_PORT.mask if part.field.bits is IN_PORT else part.mask
    if mask:
        yield Forget(mask)


def move(source: Part, destination: Part) -> Iterator[Action]:
    """Copies bits; both parts have the same width."""
    read, written = source.tracked, destination.tracked
    if read is None or written is None or destination.field.bits is IN_PORT:
        yield from forget(destination)
        return
    if destination.field.packet:
        yield Modify(always=False)
    yield Move(read, written)
