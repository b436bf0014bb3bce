"""From the replica's rows to the model's."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from errno import ENODEV
from operator import attrgetter
from typing import Any
from uuid import UUID

from ovs_ebpf_tap.model.rows import PATCH_TYPE, Bridge, Database, Interface, Mirror, Port
from ovs_ebpf_tap.model.tunnel import TunnelOptions
from ovs_ebpf_tap.observe.ofp_fields import widened
from ovs_ebpf_tap.observe.replica import Replica

# LEGACY_MAX_VLAN_HEADERS and FLOW_MAX_VLAN_HEADERS in OVS's `include/openvswitch/flow.h`.
_LEGACY_VLAN_LIMIT = 1
_MAX_VLAN_LIMIT = 2
# What strtoll takes to its end; longer ones are out of range.
_INT = re.compile(r"[ \t-\r]*[+-]?[0-9]{1,20}")

_NO_DEVICE = os.strerror(ENODEV)
"""In an Interface's `error` if there was no device of its name."""


class RowReader:
    """The model's rows of a replica; a row that is as it was stays the same object."""

    def __init__(self, columns: Mapping[str, Sequence[str]]) -> None:
        """`columns` are those that the replica has, by table."""
        self._columns = columns
        self._connections = 0
        """Of how many connections the rows were read: after another, none is known to be there."""
        self._rows: dict[str, dict[UUID, Any]] = {table: {} for table in _READERS}

    def read(self, replica: Replica) -> Database:
        """The rows as they are; reads only those that changed.

        After a reconnect the replica is rebuilt, without a word on rows that went away meanwhile,
        so then all rows are read again.
        """
        changed, replica.changed = replica.changed, set()
        for table in _READERS:
            self._read(replica, table, {uuid for name, uuid in changed if name == table})
        self._connections = replica.connections
        return self._make_database(replica)

    def _read(self, idl: Replica, table: str, changed: set[UUID]) -> None:
        """Reads rows that changed, and those that the IDL said nothing of."""
        replica = idl.tables[table].rows
        if self._connections != idl.connections:
            changed = {*self._rows[table], *replica}
        if not changed and len(self._rows[table]) == len(replica):
            return
        rows = dict(self._rows[table])
        for uuid in changed:
            if uuid not in replica:
                rows.pop(uuid, None)
                continue
            row = _READERS[table](replica[uuid], self._columns[table])
            if rows.get(uuid) != row:
                rows[uuid] = row
        # It says nothing of new rows with no value but default ones.
        for uuid in replica.keys() - rows.keys() if len(rows) < len(replica) else ():
            rows[uuid] = _READERS[table](replica[uuid], self._columns[table])
        if rows != self._rows[table]:
            self._rows[table] = rows

    def _make_database(self, replica: Replica) -> Database:
        top = next(iter(replica.tables["Open_vSwitch"].rows.values()), None)
        if top is None:
            return Database()
        bridges = self._rows["Bridge"]
        wanted = [row.uuid for row in top.bridges if row.uuid in bridges]
        return Database(
            bridges={uuid: bridges[uuid] for uuid in wanted},
            ports=self._rows["Port"],
            interfaces=self._rows["Interface"],
            mirrors=self._rows["Mirror"],
            external_ids=dict(top.external_ids),
            hw_offload=_bool(top.other_config, "hw-offload"),
            userspace_tso=_bool(top.other_config, "userspace-tso-enable"),
            vlan_limit=_vlan_limit(top.other_config.get("vlan-limit", "")),
            next_cfg=top.next_cfg,
            cur_cfg=top.cur_cfg,
            ovs_version=_first(top.ovs_version),
        )


def _uuids(row: Any, column: str) -> tuple[UUID, ...]:
    """The rows that a column refers to, from its datum: the IDL would make a Row of each."""
    atoms = row._data[column].values
    return tuple(sorted((atom.value for atom in atoms), key=attrgetter("int")))


def _first(values: Sequence[Any], default: Any = None) -> Any:
    return values[0] if values else default


def _bool(settings: Mapping[str, str], key: str) -> bool:
    """As `smap_get_bool` reads it, where the default is false."""
    return settings.get(key, "").lower() == "true"


def _vlan_limit(text: str) -> int:
    """How many tags OVS looks at: `smap_get_int`, then `flow_limit_vlans`, which knows two."""
    limit = int(text) if _INT.fullmatch(text) else None
    if limit is None or not -(1 << 31) <= limit < 1 << 31:
        return _LEGACY_VLAN_LIMIT
    return min(limit, _MAX_VLAN_LIMIT) if limit > 0 else _MAX_VLAN_LIMIT


def _bridge(row: Any, columns: Sequence[str]) -> Bridge:
    return Bridge(
        uuid=row.uuid,
        name=row.name,
        datapath_type=row.datapath_type,
        ports=_uuids(row, "ports"),
        mirrors=_uuids(row, "mirrors"),
        spanning_tree=row.stp_enable or row.rstp_enable,
        protocols=tuple(sorted(row.protocols)),
        external_ids=dict(row.external_ids),
    )


def _port(row: Any, columns: Sequence[str]) -> Port:
    return Port(
        uuid=row.uuid,
        name=row.name,
        interfaces=_uuids(row, "interfaces"),
        tag=_first(row.tag),
        trunks=tuple(sorted(row.trunks)),
        cvlans=tuple(sorted(row.cvlans)) if "cvlans" in columns else (),
        vlan_mode=_first(row.vlan_mode),
        priority_tags=row.other_config.get("priority-tags"),
        qinq_ethtype=row.other_config.get("qinq-ethtype"),
        bond_mode=_first(row.bond_mode),
        bond_active_member=_first(row.bond_active_slave),
        protected=row.protected,
    )


def _interface(row: Any, columns: Sequence[str]) -> Interface:
    rates = [row.ingress_policing_rate]
    if "ingress_policing_kpkts_rate" in columns:
        rates.append(row.ingress_policing_kpkts_rate)
    return Interface(
        uuid=row.uuid,
        name=row.name,
        type=row.type,
        policed=any(rates),
        opened=any(number >= 0 for number in row.ofport),
        refused=any(number < 0 for number in row.ofport)
        and _NO_DEVICE not in _first(row.error, ""),
        ifindex=_first(row.ifindex),
        tunnel=TunnelOptions.parse(row.type, row.options),
        ofport=_ofport(row.ofport),
        peer=row.options.get("peer") if row.type == PATCH_TYPE else None,
    )


def _ofport(numbers: Sequence[int]) -> int | None:
    """The number that OpenFlow 1.1 and later have: those of reserved ports have 32 bits."""
    found = next((number for number in numbers if number >= 0), None)
    return None if found is None else widened(found)


def _mirror(row: Any, columns: Sequence[str]) -> Mirror:
    return Mirror(
        uuid=row.uuid,
        name=row.name,
        select_all=row.select_all,
        select_src_port=_uuids(row, "select_src_port"),
        select_dst_port=_uuids(row, "select_dst_port"),
        select_vlan=tuple(sorted(row.select_vlan)),
        output_port=_first(_uuids(row, "output_port")),
        output_vlan=_first(row.output_vlan),
        snaplen=_first(row.snaplen),
        filter=_first(row.filter) if "filter" in columns else None,
        external_ids=dict(row.external_ids),
        statistics=dict(row.statistics),
    )


_READERS: Mapping[str, Callable[[Any, Sequence[str]], Any]] = {
    "Bridge": _bridge,
    "Port": _port,
    "Interface": _interface,
    "Mirror": _mirror,
}
