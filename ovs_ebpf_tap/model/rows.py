"""What was seen, as plain data: the database's rows in OVS's words.

Rows refer to each other by UUID, so that rings and dangling references do no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple
from uuid import UUID

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.model.tunnel import TunnelOptions

KEY_PREFIX = "ebpf-tap-"
MODE_KEY = "ebpf-tap-mode"
STATE_KEY = "ebpf-tap-state"
REASON_KEY = "ebpf-tap-reason"
PROTECTED_KEY = "ebpf-tap-protected"
SELECT_VLAN_KEY = "ebpf-tap-select-vlan"
COUNTED_KEY = "ebpf-tap-counted"
"""What was copied in all: see `totals`. It stays when a mirror is given back for good."""

# The keys that the sidecar writes while it has a mirror; the mode is the user's.
OWN_KEYS = (STATE_KEY, REASON_KEY, PROTECTED_KEY, SELECT_VLAN_KEY)

PARKED_VLANS = (abi.constant("PARKED_VLAN"),)


def _mode(external_ids: Mapping[str, str]) -> dict[str, str]:
    """The mode that is set, without other people's keys."""
    return {key: value for key, value in external_ids.items() if key == MODE_KEY}


_OVN_KEY = "ovn-owned"

PATCH_TYPE = "patch"
INTERNAL_TYPES = ("internal", "tap")
"""Interface types with a network device that the host, not a VM, is behind."""


@dataclass(frozen=True)
class Interface:
    """A row of the Interface table; its name is its device's, but for tunnels."""

    uuid: UUID
    name: str
    type: str = ""
    policed: bool = False
    opened: bool = False
    """Whether Open vSwitch has opened its device."""
    refused: bool = False
    """Whether Open vSwitch did not take its device although there was one."""
    ifindex: int | None = None
    """Of the device that has its name, where Open vSwitch looks; 0 if there is none."""
    tunnel: TunnelOptions | None = None
    """Of a tunnel port whose frames can be told from others'."""
    ofport: int | None = None
    """Its number in OpenFlow 1.1 and later; None while Open vSwitch has not opened it."""
    peer: str | None = None
    """Of a patch port: the name of the interface that it is tied to."""
    # Not on the row, but remembered of it: see `departures` and `openings`.
    away: bool = False
    """Whether the device that Open vSwitch has open is in another network namespace."""
    bound: int | None = None
    """Ifindex of the device that Open vSwitch has open, 0 if that is gone; None if it is the one
    with the name, or not known."""


@dataclass(frozen=True)
class Port:
    """A row of the Port table."""

    uuid: UUID
    name: str
    interfaces: tuple[UUID, ...] = ()
    tag: int | None = None
    trunks: tuple[int, ...] = ()
    cvlans: tuple[int, ...] = ()
    vlan_mode: str | None = None
    priority_tags: str | None = None
    qinq_ethtype: str | None = None
    bond_mode: str | None = None
    bond_active_member: str | None = None
    """The Ethernet address of the bond's member that is in use."""
    protected: bool = False

    @property
    def is_bond(self) -> bool:
        """Whether OVS distributes packets over several interfaces."""
        return len(self.interfaces) > 1


_UNTRUNCATED = 65535


@dataclass(frozen=True)
class Mirror:
    """A row of the Mirror table, as it is: parked or not."""

    uuid: UUID
    name: str
    select_all: bool = False
    select_src_port: tuple[UUID, ...] = ()
    select_dst_port: tuple[UUID, ...] = ()
    select_vlan: tuple[int, ...] = ()
    output_port: UUID | None = None
    output_vlan: int | None = None
    snaplen: int | None = None
    filter: str | None = None
    external_ids: Mapping[str, str] = field(default_factory=dict)
    statistics: Mapping[str, int] = field(default_factory=dict)
    # Not on the row, but remembered of it: see `writers`.
    kept_vlans: str = ""
    """`ebpf-tap-select-vlan` where that is gone."""
    contended: bool = False
    """Whether others keep undoing what is written on the row."""

    @property
    def parked(self) -> bool:
        """Whether OVS selects nothing because the sidecar has taken the mirror over.

        `select_vlan` alone says so: somebody may have replaced `external_ids` as a whole.
        """
        return self.select_vlan == PARKED_VLANS

    @property
    def is_of_ovn(self) -> bool:
        """Whether ovn-controller makes and deletes the row; as `smap_get_bool` reads its mark."""
        return self.external_ids.get(_OVN_KEY, "").lower() == "true"

    @property
    def cut(self) -> int:
        """The longest copy; 0 if copies are whole, as a snaplen of 65535 has them, too."""
        return self.snaplen if self.snaplen and self.snaplen < _UNTRUNCATED else 0

    @property
    def desired_vlans(self) -> tuple[int, ...]:
        """The `select_vlan` that the user wants; empty for all VLANs."""
        if self.parked:
            return parse_vlans(self.external_ids.get(SELECT_VLAN_KEY, self.kept_vlans))
        return self.select_vlan

    @cached_property
    def uncounted(self) -> Mirror:
        """The row without what its statistics count: it stays the same while packets are copied.

        What is left tells whether OVS counts, of a mirror that is OVS's.
        """
        statistics = {} if self.parked else dict.fromkeys(self.statistics, 0)
        return self if statistics == self.statistics else replace(self, statistics=statistics)


@dataclass(frozen=True)
class Bridge:
    """A row of the Bridge table."""

    uuid: UUID
    name: str
    datapath_type: str = ""
    ports: tuple[UUID, ...] = ()
    mirrors: tuple[UUID, ...] = ()
    spanning_tree: bool = False
    protocols: tuple[str, ...] = ()
    """The OpenFlow versions that it is held to; none for all."""
    external_ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Bridge:
        """What is set for all its mirrors, without its ports and mirrors."""
        ids = _mode(self.external_ids)
        return replace(self, ports=(), mirrors=(), protocols=(), external_ids=ids)


class PatchPeer(NamedTuple):
    """The other end of a patch port."""

    bridge: Bridge
    port: UUID
    interface: Interface


@dataclass(frozen=True)
class Database:
    """The rows that matter, and the Open_vSwitch row's settings."""

    bridges: Mapping[UUID, Bridge] = field(default_factory=dict)
    ports: Mapping[UUID, Port] = field(default_factory=dict)
    interfaces: Mapping[UUID, Interface] = field(default_factory=dict)
    mirrors: Mapping[UUID, Mirror] = field(default_factory=dict)
    external_ids: Mapping[str, str] = field(default_factory=dict)
    hw_offload: bool = False
    userspace_tso: bool = False
    """Whether the userspace datapath takes super-packets in."""
    vlan_limit: int = 1
    """How many VLAN tags of a frame OVS looks at."""
    next_cfg: int = 0
    cur_cfg: int = 0
    ovs_version: str | None = None

    @cached_property
    def bridge_names(self) -> Mapping[UUID, str]:
        """By mirror: the name of its bridge. Names of mirrors are unique on a bridge only."""
        return {
            mirror: bridge.name for bridge in self.bridges.values() for mirror in bridge.mirrors
        }

    @cached_property
    def _patch_ends(self) -> Mapping[str, PatchPeer]:
        """The patch ports that there are, by the names of their interfaces."""
        return {
            row.name: PatchPeer(bridge, port, row)
            for bridge in self.bridges.values()
            for port in bridge.ports
            if port in self.ports
            for row in map(self.interfaces.get, self.ports[port].interfaces)
            if row is not None and row.type == PATCH_TYPE
        }

    def patch_peer(self, interface: UUID) -> PatchPeer | None:
        """The other end of a patch port, if both name each other: `ofport_update_peer` in
        `ofproto/ofproto-dpif.c`; None for an interface of another type."""
        row = self.interfaces.get(interface)
        if row is None or row.peer is None:
            return None
        peer = self._patch_ends.get(row.peer)
        return peer if peer is not None and peer.interface.peer == row.name else None

    @cached_property
    def revalidation_toggles(self) -> tuple[RevalidationToggle, ...]:
        """The ports whose `protected` is still to be put back, each once."""
        found = (parse_revalidation_toggle(mirror) for mirror in self.mirrors.values())
        return tuple({toggle.port: toggle for toggle in found if toggle is not None}.values())

    def as_intended(self, port: Port) -> Port:
        """The port with the `protected` that the user wants."""
        kept = (each.protected for each in self.revalidation_toggles if each.port == port.uuid)
        protected = next(kept, port.protected)
        return port if protected == port.protected else replace(port, protected=protected)

    @property
    def settings(self) -> Database:
        """What is set for mirrors of all bridges, without the rows."""
        return Database(
            external_ids=_mode(self.external_ids),
            hw_offload=self.hw_offload,
            userspace_tso=self.userspace_tso,
            vlan_limit=self.vlan_limit,
        )


def mirror_devices(db: Database, bridge: Bridge, mirror: Mirror) -> set[str]:
    """The names of the interfaces of the ports that a mirror selects, and of those it copies to."""
    ports = {*mirror.select_src_port, *mirror.select_dst_port}
    if mirror.select_all or mirror.output_vlan is not None:
        ports |= set(bridge.ports)
    if mirror.output_port is not None:
        ports.add(mirror.output_port)
    interfaces = (uuid for port in ports & db.ports.keys() for uuid in db.ports[port].interfaces)
    rows = (db.interfaces[uuid] for uuid in interfaces if uuid in db.interfaces)
    return {row.name if row.tunnel is None else row.tunnel.device for row in rows}


def bridges_of_datapaths(db: Database) -> list[str]:
    """The name of one bridge of each datapath, one with mirrors if there is."""
    order = sorted(db.bridges.values(), key=lambda bridge: (not bridge.mirrors, bridge.name))
    datapaths: dict[str, str] = {}
    for bridge in order:
        datapaths.setdefault(bridge.datapath_type or "system", bridge.name)
    return list(datapaths.values())


@dataclass(frozen=True)
class RevalidationToggle:
    """A port whose `protected` an earlier version has toggled, and what it was before.

    That made OVS revalidate its flows. The former value was kept on the Mirror's row.
    """

    port: UUID
    protected: bool


def parse_revalidation_toggle(mirror: Mirror) -> RevalidationToggle | None:
    """What a mirror's row keeps of one: the former value, as `false`, and the port's UUID.

    Without a UUID, the port is the output port.
    """
    text = mirror.external_ids.get(PROTECTED_KEY)
    if text is None:
        return None
    value, _, name = text.partition(" ")
    try:
        port = UUID(name)
    except ValueError:
        if mirror.output_port is None:
            return None
        port = mirror.output_port
    return RevalidationToggle(port, value == "true")


def format_vlans(vlans: tuple[int, ...]) -> str:
    """VLANs as `ebpf-tap-select-vlan` holds them: `10,20`, empty for none."""
    return ",".join(str(vlan) for vlan in sorted(vlans))


def parse_vlans(text: str) -> tuple[int, ...]:
    """The reverse of `format_vlans`; what is no VLAN is passed over."""
    numbers = (part.strip() for part in text.split(","))
    return tuple(
        sorted({int(n) for n in numbers if n.isdecimal() and len(n) <= 4 and int(n) < 4096})
    )
