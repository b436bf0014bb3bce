"""VLANs as OVS's bridges see them: which a port admits, and what a copy's tags become.

A frame's tags and the VLAN that its packet is in are two things; a port's settings translate one
into the other. See `bundle_set` in `ofproto/ofproto-dpif.c` for the settings, and in
`ofproto/ofproto-dpif-xlate.c` `input_vid_is_valid`, `xvlan_input_translate`,
`xvlan_output_translate`, `xbundle_includes_vlan` and `mirror_packet`.

Sets of VLANs are integers: bit `v` says whether VLAN `v` is in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from ovs_ebpf_tap.model.frame_rewrite import (
    ACCESS,
    ALL,
    FORCED,
    KEEP,
    NATIVE,
    PRIORITY_ALWAYS,
    PRIORITY_IF_NONZERO,
    PRIORITY_NEVER,
    TUNNEL,
    FrameRewrite,
    vlan_set,
)
from ovs_ebpf_tap.model.match import Match
from ovs_ebpf_tap.model.rows import PARKED_VLANS, Port

_PRIORITIES = {
    "if-nonzero": PRIORITY_IF_NONZERO,
    "true": PRIORITY_IF_NONZERO,
    "always": PRIORITY_ALWAYS,
}
_TPID_8021Q = 0x8100
_TPID_8021AD = 0x88A8


@dataclass(frozen=True)
class PortVlans:
    """A port's VLAN settings as OVS takes them."""

    mode: int = KEEP
    tag: int = 0
    trunks: int = ALL
    """VLANs that the port carries; those of an access or tunnel port's payload."""
    tags_native: bool = False
    """Whether the port's own VLAN is sent with a tag."""
    tpid: int = _TPID_8021Q
    priority: int = PRIORITY_NEVER

    @classmethod
    def of(cls, port: Port) -> Self:
        """The settings of a port; what OVS ignores is left out."""
        mode = port.vlan_mode or ("access" if port.tag is not None else "trunk")
        tag = port.tag or 0
        priority = _PRIORITIES.get(port.priority_tags or "", PRIORITY_NEVER)
        trunks = vlan_set(port.trunks)
        if mode == "access":
            return cls(ACCESS, tag, priority=priority)
        if mode == "dot1q-tunnel":
            tpid = _TPID_8021Q if port.qinq_ethtype == "802.1q" else _TPID_8021AD
            return cls(TUNNEL, tag, vlan_set(port.cvlans), tpid=tpid, priority=priority)
        if mode in ("native-tagged", "native-untagged"):
            if tag:
                # The native VLAN is carried, untagged frames are in no other.
                trunks = (trunks | 1 << tag) & ~1
            return cls(NATIVE, tag, trunks, mode == "native-tagged", priority=priority)
        return cls(trunks=trunks, priority=priority)

    @property
    def plain(self) -> bool:
        """Whether all frames are admitted, and a packet's VLAN is its tag's."""
        return self.mode == KEEP and self.trunks == ALL

    @property
    def admitted(self) -> int:
        """The VLANs that arriving frames may be tagged with; 0 is for those without a tag."""
        if self.mode == ACCESS:
            return 1
        if self.mode == NATIVE:
            return self.trunks | 1
        return self.trunks

    @property
    def inside(self) -> int:
        """The VLANs that packets of the port are in."""
        if self.mode in (ACCESS, TUNNEL, FORCED):
            return 1 << self.tag
        return self.trunks | 1 << self.tag if self.mode == NATIVE else self.trunks

    @property
    def leaving(self) -> Self:
        """The settings for frames that have left through the port, not in a VLAN that it lacks.

        An access port has taken off the tags that OVS looked at: those left are payload. A
        native-untagged port may have, and what was a second tag is taken for the first.
        """
        if self.mode == ACCESS:
            return replace(self, mode=FORCED, trunks=ALL)
        if self.mode == NATIVE and not self.tags_native:
            return replace(self, trunks=ALL)
        return self

    @property
    def bare(self) -> int:
        """The VLANs whose packets are sent without the tag that they may have had for it."""
        if self.mode in (ACCESS, TUNNEL, FORCED):
            return 1 << self.tag
        own = 1 << self.tag if self.mode == NATIVE and not self.tags_native else 0
        return own | (self.priority == PRIORITY_NEVER)

    @property
    def out_mode(self) -> int:
        """How the port changes the tags of what it sends."""
        return KEEP if self.mode == NATIVE and self.tags_native else self.mode

    def carries(self, vlan: int) -> bool:
        """Whether packets of the VLAN, without further tags, leave through the port."""
        if self.mode in (ACCESS, TUNNEL):
            return self.tag == vlan and (self.mode == ACCESS or bool(self.trunks & 1))
        return bool(self.trunks & 1 << vlan)


@dataclass(frozen=True)
class Path:
    """How packets of a port come to be copied; `selected` are the VLANs of those that are.

    It begins at the port. Where a mirror's copies are selected by another, it goes on through
    the output port.
    """

    source: PortVlans
    selected: int
    vlan: int | None = None
    """The VLAN that the packets were copied into, if not their own."""
    forced: bool = False
    """Whether they have been through an access port, and lost their tags there."""
    unreserved: bool = False
    """Whether packets to the addresses of link protocols are left out."""
    match: Match | None = None
    """The frames that are copied; None for all."""

    @classmethod
    def of(cls, port: PortVlans) -> Self:
        """What passes the port and is ours: OVS goes on copying the parked VLAN."""
        return cls(port, port.inside & ~vlan_set(PARKED_VLANS))

    def select(self, vlans: int) -> Self:
        """Those in these VLANs."""
        if self.vlan is None:
            return replace(self, selected=self.selected & vlans)
        return self if vlans & 1 << self.vlan else replace(self, selected=0)

    def filtered(self, match: Match) -> Self:
        """Those that match."""
        both = match if self.match is None else self.match.both(match)
        return replace(self, match=match, selected=0) if both is None else replace(self, match=both)

    def into(self, vlan: int) -> Self:
        """Copied into another VLAN than theirs."""
        others = self.select(ALL & ~(1 << vlan))
        return replace(others, vlan=vlan, unreserved=True)

    def through(self, output: PortVlans) -> Self | None:
        """Out of a port, and seen there as packets that leave; None where tags get lost."""
        if output.priority != PRIORITY_NEVER:
            return None
        if output.mode == ACCESS:
            return replace(self, vlan=output.tag, forced=True)
        if output.mode == KEEP:
            return self.select(output.trunks)
        return None

    def rewrite(
        self,
        output: PortVlans,
        *,
        limit: int,
        snaplen: int,
        max_len: int,
        netdev: bool,
        no_dei: bool = False,
    ) -> FrameRewrite:
        """What a copy out of the port needs changed."""
        forced = self.forced and self.vlan is not None
        payload = self.source.mode == FORCED
        return FrameRewrite(
            in_mode=FORCED if forced else self.source.mode,
            in_tag=self.vlan or 0 if forced else self.source.tag,
            in_tpid=self.source.tpid,
            set_vid=None if forced else self.vlan,
            out_mode=output.out_mode,
            out_tag=output.tag,
            priority=output.priority,
            limit=0 if payload else limit,
            snaplen=snaplen,
            max_len=max_len,
            netdev=netdev,
            no_dei=no_dei,
        )
