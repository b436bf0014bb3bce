"""What is to be written to the database, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from ovs_ebpf_tap.model.rows import PARKED_VLANS


@dataclass(frozen=True)
class MirrorEdit:
    """Changes to a Mirror row; None and absent keys leave as is."""

    mirror: UUID
    select_vlan: tuple[int, ...] | None = None
    set_ids: Mapping[str, str] = field(default_factory=dict)
    delete_ids: tuple[str, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether OVS copies what it did not, or no more what it did."""
        return self.select_vlan is not None

    @property
    def gives_back(self) -> bool:
        """Whether OVS copies what it did not."""
        return self.moves and self.select_vlan != PARKED_VLANS


@dataclass(frozen=True)
class PortEdit:
    """A change of a Port row's `protected`."""

    port: UUID
    protected: bool


@dataclass(frozen=True)
class BridgeEdit:
    """Changes to a Bridge row's `external_ids`; absent keys leave as is."""

    bridge: UUID
    set_ids: Mapping[str, str] = field(default_factory=dict)
    delete_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transaction:
    """One transaction; `reconfigure` asks ovs-vswitchd to say when it has taken it in."""

    mirrors: tuple[MirrorEdit, ...] = ()
    ports: tuple[PortEdit, ...] = ()
    bridges: tuple[BridgeEdit, ...] = ()
    reconfigure: bool = False

    def __bool__(self) -> bool:
        return bool(self.mirrors or self.ports or self.bridges or self.reconfigure)
