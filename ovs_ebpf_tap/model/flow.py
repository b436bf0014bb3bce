"""Flows and groups of a bridge, as far as they decide where packets leave, and in which form.

Of a packet's own headers a flow says only whether it changes them, and which VLAN tag it takes off
or puts on. Of the metadata that flows hand to each other it says what it matches, and what it
writes: the fields lie one behind the other in one integer, so that a comparison of all of them is
one operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

VLAN_PRESENT = 0x1000
"""In the field VLAN: the packet has a tag; the lower 12 bits are its VLAN, as OpenFlow's
`vlan_vid` has them."""


@dataclass(frozen=True, slots=True)
class Bits:
    """A field, or a part of one: where it lies among the metadata, and how wide it is."""

    offset: int
    width: int
    mask: int = field(init=False, repr=False, compare=False)
    """Its bits."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", (1 << self.width) - 1 << self.offset)


def register(number: int, *, words: int = 1) -> Bits:
    """`reg0` to `reg15`; `xreg0` and on with two words, `xxreg0` and on with four.

    The first register of a wide one has its most significant bits.
    """
    return Bits((16 - words * (number + 1)) * 32, 32 * words)


METADATA = Bits(512, 64)
TUN_ID = Bits(576, 64)
PKT_MARK = Bits(640, 32)
IN_PORT = Bits(672, 32)
VLAN = Bits(704, 13)
SECOND_VLAN = Bits(717, 13)
"""The tag behind it, as VLAN."""
_STACK = 736
"""Where what actions have pushed lies, up to eight fields of 128 bits."""
STACK_DEPTH = 8
METADATA_MASK = (1 << _STACK + 128 * STACK_DEPTH) - 1
"""All of these."""

ETH_TYPE = Bits(1760, 16)
IP_PROTO = Bits(1776, 8)
ICMP_TYPE = Bits(1784, 8)
ICMP_CODE = Bits(1792, 8)
"""Of the packet itself: what kind it is."""
ETH_GROUP = Bits(1800, 1)
"""Whether it is for more than one station: the first bit of the destination's address."""
ETH_DST = Bits(1801, 48)
"""Which station it is for. Flows that send to ports leave that out, so that those for many stations
are one."""


def pushed(depth: int, width: int) -> Bits:
    """Where a field lies that is the one of that depth on the stack."""
    return Bits(_STACK + 128 * depth, width)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the metadata: the bits of `mask` are those of `value`, others may be any."""

    value: int = 0
    mask: int = 0

    @classmethod
    def of(cls, bits: Bits, value: int, mask: int | None = None) -> Known:
        """One field with a value, or with those bits of one that are in a mask."""
        here = bits.mask if mask is None else mask << bits.offset & bits.mask
        return cls(value << bits.offset & here, here)

    def meets(self, other: Known) -> bool:
        """Whether metadata can be as both say."""
        return not (self.value ^ other.value) & self.mask & other.mask

    def implies(self, other: Known) -> bool:
        """Whether all that the other says is known."""
        return other.mask & ~self.mask == 0 and self.meets(other)

    def only(self, mask: int) -> Known:
        """What is known of these bits."""
        return Known(self.value & mask, self.mask & mask)

    def moved(self, source: Bits, destination: Bits) -> Known:
        """What is known of a field, as that of another of the same width."""
        here = self.only(source.mask)
        value, mask = here.value >> source.offset, here.mask >> source.offset
        return Known(value << destination.offset, mask << destination.offset)

    def both(self, other: Known) -> Known:
        """What the two say together; they have to meet."""
        return Known(self.value | other.value, self.mask | other.mask)


@dataclass(frozen=True, slots=True)
class Output:
    """To a port, by its OpenFlow number; ANY_PORT to one that is not to be seen here."""

    port: int


ANY_PORT = -1
IN_PORT_PORT = 0xFFFFFFF8
TABLE = 0xFFFFFFF9
NORMAL = 0xFFFFFFFA
FLOOD = 0xFFFFFFFB
ALL_PORTS = 0xFFFFFFFC
LOCAL = 0xFFFFFFFE
"""OFPP_*; outputs to a controller and to no port are left out of flows. An output to TABLE is a
lookup in the first table; only a field may name it."""


@dataclass(frozen=True, slots=True)
class OutputField:
    """To the port whose number is in a field."""

    source: Bits

    def naming(self, port: int) -> Known:
        """What the field is for that port: of its number, OVS reads 16 bits
        (`xlate_output_reg_action` in `ofproto/ofproto-dpif-xlate.c`)."""
        return Known.of(self.source, port & 0xFFFF)


@dataclass(frozen=True, slots=True)
class Load:
    """Writes constants to metadata."""

    known: Known


@dataclass(frozen=True, slots=True)
class Move:
    """Copies metadata to metadata, of the same width."""

    source: Bits
    destination: Bits


@dataclass(frozen=True, slots=True)
class Forget:
    """Writes to metadata what is not to be seen here."""

    mask: int


@dataclass(frozen=True, slots=True)
class Modify:
    """Changes the packet itself."""

    always: bool = True
    """Not, where it depends on more than the flow: `ct(nat)`, taking a tag off that need not be
    there, and what is not known here. To set a field to what it is counts as a change."""


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Looks the packet up in a table, and comes back: `resubmit`, `goto_table`, `ct(table=)`."""

    table: int
    other_port: bool = False
    """Whether flows of the table are matched with another `in_port` than the packet's."""


@dataclass(frozen=True, slots=True)
class ToGroup:
    """Executes a group."""

    group: int


@dataclass(frozen=True, slots=True)
class Clone:
    """Does something to a copy of the packet."""

    actions: Actions


@dataclass(frozen=True, slots=True)
class Write:
    """Sends the packet when all tables are done, as it is then: `write_actions`."""

    final: Output | ToGroup
    changes: bool
    """Whether it is changed before."""


Action = Output | OutputField | Load | Move | Forget | Modify | Resubmit | ToGroup | Clone | Write
Actions = tuple[Action, ...]


def outputs_of(actions: Actions) -> Iterator[int]:
    """The ports that actions name in outputs, as `Output.port`."""
    for action in actions:
        if isinstance(action, Output):
            yield action.port
        elif isinstance(action, Clone):
            yield from outputs_of(action.actions)


def names_twice(actions: Actions) -> bool:
    """Whether actions name some port in two outputs."""
    outputs = list(outputs_of(actions)) if len(actions) > 1 else ()
    return len(outputs) != len(set(outputs))


@dataclass(frozen=True, slots=True)
class Flow:
    """Flows of a table that match the same metadata, and do the same as far as it is told here.

    A flow that learns others is told twice: as itself, and as the flows that it may add, if these
    have outputs or change packets.
    """

    table: int
    match: Known
    actions: Actions
    priority: int = 0
    exact: bool = False
    """Whether it matches nothing else. Only such flows are told that drop packets: those of lower
    priority do not see what they match."""


@dataclass(frozen=True, slots=True, order=True)
class FlowName:
    """Where an operator finds a flow."""

    table: int
    priority: int
    cookie: int

    def __str__(self) -> str:
        cookie = f",cookie={self.cookie:#x}" if self.cookie else ""
        return f"flow table={self.table},priority={self.priority}{cookie}"


@dataclass(frozen=True, slots=True)
class Group:
    """What a group does: all of its buckets, each to a copy of the packet, or one of them."""

    buckets: tuple[Actions, ...]
    every: bool = True

    @property
    def names_twice(self) -> bool:
        """Whether what it does to one packet names some port in two outputs."""
        if self.every:
            return names_twice(tuple(map(Clone, self.buckets)))
        return any(map(names_twice, self.buckets))


@dataclass(frozen=True)
class Pipeline:
    """A bridge's flows and groups as they were at one moment."""

    flows: Mapping[Flow, FlowName] = field(default_factory=dict)
    """With the name of one of the flows that it stands for."""
    groups: Mapping[int, Group] = field(default_factory=dict)
    """By number."""

    def __iter__(self) -> Iterator[Flow]:
        return iter(self.flows)
