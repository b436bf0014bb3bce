"""The ports that flows are followed back from.

Those whose leaving packets mirrors select; and of patch ports that they select, the peers: what
leaves there arrives on the patch port.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from uuid import UUID

from ovs_ebpf_tap.decide.modes import OFFLOAD_MODE, mode_of
from ovs_ebpf_tap.decide.vlan import PortVlans
from ovs_ebpf_tap.model.flow_traits import FollowedPort
from ovs_ebpf_tap.model.rows import Bridge, Database, Mirror, PatchPeer, Port


def followed_ports(db: Database) -> Mapping[str, Mapping[int, FollowedPort]]:
    """By bridge, and by OpenFlow number; all bridges with a mirror to be offloaded are there."""
    found: dict[str, dict[int, FollowedPort]] = {}
    for bridge in db.bridges.values():
        mirrors = _mirrors(db, bridge)
        if not any(mode_of(db, bridge, mirror) == OFFLOAD_MODE for mirror in mirrors):
            continue
        here = found.setdefault(bridge.name, {})
        here |= _followed(db, bridge, [uuid for each in mirrors for uuid in each.select_dst_port])
        if any(mirror.select_all for mirror in mirrors):
            here |= _followed(db, bridge, bridge.ports)
        for peer in _peers(db, bridge, mirrors):
            found.setdefault(peer.bridge.name, {}).update(_followed(db, peer.bridge, [peer.port]))
    return found


def _mirrors(db: Database, bridge: Bridge) -> list[Mirror]:
    return [db.mirrors[uuid] for uuid in bridge.mirrors if uuid in db.mirrors]


def _followed(db: Database, bridge: Bridge, ports: Iterable[UUID]) -> dict[int, FollowedPort]:
    reserved = {mirror.output_port for mirror in _mirrors(db, bridge)}
    vlans = any(_has_vlans(db.ports[uuid]) for uuid in bridge.ports if uuid in db.ports)
    looped = _is_looped(db, bridge)
    patches = tuple(_patches(db, bridge))
    followed = {}
    for uuid in set(ports) & set(bridge.ports) & db.ports.keys():
        for interface in db.ports[uuid].interfaces:
            row = db.interfaces.get(interface)
            if row is not None and row.ofport is not None:
                followed[row.ofport] = FollowedPort(
                    uuid in reserved,
                    vlans,
                    two_tags=db.vlan_limit > 1,
                    looped=looped,
                    patches=patches,
                )
    return followed


def _interfaces(db: Database, bridge: Bridge) -> Iterator[UUID]:
    return (each for uuid in bridge.ports if uuid in db.ports for each in db.ports[uuid].interfaces)


def _patches(db: Database, bridge: Bridge) -> Iterator[int]:
    """The OpenFlow numbers of the patch ports with a peer on another bridge."""
    for uuid in _interfaces(db, bridge):
        row = db.interfaces.get(uuid)
        if row is not None and row.ofport is not None and db.patch_peer(uuid) is not None:
            yield row.ofport


def _is_looped(db: Database, bridge: Bridge) -> bool:
    """Whether two patch ports of the bridge are each other's peers."""
    peers = (db.patch_peer(interface) for interface in _interfaces(db, bridge))
    return any(peer is not None and peer.bridge.uuid == bridge.uuid for peer in peers)


def _has_vlans(port: Port) -> bool:
    return PortVlans.of(port) != PortVlans()


def _peers(db: Database, bridge: Bridge, mirrors: Iterable[Mirror]) -> Iterator[PatchPeer]:
    """Of the patch ports whose arriving packets mirrors select."""
    chosen = {uuid for mirror in mirrors for uuid in mirror.select_src_port}
    if any(mirror.select_all for mirror in mirrors):
        chosen = set(bridge.ports)
    for uuid in chosen & db.ports.keys():
        for interface in db.ports[uuid].interfaces:
            peer = db.patch_peer(interface)
            if peer is not None:
                yield peer
