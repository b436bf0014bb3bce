"""The ports of a bridge that its mirrors select, and copy to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from uuid import UUID

from ovs_ebpf_tap.decide.seen_port import SeenPort
from ovs_ebpf_tap.decide.vlan import PortVlans
from ovs_ebpf_tap.model.rows import Mirror, Port


class BridgePorts:
    """Mirrors of a bridge, and the ports that they may refer to."""

    def __init__(self, seen: Mapping[UUID, SeenPort], mirrors: Sequence[Mirror]) -> None:
        """`mirrors` are in the order of their UUIDs."""
        self.seen = seen
        self.mirrors = mirrors
        self._carrying: dict[int, list[Port]] = {}

    @cached_property
    def reserved(self) -> set[UUID]:
        """Output ports: OVS drops what arrives on them, uncopied."""
        outputs = (mirror.output_port for mirror in self.mirrors)
        return {uuid for uuid in outputs if uuid is not None and uuid in self.seen}

    def vlans(self, port: Port) -> PortVlans:
        """The VLAN settings of a port that is here."""
        return self.seen[port.uuid].vlans

    # Ports of a mirror: OVS passes over those that are not on the bridge.

    def source_uuids(self, mirror: Mirror) -> Collection[UUID]:
        """The ports whose arriving packets it selects."""
        return self._pick(mirror, mirror.select_src_port)

    def destination_uuids(self, mirror: Mirror) -> Collection[UUID]:
        """The ports whose leaving packets it selects."""
        return self._pick(mirror, mirror.select_dst_port)

    def selects_ports(self, mirror: Mirror) -> bool:
        """Whether it selects any port; if not, OVS copies nothing, whatever its `select_vlan`."""
        return bool(self.source_uuids(mirror) or self.destination_uuids(mirror))

    def _pick(self, mirror: Mirror, chosen: tuple[UUID, ...]) -> Collection[UUID]:
        if mirror.select_all:
            return self.seen.keys()
        return [uuid for uuid in chosen if uuid in self.seen]

    def output_port(self, mirror: Mirror) -> Port | None:
        """The output port, if it is on the bridge."""
        found = self.seen.get(mirror.output_port) if mirror.output_port is not None else None
        return found.port if found is not None else None

    def outputs(self, mirror: Mirror) -> Sequence[Port]:
        """The ports that copies leave through: `mirror_packet`, and `xbundle_includes_vlan`."""
        if mirror.output_port is not None:
            output = self.output_port(mirror)
            return [output] if output is not None else []
        if mirror.output_vlan is None:
            return []
        if mirror.output_vlan not in self._carrying:
            self._carrying[mirror.output_vlan] = self._find_carrying(mirror.output_vlan)
        return self._carrying[mirror.output_vlan]

    def _find_carrying(self, vlan: int) -> list[Port]:
        carrying = (
            each.port
            for uuid, each in self.seen.items()
            if uuid not in self.reserved and each.vlans.carries(vlan)
        )
        return sorted(carrying, key=lambda port: port.uuid)
