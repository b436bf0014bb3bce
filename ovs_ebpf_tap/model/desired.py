"""What is desired of the kernel, as plain data: hooks with their rules, and a decision a mirror."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple
from uuid import UUID

from ovs_ebpf_tap.model.frame_rewrite import ACCESS, ALL, KEEP, FrameRewrite
from ovs_ebpf_tap.model.match import Match
from ovs_ebpf_tap.model.rows import PARKED_VLANS, SELECT_VLAN_KEY, STATE_KEY
from ovs_ebpf_tap.model.tunnel import GeneveOption, Tunnel
from ovs_ebpf_tap.util.text import printable

INGRESS = "ingress"
EGRESS = "egress"

PRIORITY = 0xA7A0
"""The preference of the sidecar's filters."""
UNTAG_PRIORITY = PRIORITY + 1
"""The preference of filters that take copy tags off, behind those."""
PRIORITIES = (PRIORITY, UNTAG_PRIORITY)

OFFLOADED = "offloaded"
NATIVE = "native"
INVALID = "invalid"

VLAN_GROUP = 1 << 31
"""In the number of a group: it is an output VLAN, not the ifindex of an output port's device."""

NO_CUTTER = 0
"""Among devices that take no hook, by ifindex, of which none is 0: there can be no cutter."""

TCX = "tcx"
CLSACT = "clsact"


def keys_agree(external_ids: Mapping[str, str]) -> bool:
    """Whether a Mirror row keeps the user's `select_vlan` if, and only if, its state is offloaded.

    While it moves between Open vSwitch and the hooks, it may not.
    """
    return (SELECT_VLAN_KEY in external_ids) == (external_ids.get(STATE_KEY) == OFFLOADED)


class Hook(NamedTuple):
    """The ingress or egress TC hook of a device, or of one tunnel port among those it carries."""

    ifindex: int
    direction: str
    tunnel: Tunnel | None = None

    @property
    def of_device(self) -> Hook:
        """The device's hook, which a tunnel port's is part of."""
        return Hook(self.ifindex, self.direction)

    @property
    def number(self) -> int:
        """What programs count departures by: of the port."""
        return self.ifindex if self.tunnel is None else self.tunnel.port


@dataclass(frozen=True)
class VlanIngressPolicy:
    """Which frames a hook's port admits, and which VLAN they are in there."""

    mode: int
    tag: int
    admitted: int = ALL
    max_len: int = 0
    """The longest frame, in bytes, that OVS takes in; 0: any."""
    geneve_options: frozenset[GeneveOption] | None = None
    """Those that the bridge of a Geneve port knows; None: frames with any options are taken in."""


@dataclass(frozen=True)
class Rule:
    """A copy that a hook makes."""

    mirror: UUID
    output: int
    group: int
    """What a packet is copied to once: an output port or VLAN."""
    selection: int
    """A number that the rules of a group share which copy the same packets to several outputs."""
    arrival: bool
    rewrite: FrameRewrite
    to_ingress: bool = False
    dedup: bool = False
    """Whether another hook may see the same packet, and it is copied to the group only once."""
    to_hook: bool = False
    """The output device has a hook too, which passes this copy over."""
    counted: bool = True
    """Whether it counts the packet for its mirror; of several outputs, one does."""
    unreserved: bool = False
    """What is sent to the addresses of link protocols is left out."""
    vlans: int | None = None
    """The VLANs that are copied; None for all."""
    match: Match | None = None
    """The frames that are copied; None for all."""
    ingress_policy: VlanIngressPolicy | None = None
    """The hook's, the same for all its rules; None if it admits all."""

    @property
    def to_vlan(self) -> bool:
        """Whether it is one of the ports of an output VLAN that is copied to."""
        return bool(self.group & VLAN_GROUP)

    @property
    def copies_untagged(self) -> bool | None:
        """Whether it copies any frame without a tag, and changes none here; None: it depends."""
        ingress_policy = self.ingress_policy or VlanIngressPolicy(KEEP, 0)
        if ingress_policy.mode not in (KEEP, ACCESS):
            return None
        vlan = 0 if ingress_policy.mode == KEEP else ingress_policy.tag
        selected = ALL if self.vlans is None else self.vlans
        if not ingress_policy.admitted & 1 or not selected >> vlan & 1 or vlan in PARKED_VLANS:
            return False
        changed = self.rewrite_here and not self.rewrite.only_tagged
        if changed or self.match is not None or self.dedup or self.unreserved:
            return None
        return True

    @property
    def rewrite_here(self) -> bool:
        """Whether the rewrite is made before the copy is: its output's hook can't."""
        return self.to_ingress or self.rewrite.plain

    @cached_property
    def finishing_hook(self) -> Hook | None:
        """The hook of the output device that makes the rewrite."""
        return None if self.rewrite_here else Hook(self.output, EGRESS)


@dataclass(frozen=True)
class OffloadDecision:
    """Who copies a mirror's packets; `reason` says why not eBPF, or why nobody has to."""

    state: str
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is desired: a decision for each mirror that a bridge refers to, and the rules."""

    decisions: Mapping[UUID, OffloadDecision] = field(default_factory=dict)
    hooks: Mapping[Hook, tuple[Rule, ...]] = field(default_factory=dict)

    @cached_property
    def offloaded(self) -> int:
        """How many mirrors are offloaded."""
        return sum(decision.state == OFFLOADED for decision in self.decisions.values())


OFFLOAD = OffloadDecision(OFFLOADED)

NOTHING_SELECTED = OffloadDecision(OFFLOADED, "selects no port")


class NotOffloadedError(Exception):
    """Why a mirror stays with OVS, or is refused by it."""

    def __init__(self, reason: str, state: str = NATIVE) -> None:
        super().__init__(reason)
        self.decision = OffloadDecision(state, printable(reason))
