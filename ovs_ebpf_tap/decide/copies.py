"""The rules of a bridge's hooks: what each copies, for the mirrors that are offloaded.

As `mirror_packet` in `ofproto/ofproto-dpif-xlate.c` does, copies are followed where they leave
through a port that other mirrors select. Here that is done once, in the plan: the hook that a
packet passes first has the rules for all copies that come of it, with what they need changed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from uuid import UUID

from ovs_ebpf_tap.decide.seen_port import hook_of
from ovs_ebpf_tap.decide.topology import Topology
from ovs_ebpf_tap.decide.traversal import TraversalState
from ovs_ebpf_tap.decide.walk import Walk, walk
from ovs_ebpf_tap.model.desired import Hook, Rule
from ovs_ebpf_tap.model.frame_rewrite import ALL


def make_rules(
    topology: Topology, offloaded: Collection[UUID], state: TraversalState
) -> dict[Hook, list[Rule]]:
    """The rules of each hook; those of a group are next to each other.

    They are not all, or not all of them right, if the state then has lost or undecided mirrors.
    """
    desired: dict[Hook, list[Rule]] = defaultdict(list)
    for arrival in (True, False):
        walks = {
            port.uuid: walk(topology, offloaded, port, state, arrival=arrival)
            for port in topology.all_selected
        }
        if arrival:
            state.arrived = _all_copied(topology, walks)
        for uuid, found in walks.items():
            for interface in topology.seen[uuid].interfaces:
                device = topology.device(interface)
                if device is not None and found.rules:
                    desired[hook_of(interface, device, arrival=arrival)] += found.rules
    return _with_flags(desired)


def _all_copied(topology: Topology, arrivals: Mapping[UUID, Walk]) -> dict[int, int]:
    """By group: the VLANs of which all is copied there when it arrives, on any port.

    Then it is not copied when it leaves, unless it was modified; flows that output to a port also
    forward what arrives uncopied.
    """
    traits = topology.context.traits
    if not topology.whole or (traits is not None and (traits.modifies or traits.outputs)):
        return {}
    ports = [
        port
        for port in topology.ports
        if not (port.uuid in topology.reserved or topology.drops_arrivals(port))
    ]
    walks = [(port, arrivals[port.uuid]) for port in ports if port.uuid in arrivals]
    users = Counter(group for _, each in walks for group in each.copied)
    found = {group: ALL for group, count in users.items() if count == len(ports)}
    for port, each in walks if found else ():
        for group in found:
            found[group] &= each.copies_all(group) | ~topology.vlans(port).inside
    return found


def _with_flags(hooks: Mapping[Hook, list[Rule]]) -> dict[Hook, list[Rule]]:
    """Adds what hooks have to mind of each other.

    They tell packets apart where two of them can see the same packet. A packet arrives once.
    So hooks that see arrivals only do not see the same packet; a hook that sees departures may
    see what any other hook with the same group has seen.

    A hook on an output device passes over the copies that other hooks deliver there: where
    they are selected, those other hooks have rules for it.
    """
    users: dict[int, list[bool]] = defaultdict(list)
    for rules in hooks.values():
        for group in {rule.group for rule in rules}:
            users[group].append(rules[0].arrival)
    shared = {group for group, arrival in users.items() if len(arrival) > 1 and not all(arrival)}
    hooked = {hook.ifindex for hook, rules in hooks.items() if not rules[0].arrival}
    return {
        hook: [
            replace(rule, dedup=rule.group in shared, to_hook=rule.output in hooked)
            for rule in rules
        ]
        for hook, rules in hooks.items()
    }
