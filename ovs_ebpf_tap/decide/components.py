"""A bridge's mirrors in components that do not share ports: each is planned by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from ovs_ebpf_tap.decide.bridge_ports import BridgePorts
from ovs_ebpf_tap.decide.seen_port import SeenPort
from ovs_ebpf_tap.model.rows import Mirror


@dataclass(frozen=True)
class MirrorComponent:
    """Mirrors of a bridge that share ports, directly or through others, and these ports."""

    ports: tuple[SeenPort, ...]
    mirrors: tuple[Mirror, ...]
    """In the order of their UUIDs."""
    whole: bool
    """Whether the ports are all ports of the bridge."""


def split(bridge: BridgePorts) -> list[MirrorComponent]:
    """The components: what is copied in one of them is of no consequence in another."""
    if any(_may_see_all(bridge, mirror) for mirror in bridge.mirrors):
        return [MirrorComponent(tuple(bridge.seen.values()), tuple(bridge.mirrors), whole=True)]
    groups: dict[UUID, _Group] = {}
    """By port: the group that it is in."""
    lonely = []
    for index, mirror in enumerate(bridge.mirrors):
        group = _Group()
        for uuid in _ports_of(bridge, mirror):
            group = group.joined(uuid, groups)
        group.mirrors.append((index, mirror))
        if not group.ports:
            lonely.append(group)
    found = {group.ports[0]: group for group in groups.values()}
    return [group.component(bridge.seen) for group in (*found.values(), *lonely)]


def _may_see_all(bridge: BridgePorts, mirror: Mirror) -> bool:
    to_vlan = mirror.output_port is None and mirror.output_vlan is not None
    return mirror.select_all or to_vlan or len(mirror.select_src_port) >= len(bridge.seen)


def _ports_of(bridge: BridgePorts, mirror: Mirror) -> Iterator[UUID]:
    yield from bridge.source_uuids(mirror)
    yield from bridge.destination_uuids(mirror)
    if mirror.output_port is not None and mirror.output_port in bridge.seen:
        yield mirror.output_port


@dataclass(eq=False)
class _Group:
    """A component while it grows."""

    ports: list[UUID] = field(default_factory=list)
    mirrors: list[tuple[int, Mirror]] = field(default_factory=list)
    """With their index among the bridge's."""

    def joined(self, port: UUID, groups: dict[UUID, _Group]) -> _Group:
        """This group with a port, and with the group that the port was in."""
        other = groups.get(port)
        if other is self:
            return self
        if other is None:
            groups[port] = self
            self.ports.append(port)
            return self
        small, large = sorted((self, other), key=lambda group: len(group.ports))
        large.mirrors += small.mirrors
        large.ports += small.ports
        groups.update(dict.fromkeys(small.ports, large))
        return large

    def component(self, seen: Mapping[UUID, SeenPort]) -> MirrorComponent:
        ports = tuple(seen[uuid] for uuid in self.ports)
        mirrors = tuple(mirror for _, mirror in sorted(self.mirrors, key=lambda each: each[0]))
        return MirrorComponent(ports, mirrors, whole=len(ports) == len(seen))
