"""The mirrors that users of any deployment make."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.mirrors import UserMirror


def usual_mirrors(vm: str, peer: str, tenant: Sequence[str], vlan: int) -> list[UserMirror]:
    """Mirrors of the port `vm`, of its conversation with `peer`, and of a tenant's ports.

    `vlan` is that of `vm`.
    """
    two = (vm, peer)
    return [
        UserMirror("in", src=[vm], output="tap"),
        UserMirror("out", dst=[vm], output="veth"),
        UserMirror("both", src=[vm], dst=[vm], output="internal"),
        UserMirror("both-to-dummy", src=[vm], dst=[vm], output="dummy"),
        UserMirror("in-cut", src=[vm], snaplen=96),
        UserMirror("out-cut", dst=[vm], snaplen=128, output="tap"),
        UserMirror("both-of-vlan", src=[vm], dst=[vm], select_vlan=[vlan]),
        UserMirror("conversation-of-vlans", src=two, dst=two, select_vlan=[vlan, 20]),
        UserMirror("conversation-in", src=two),
        UserMirror("conversation", src=two, dst=two),
        UserMirror("conversation-cut", src=two, dst=two, snaplen=64),
        UserMirror("tenant-in", src=tenant),
        UserMirror("tenant-out", dst=tenant),
        UserMirror("tenant", src=tenant, dst=tenant, output="tap"),
    ]


def of_all_ports(offloaded: bool = True) -> list[UserMirror]:
    """Mirrors with `select_all`."""
    return [
        UserMirror("all", select_all=True, offloaded=offloaded),
        UserMirror("all-cut", select_all=True, snaplen=96, output="tap", offloaded=offloaded),
    ]
