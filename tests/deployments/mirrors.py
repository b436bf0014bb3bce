"""Mirrors as their users make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

OutputKind = Literal["veth", "tap", "dummy", "internal"]


@dataclass(frozen=True)
class UserMirror:
    """A mirror by the names of its ports. Without `offloaded` it may stay native.

    `name` is the row's, too: letters, digits and dashes. `by_others`: the deployment's own tools
    make the row (`Deployment.add_mirror`).
    """

    name: str
    src: Sequence[str] = ()
    dst: Sequence[str] = ()
    select_all: bool = False
    output: OutputKind = "veth"
    snaplen: int | None = None
    select_vlan: Sequence[int] = ()
    by_others: bool = False
    offloaded: bool = True

    def selects_from(self, port: str) -> bool:
        """Whether it selects packets that arrive at the port."""
        return self.select_all or port in self.src

    def selects_to(self, port: str) -> bool:
        """Whether it selects packets that leave by the port."""
        return self.select_all or port in self.dst

    def columns(self) -> dict[str, int | Sequence[int]]:
        """What its row has besides ports."""
        columns: dict[str, int | Sequence[int]] = {}
        if self.snaplen is not None:
            columns["snaplen"] = self.snaplen
        if self.select_vlan:
            columns["select_vlan"] = self.select_vlan
        return columns
