"""Packs the frames of a tunnel port as the map of tunnels has them for its key."""

from __future__ import annotations

import os
import re

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, Hook
from ovs_ebpf_tap.model.tunnel import ANY, Tunnel

_LEAVING = abi.constant("TUNNEL_LEAVING")
_ANY_KEY = abi.constant("TUNNEL_ANY_KEY")
_ANY_REMOTE = abi.constant("TUNNEL_ANY_REMOTE")
_ANY_LOCAL = abi.constant("TUNNEL_ANY_LOCAL")
_FLOW_LOCAL = abi.constant("TUNNEL_FLOW_LOCAL")

_TUNNEL = abi.layout("tunnel")
_REMOTE, _LOCAL = _TUNNEL.places["remote"], _TUNNEL.places["local"]

_NUMBERS = re.compile(r"(\d+)\.(\d+)")


def has_local_address() -> bool:
    """Whether the kernel tells programs the local address of a tunnel: Linux 5.19 does."""
    found = _NUMBERS.match(os.uname().release)
    return found is None or tuple(map(int, found.groups())) >= (5, 19)


def pack_tunnel(ifindex: int, tunnel: Tunnel) -> bytes:
    """A `struct tap_tunnel`."""
    flags = (
        _LEAVING * tunnel.leaving
        | _ANY_KEY * (tunnel.key is None)
        | _ANY_REMOTE * (tunnel.remote == ANY)
        | (_FLOW_LOCAL if tunnel.by_flow else _ANY_LOCAL) * (tunnel.local == ANY)
    )
    packed = bytearray(_TUNNEL.pack(ifindex=ifindex, flags=flags, key=tunnel.key or 0))
    packed[_REMOTE] = tunnel.remote.ljust(16, b"\0")
    packed[_LOCAL] = tunnel.local.ljust(16, b"\0")
    return bytes(packed)


def unpack_tunnel(data: bytes, port: int) -> Hook:
    """The hook of such a key; the number of its port is in its entry."""
    fields = _TUNNEL.unpack(data)
    flags = fields["flags"]
    tunnel = Tunnel(
        port,
        leaving=bool(flags & _LEAVING),
        key=None if flags & _ANY_KEY else fields["key"],
        remote=ANY if flags & _ANY_REMOTE else data[_REMOTE],
        local=ANY if flags & (_ANY_LOCAL | _FLOW_LOCAL) else data[_LOCAL],
        by_flow=bool(flags & _FLOW_LOCAL),
    )
    return Hook(fields["ifindex"], EGRESS if tunnel.leaving else INGRESS, tunnel)
