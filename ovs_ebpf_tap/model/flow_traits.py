"""What a bridge's flows and ports do to packets, as far as mirrors are concerned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from ovs_ebpf_tap.model.flow import FlowName, Known
from ovs_ebpf_tap.model.tunnel import GeneveOption


class FollowedPort(NamedTuple):
    """A port that flows are followed back from."""

    reserved: bool
    """Whether it is reserved for a mirror's output."""
    vlans: bool
    """Whether ports of its bridge have VLAN settings."""
    two_tags: bool = False
    """Whether OVS looks at a second tag: `vlan-limit`."""
    looped: bool = False
    """Whether patch ports lead back to its bridge."""
    patches: tuple[int, ...] = ()
    """The patch ports of its bridge. What arrives there may have a second tag that OVS knows: flows
    of the other bridge have put the first one on."""


@dataclass(frozen=True)
class PortPaths:
    """How packets may come to leave through a port."""

    repeats: FlowName | None = None
    """A flow that may send it a packet twice in one form."""
    numbered: FlowName | None = None
    """A flow that sends to it otherwise than by NORMAL, so that no VLAN is translated."""
    origins: frozenset[Known] | None = None
    """The port and the VLAN with which packets may have arrived that leave that way; None if VLANs
    do not matter."""
    tagged_origins: frozenset[Known] | None = None
    """Those of packets that may have a VLAN tag when they leave that way."""
    undecided: bool = False
    """There are too many flows to follow."""


@dataclass(frozen=True)
class FlowTraits:
    """What some flow of a bridge does to packets, whether or not packets reach it."""

    modifies: bool = False
    """Changes the packet."""
    outputs: bool = False
    """Sends to ports otherwise than with NORMAL: no VLAN is translated on the way."""
    normal: bool = True
    """Sends to ports with NORMAL."""
    strips: bool = False
    """Takes a VLAN tag off, behind which there may be another."""
    ports: Mapping[int, PortPaths] = field(default_factory=dict)
    """By OpenFlow number: the ports that leaving packets are mirrored of."""


UNKNOWN = FlowTraits(modifies=True, outputs=True, strips=True)
"""Of flow tables too large to be looked at; those of ports have to be added."""


@dataclass(frozen=True)
class PortFlags:
    """Names of ports with the flags that `ovs-ofctl mod-port` sets, and what all ports take."""

    no_receive: frozenset[str] = frozenset()
    """Ports where OVS drops what arrives, uncopied, except STP frames (`may_receive`)."""
    no_receive_stp: frozenset[str] = frozenset()
    """Ports where OVS drops STP frames that arrive, uncopied."""
    no_forward: frozenset[str] = frozenset()
    """Ports that OVS sends nothing to, mirrors' copies neither (`compose_output_action__`)."""
    geneve_options: frozenset[GeneveOption] | None = frozenset()
    """The options that the bridge knows: OVS drops what arrives with another critical one. None:
    they are not known."""


UNKNOWN_FLAGS = PortFlags(geneve_options=None)
"""Of a bridge that does not answer, or not yet."""


@dataclass(frozen=True)
class OpenFlow:
    """What bridges' OpenFlow tells, by their names."""

    traits: Mapping[str, FlowTraits] = field(default_factory=dict)
    port_flags: Mapping[str, PortFlags] = field(default_factory=dict)
    examined: frozenset[UUID] = frozenset()
    """The ports that flows were followed back from when bridges were last asked."""
