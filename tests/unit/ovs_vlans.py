"""What Open vSwitch makes of VLAN tags, step by step, for tests to compare with.

A second telling of `ofproto/ofproto-dpif-xlate.c`, `lib/flow.c` and `lib/odp-util.c`, from the
Port row on, that shares nothing with the package's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ovs_ebpf_tap.lab.frames import ETH_8021AD, ETH_8021Q, Tag
from ovs_ebpf_tap.model.rows import Port

_CFI = 0x1000
_PCP = 0xE000
_VID = 0x0FFF
_HEADERS = 2


@dataclass(frozen=True)
class Bundle:
    """A port's settings, of `port_configure` and `bundle_set`; None for a set is all VLANs."""

    mode: str
    vlan: int
    trunks: frozenset[int] | None
    cvlans: frozenset[int] | None
    qinq_ethtype: int
    priority_tags: str

    @classmethod
    def of(cls, row: Port) -> Bundle:
        mode = row.vlan_mode or ("trunk" if row.tag is None else "access")
        vlan = row.tag if row.tag is not None and mode != "trunk" else 0
        trunks = frozenset(row.trunks) or None
        if mode in ("access", "dot1q-tunnel"):
            trunks = None
        elif mode != "trunk" and vlan:
            everything = frozenset(range(4096))
            trunks = ((everything if trunks is None else trunks) | {vlan}) - {0}
        return cls(
            mode,
            vlan,
            trunks,
            (frozenset(row.cvlans) or None) if mode == "dot1q-tunnel" else None,
            ETH_8021Q if row.qinq_ethtype == "802.1q" else ETH_8021AD,
            {"true": "if-nonzero", "if-nonzero": "if-nonzero", "always": "always"}.get(
                row.priority_tags or "", "never"
            ),
        )

    def trunks_vlan(self, vid: int) -> bool:
        """`xbundle_trunks_vlan`"""
        return self.mode != "access" and (self.trunks is None or vid in self.trunks)

    def allows_cvlan(self, vid: int) -> bool:
        """`xbundle_allows_cvlan`"""
        return self.cvlans is None or vid in self.cvlans

    def admits(self, vid: int) -> bool:
        """`input_vid_is_valid`"""
        if self.mode == "access":
            return vid == 0
        if self.mode == "dot1q-tunnel":
            return self.allows_cvlan(vid)
        return (self.mode != "trunk" and vid == 0) or self.trunks_vlan(vid)


@dataclass(frozen=True)
class Vlan:
    """One of `struct xvlan`; `pcp` is in its place in a TCI."""

    tpid: int = 0
    vid: int = 0
    pcp: int = 0


Vlans = tuple[Vlan, Vlan]

_NONE = Vlan()


@dataclass(frozen=True)
class Header:
    """`union flow_vlan_hdr`, of a tag that is there: the CFI bit is set."""

    tpid: int
    tci: int


@dataclass(frozen=True)
class Packet:
    """A packet in the translation: `headers` are in the flow, `frame` is what it looks like.

    `hidden` of the frame's tags, at its end, are behind those that Open vSwitch looks at.
    """

    headers: tuple[Header, ...]
    frame: tuple[Tag, ...]
    hidden: int

    @classmethod
    def received(cls, frame: Sequence[Tag], limit: int) -> Packet:
        """`parse_vlan`"""
        seen = frame[: min(limit, _HEADERS)]
        headers = tuple(Header(tag.tpid, _tci(tag) | _CFI) for tag in seen)
        return cls(headers, tuple(frame), len(frame) - len(seen))

    def extract(self) -> Vlans:
        """`xvlan_extract`"""
        found = [Vlan(each.tpid, each.tci & _VID, each.tci & _PCP) for each in self.headers]
        first, second = [*found, _NONE, _NONE][:2]
        return first, second


def _tci(tag: Tag) -> int:
    return tag.pcp << 13 | tag.dei << 12 | tag.vid


def enter(packet: Packet, bundle: Bundle) -> Vlans | None:
    """`xvlan_input_translate`; None for what the port does not admit."""
    first, second = packet.extract()
    if not bundle.admits(first.vid):
        return None
    own = Vlan(first.tpid or ETH_8021Q, bundle.vlan, first.pcp)
    if bundle.mode == "access":
        return own, _NONE
    if bundle.mode == "dot1q-tunnel":
        return Vlan(bundle.qinq_ethtype, bundle.vlan, 0), first
    if bundle.mode == "trunk" or first.vid:
        return first, second
    return own, second


def includes(bundle: Bundle, vlans: Vlans) -> bool:
    """`xbundle_includes_vlan`"""
    first, second = vlans
    if bundle.mode == "access":
        return first.vid == bundle.vlan and second.vid == 0
    if bundle.mode == "dot1q-tunnel":
        return first.vid == bundle.vlan and bundle.allows_cvlan(second.vid)
    return bundle.trunks_vlan(first.vid)


def leave(packet: Packet, vlans: Vlans, bundle: Bundle) -> Packet:
    """`output_normal`"""
    first, second = _output_translate(bundle, vlans)
    if bundle.priority_tags != "never":
        pcp = packet.headers[0].tci & _PCP if packet.headers else 0
        first = replace(first, pcp=pcp)
    return _commit(packet, _put((first, second), bundle))


def _output_translate(bundle: Bundle, vlans: Vlans) -> Vlans:
    """`xvlan_output_translate`"""
    first, second = vlans
    if bundle.mode == "access":
        return _NONE, _NONE
    native = bundle.mode == "native-untagged" and first.vid == bundle.vlan
    if native or bundle.mode == "dot1q-tunnel":
        return second, _NONE
    return vlans


def _put(vlans: Vlans, bundle: Bundle) -> tuple[Header, ...]:
    """`xvlan_put`, up to the first that is not there: `flow_count_vlan_headers`"""
    headers = []
    for vlan in vlans:
        tci = vlan.vid | vlan.pcp
        if not tci and not (bundle.priority_tags == "always" and vlan.tpid):
            break
        headers.append(Header(vlan.tpid or ETH_8021Q, tci | _CFI))
    return tuple(headers)


def _commit(packet: Packet, headers: tuple[Header, ...]) -> Packet:
    """`commit_vlan_action`; what is pushed has no DEI bit (`eth_push_vlan`)."""
    before, after = list(packet.headers), list(headers)
    while before and after and before[-1] == after[-1]:
        del before[-1], after[-1]
    pushed = [Tag(each.tci & _VID, pcp=each.tci >> 13, dei=0, tpid=each.tpid) for each in after]
    return Packet(headers, (*pushed, *packet.frame[len(before) :]), packet.hidden)
