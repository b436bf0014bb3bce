"""A deployment as rows and flows that its tools write, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from deployments.mirrors import UserMirror

PortKind = Literal["veth", "tap", "internal", "patch", "pair", "bridged", "bridged-internal"]


@dataclass(frozen=True)
class PortRow:
    """A port of a bridge, with the columns of its Port row.

    `kind` is veth (a container's, or a physical one), tap (a virtual machine's, held open),
    internal, patch (to the port `peer`), pair (one end of a veth pair, the other being the port
    `peer`) or bridged: a device in a Linux bridge that has the machine's own device as well; that
    is the other end of a veth pair, or with bridged-internal an internal port itself.
    `trunks` without any are all VLANs.
    """

    bridge: str
    kind: PortKind = "veth"
    tag: int | None = None
    trunks: tuple[int, ...] = ()
    vlan_mode: str | None = None
    peer: str = ""

    def columns(self) -> dict[str, str]:
        """The Port row's columns that are set."""
        values = {
            "tag": None if self.tag is None else str(self.tag),
            "trunks": ",".join(map(str, self.trunks)) or None,
            "vlan_mode": self.vlan_mode,
        }
        return {column: value for column, value in values.items() if value is not None}


@dataclass(frozen=True)
class Talk:
    """Frames from the machine of one port to that of another, with `tags` put before their own.

    Where flows output by number, only frames without their own are sent so: what leaves does not
    show whether Open vSwitch has looked at a tag.
    """

    src: str
    dst: str
    tags: tuple[int, ...] = ()


@dataclass(frozen=True)
class BridgePlan:
    """Bridges with their columns, ports and flows, the traffic, and the mirrors of `bridge`.

    Flows are ovs-ofctl's, with `{p}` for the number of port p, and `{p.mac}`, `{p.ip}` and
    `{p.ip6}` for the addresses of its machine; a bridge without any is a learning switch.
    `connections` are TCP's, from the first machine to the second. `by_number`: flows output to
    the mirrors' ports, and not only `NORMAL` does. `later` are mirrors that are made when the
    others are gone: while native they select the others' output ports, and so keep them native.
    """

    name: str
    bridge: str
    bridges: Mapping[str, Mapping[str, str]]
    ports: Mapping[str, PortRow]
    talks: Sequence[Talk]
    connections: Sequence[tuple[str, str]]
    mirrors: Sequence[UserMirror]
    later: Sequence[UserMirror] = ()
    flows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    by_number: bool = False
