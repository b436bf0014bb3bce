"""Plans one bridge, component by component, and anew only what has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from uuid import UUID

from ovs_ebpf_tap.decide.bridge_ports import BridgePorts
from ovs_ebpf_tap.decide.component_planner import ComponentPlanner
from ovs_ebpf_tap.decide.components import split
from ovs_ebpf_tap.decide.native_limit import is_over_native_limit
from ovs_ebpf_tap.decide.seen_port import SeenPort
from ovs_ebpf_tap.decide.topology import BridgeContext
from ovs_ebpf_tap.decide.tunnel_ports import TunnelPorts
from ovs_ebpf_tap.model.desired import Plan
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.flow_traits import UNKNOWN_FLAGS, OpenFlow
from ovs_ebpf_tap.model.frame_rewrite import ACCESS, TUNNEL
from ovs_ebpf_tap.model.limits import MAX_MIRRORS
from ovs_ebpf_tap.model.reasons import row_reasons
from ovs_ebpf_tap.model.rows import PATCH_TYPE, Bridge, Database, PatchPeer, Port
from ovs_ebpf_tap.model.surroundings import Surroundings


@dataclass(frozen=True)
class BridgeInput:
    """What a bridge is planned by."""

    db: Database
    bridge: Bridge
    devices: Mapping[str, Device]
    attach: str
    refused: Mapping[int, str]
    openflow: OpenFlow
    surroundings: Surroundings
    multi_bridge_mirrors: frozenset[UUID]
    tunnel_ports: TunnelPorts


@dataclass(frozen=True)
class _SeenPorts:
    """The ports of a bridge, and the values that they were made of."""

    made_of: tuple[object, ...] = ()
    by_uuid: Mapping[UUID, SeenPort] = field(default_factory=dict)

    def following(self, given: BridgeInput) -> _SeenPorts:
        """The ports as they are now.

        They are compared by value; those that are as they were stay the same objects, so that to
        compare what has them costs little.
        """
        db, bridge, devices = given.db, given.bridge, given.devices
        toggles = db.revalidation_toggles
        made_of = (bridge.ports, bridge.datapath_type, db.ports, db.interfaces, toggles, devices)
        if made_of == self.made_of:
            return self
        seen = {}
        for uuid in bridge.ports:
            if uuid in db.ports:
                found = SeenPort.of(db.as_intended(db.ports[uuid]), bridge, db, devices)
                before = self.by_uuid.get(uuid)
                seen[uuid] = before if before == found else found
        return _SeenPorts(made_of, seen)

    @cached_property
    def has_access(self) -> bool:
        """Whether some port is an access port."""
        return any(each.vlans.mode == ACCESS for each in self.by_uuid.values())

    @cached_property
    def access_and_patch_ofports(self) -> frozenset[int]:
        """The OpenFlow numbers of access and patch ports."""
        return frozenset(
            row.ofport
            for each in self.by_uuid.values()
            for row in each.interfaces
            if row.ofport is not None and (each.vlans.mode == ACCESS or row.type == PATCH_TYPE)
        )

    @cached_property
    def tunnels(self) -> list[Port]:
        return [each.port for each in self.by_uuid.values() if each.vlans.mode == TUNNEL]

    @cached_property
    def protected(self) -> list[Port]:
        return [each.port for each in self.by_uuid.values() if each.port.protected]


class BridgePlanner:
    """Plans one bridge again and again.

    A component is planned anew if its ports, its mirrors (but for their statistics) or the bridge's
    context have other values than before.
    """

    def __init__(self) -> None:
        self._seen = _SeenPorts()
        self._context: BridgeContext | None = None
        self._components: dict[UUID, ComponentPlanner] = {}
        """By the component's first mirror."""

    def plan(self, given: BridgeInput, room: int, unplaced: frozenset[UUID]) -> list[Plan]:
        """The plans of its components, with `room` mirrors offloaded at most."""
        self._seen = self._seen.following(given)
        mirrors = given.db.mirrors
        here = [mirrors[uuid].uncounted for uuid in sorted(given.bridge.mirrors) if uuid in mirrors]
        ports = BridgePorts(self._seen.by_uuid, here)
        self._follow(ports, _make_context(given, ports, self._seen))
        planners = self._components.values()
        candidates = [uuid for planner in planners for uuid in planner.offloadable]
        left_out = dict.fromkeys(unplaced, row_reasons.NO_SLOT.told(limit=MAX_MIRRORS))
        if len(candidates) > room:
            reason = row_reasons.MIRRORS_PER_HOST.told(limit=MAX_MIRRORS)
            left_out |= dict.fromkeys(sorted(candidates)[max(room, 0) :], reason)
        return [planner.plan(left_out) for planner in planners]

    def retry(self) -> None:
        """Forgets the components that failed."""
        known = self._components.items()
        self._components = {uuid: planner for uuid, planner in known if not planner.failed}

    def _follow(self, ports: BridgePorts, context: BridgeContext) -> None:
        """Has a planner for each component, the one that there was if nothing has changed."""
        known = self._components if context == self._context else {}
        self._context = context
        self._components = {}
        for component in split(ports):
            first = component.mirrors[0].uuid
            planner = known.get(first)
            if planner is None or planner.component != component:
                planner = ComponentPlanner.of(component, context)
            self._components[first] = planner


def _has_second_tags(ports: BridgePorts, seen: _SeenPorts) -> bool:
    """Whether packets may arrive with a second tag that OVS does not look at."""
    return any(
        each.vlans.mode != ACCESS and uuid not in ports.reserved
        for uuid, each in seen.by_uuid.items()
    )


def _silent_patches(given: BridgeInput, seen: _SeenPorts) -> Iterator[UUID]:
    """The patch ports on which nothing arrives: the peer is not there, or nothing is sent to it."""
    for uuid, port in seen.by_uuid.items():
        patches = [row for row in port.interfaces if row.type == PATCH_TYPE]
        peers = [given.db.patch_peer(row.uuid) for row in patches]
        if patches and not any(_may_send(given, peer) for peer in peers if peer is not None):
            yield uuid


def _may_send(given: BridgeInput, peer: PatchPeer) -> bool:
    """Whether the other bridge may send something to its end of a patch."""
    traits = given.openflow.traits.get(peer.bridge.name)
    ofport = peer.interface.ofport
    if traits is None or ofport is None or ofport not in traits.ports:
        return True
    mirrors = (given.db.mirrors.get(uuid) for uuid in peer.bridge.mirrors)
    copied = any(
        mirror is not None and (mirror.output_port == peer.port or mirror.output_vlan is not None)
        for mirror in mirrors
    )
    paths = traits.ports[ofport]
    return copied or traits.normal or paths.numbered is not None or paths.undecided


def _make_context(given: BridgeInput, ports: BridgePorts, seen: _SeenPorts) -> BridgeContext:
    outputs = (output for mirror in ports.mirrors for output in ports.outputs(mirror))
    inner = [port for port in seen.protected if port.uuid not in ports.reserved]
    traits = given.openflow.traits.get(given.bridge.name)
    return BridgeContext(
        db=given.db.settings,
        bridge=given.bridge.settings,
        attach=given.attach,
        refused=given.refused,
        surroundings=given.surroundings,
        traits=traits,
        examined=given.openflow.examined & set(given.bridge.ports),
        flags=given.openflow.port_flags.get(given.bridge.name, UNKNOWN_FLAGS),
        multi_bridge_mirrors=given.multi_bridge_mirrors,
        over_native_limit=is_over_native_limit(ports),
        has_untagged_output=(
            seen.has_access and any(ports.vlans(each).mode == ACCESS for each in outputs)
        ),
        tunnels=tuple(port for port in seen.tunnels if port.uuid not in ports.reserved),
        silent=frozenset(_silent_patches(given, seen)),
        access_and_patch_ofports=seen.access_and_patch_ofports,
        leaves_tags=traits is None
        or traits.strips
        or (traits.normal and _has_second_tags(ports, seen)),
        protected=inner[0].name if inner else None,
        tunnel_ports=given.tunnel_ports,
    )
