"""How a copy's frame differs from the original: VLAN tags and length.

Sets of VLANs are integers: bit `v` says whether VLAN `v` is in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ovs_ebpf_tap import abi

KEEP = abi.constant("TAGS_KEEP")


ACCESS = abi.constant("TAGS_ACCESS")


NATIVE = abi.constant("TAGS_NATIVE")


TUNNEL = abi.constant("TAGS_TUNNEL")


FORCED = abi.constant("TAGS_FORCED")


PRIORITY_NEVER = abi.constant("PRIORITY_NEVER")


PRIORITY_IF_NONZERO = abi.constant("PRIORITY_IF_NONZERO")


PRIORITY_ALWAYS = abi.constant("PRIORITY_ALWAYS")


ALL = (1 << 4096) - 1


def vlan_set(vlans: Iterable[int]) -> int:
    """The set of these VLANs; without any it is ALL, as in OVSDB's columns."""
    found = 0
    for vlan in vlans:
        found |= 1 << vlan
    return found or ALL


@dataclass(frozen=True)
class FrameRewrite:
    """What a copy needs changed; `limit` is how many tags OVS looks at, `snaplen` 0 for all."""

    in_mode: int
    in_tag: int
    in_tpid: int
    set_vid: int | None
    out_mode: int
    out_tag: int
    priority: int
    limit: int
    snaplen: int
    max_len: int
    netdev: bool
    no_dei: bool = False
    """Whether the DEI bit of the outermost tag is lost, as on arrival in the userspace datapath:
    there it is not in what the kernel says of a tag (`netdev_linux_parse_vnet_hdr`'s caller in
    `lib/netdev-linux.c`, `eth_push_vlan`)."""

    @property
    def second_tag(self) -> bool:
        """Whether there may be a tag behind the first that OVS looks at."""
        return self.in_mode == TUNNEL or (self.limit > 1 and self.in_mode in (KEEP, NATIVE))

    @property
    def plain(self) -> bool:
        """Whether frames change only by losing tags of VLAN 0 and priority 0."""
        return (
            self.in_mode == self.out_mode == KEEP
            and self.set_vid is None
            and self.priority == PRIORITY_NEVER
            and not self.snaplen
        )

    @property
    def only_bare(self) -> bool:
        """Whether frames stay as they are unless their outermost tag is such a one."""
        return self.plain and self.limit < 2

    @property
    def only_tagged(self) -> bool:
        """Whether frames without a tag stay as they are."""
        return self.plain or (self.out_mode == ACCESS and not self.snaplen)

    @property
    def pushed(self) -> int:
        """The VLAN whose 802.1Q tag frames without one get, if that is all; 0: it depends."""
        if self.in_mode in (TUNNEL, FORCED) or self.out_mode in (TUNNEL, ACCESS) or self.snaplen:
            return 0
        native = 0 if self.in_mode == KEEP else self.in_tag
        vlan = native if self.set_vid is None else self.set_vid
        return 0 if self.out_mode == NATIVE and vlan == self.out_tag else vlan
