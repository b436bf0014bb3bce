"""Tunnel ports of the kernel's datapath: whose frames one device carries for several ports.

What a port's `options` mean is in `set_tunnel_config` of `lib/netdev-vport.c`, how Open vSwitch
finds the port of a frame in `tnl_find` of `ofproto/tunnel.c` (3.1.0).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

ANY = b""
"""In the place of an address: any."""
_UNSET = bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"
"""What IPv4 addresses begin with, mapped into IPv6's."""

_MAX_KEY = 0xFFFFFFFF
"""Of what programs read: `tunnel_id` in the kernel's `struct bpf_tunnel_key`."""
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")


class GeneveOption(NamedTuple):
    """A kind of Geneve options that a bridge knows: `ovs-ofctl add-tlv-map`."""

    option_class: int
    type: int
    length: int
    """In bytes. Open vSwitch drops frames with such an option of another length."""


class Tunnel(NamedTuple):
    """The frames of one tunnel port, in one direction, among those of its device."""

    port: int
    """A number of the port, the same for both directions; not an ifindex."""
    leaving: bool
    key: int | None
    """None: any."""
    remote: bytes
    """The peer's address, of 16 bytes, IPv4 mapped into IPv6; or `ANY`."""
    local: bytes
    """Likewise. What leaves with no address given has 0, of the peer's family."""
    by_flow: bool = False
    """Whether flows tell the local address, which is `ANY`: such a port comes last."""

    @property
    def rank(self) -> tuple[bool, bool, bool, bool]:
        """Where Open vSwitch looks for the port: a port of a lower rank is found first."""
        return self.key is None, self.remote == ANY, self.local == ANY, self.by_flow

    def meets(self, other: Self) -> bool:
        """Whether a frame may have keys and addresses that both ports take."""
        return (
            self.leaving == other.leaving
            and (None in (self.key, other.key) or self.key == other.key)
            and _meet(self.remote, other.remote)
            and _meet(self.local, other.local)
        )


def _meet(one: bytes, other: bytes) -> bool:
    return ANY in (one, other) or one == other


@dataclass(frozen=True)
class TunnelKind:
    """The device that Open vSwitch makes for its tunnel ports of a type."""

    device: str
    """The name, with the UDP port in it if there is one."""
    kind: str
    """Of rtnetlink."""
    udp_port: int | None = None
    """If options say nothing of it."""


KINDS: Mapping[str, TunnelKind] = {
    "vxlan": TunnelKind("vxlan_sys_{}", "vxlan", 4789),
    "geneve": TunnelKind("genev_sys_{}", "geneve", 6081),
    "gre": TunnelKind("gre_sys", "gretap"),
}
"""The types whose devices carry Ethernet frames, by name."""


@dataclass(frozen=True)
class TunnelOptions:
    """What the options of a tunnel port say, as far as they tell its frames from other ports'."""

    type: str
    device: str
    """The name of the device."""
    in_key: int | None = 0
    """None: any."""
    out_key: int | None = 0
    """None: flows tell it."""
    remote: bytes = ANY
    local: bytes = _UNSET
    """0: not given; `ANY`: flows tell it."""

    @classmethod
    def parse(cls, type: str, options: Mapping[str, str]) -> Self | None:
        """The options of a row; None if they are of no type of `KINDS`, or of others' meaning.

        Open vSwitch resolves names of hosts, and has ports for packets without an Ethernet header.
        """
        kind = KINDS.get(type)
        if kind is None or options.get("packet_type", "legacy_l2") != "legacy_l2":
            return None
        if "gpe" in options.get("exts", "").split(","):
            return None
        try:
            remote = _address(options["remote_ip"])
            local = _address(options["local_ip"]) if "local_ip" in options else _UNSET
            in_key = _key(options, "in_key")
            out_key = _key(options, "out_key")
            udp_port = int(options.get("dst_port", kind.udp_port or 0))
        except (KeyError, ValueError):
            return None
        return cls(type, kind.device.format(udp_port), in_key, out_key, remote, local)

    @property
    def kind(self) -> str:
        """The kind of the device, of rtnetlink."""
        return KINDS[self.type].kind

    def arriving(self, port: int) -> Tunnel:
        """The frames that arrive on a port with these options and that number."""
        by_flow = self.local == ANY
        local = ANY if self.local == _UNSET else self.local
        return Tunnel(port, False, self.in_key, self.remote, local, by_flow)

    def leaving(self, port: int) -> Tunnel:
        """The frames that leave through such a port."""
        local = self.local
        if local == _UNSET:  # In the family of the peer's, which flows may tell.
            if self.remote == ANY:
                local = ANY
            elif self.remote.startswith(_MAPPED):
                local = _MAPPED + bytes(4)
        return Tunnel(port, True, self.out_key, self.remote, local)


def _address(text: str) -> bytes:
    if text == "flow":
        return ANY
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv4Address):
        return ipaddress.IPv6Address(f"::ffff:{address}").packed
    if address.scope_id is not None:
        raise ValueError(text)
    return address.packed


def _key(options: Mapping[str, str], name: str) -> int | None:
    text = options.get(name, options.get("key", "0"))
    if text == "flow":
        return None
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    octal = text.startswith("0") and text.isdecimal()
    key = int(text, 8 if octal else 0)
    if key > _MAX_KEY:
        raise ValueError(text)
    return key
