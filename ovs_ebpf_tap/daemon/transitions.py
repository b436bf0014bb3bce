"""Moves of mirrors between Open vSwitch and the hooks, so that no packet is missed.

A mirror is parked once Open vSwitch has drained its packet sockets of what passed the hooks before
they were there. One that is given back keeps its hooks until running flows know of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Protocol
from uuid import UUID

import ovs.poller

from ovs_ebpf_tap.daemon.revalidations import Revalidations, Round
from ovs_ebpf_tap.model.desired import OFFLOADED, OffloadDecision, Plan
from ovs_ebpf_tap.model.rows import SELECT_VLAN_KEY, Database, bridges_of_datapaths
from ovs_ebpf_tap.model.transaction import Transaction
from ovs_ebpf_tap.observe.packet_sockets import SocketDrain


class Drain(Protocol):
    """Waits for Open vSwitch's packet sockets: see `SocketDrain`."""

    done: bool
    wake: float
    """When `run` has something to do; of the monotonic clock."""

    def run(self) -> None:
        """Looks again if it is time."""


class Transitions:
    """The mirrors on their way to the hooks and back, and the revalidations that these need."""

    def __init__(
        self,
        revalidate: Callable[[Collection[str]], Round],
        drain: Callable[[Collection[int]], Drain] = SocketDrain.begin,
    ) -> None:
        """`revalidate` begins a revalidation, given one bridge of each datapath, by name."""
        self._revalidate = revalidate
        self._drain = drain
        self._revalidations = Revalidations()
        self._draining: dict[UUID, Drain] = {}
        self._outputs: Mapping[UUID, UUID | None] = {}
        """The output ports of the mirrors that were parked."""
        self.returning = False
        """Whether a mirror keeps hooks that it is to lose, or a revalidation is to be made."""

    # To the hooks.

    def early(self, db: Database, plan: Plan) -> set[UUID]:
        """The mirrors whose parking waits until OVS has drained its packet sockets."""
        parking = {
            uuid
            for uuid, decision in plan.decisions.items()
            if decision.state == OFFLOADED and not db.mirrors[uuid].parked
        }
        new = parking - self._draining.keys()
        if new:
            self._draining.update(dict.fromkeys(new, self._drain(_arrivals(plan, new))))
        self._draining = {uuid: self._draining[uuid] for uuid in parking}
        for each in set(self._draining.values()):
            each.run()
        return {uuid for uuid, each in self._draining.items() if not each.done}

    @property
    def wake(self) -> float:
        """When a drain is to be looked at; infinite without one."""
        wakes = [each.wake for each in self._draining.values() if not each.done]
        return min(wakes, default=math.inf)

    # To Open vSwitch.

    def held(
        self,
        db: Database,
        decisions: Mapping[UUID, OffloadDecision],
        hooked: Collection[UUID],
        *,
        applied: bool,
        known: bool,
    ) -> set[UUID]:
        """The mirrors of those `hooked` that are not offloaded, but that OVS may not copy for yet.

        `applied` and `known` are as `Revalidations.look` has them.
        """
        rows = {
            uuid: db.mirrors[uuid]
            for uuid in decisions.keys() & db.mirrors.keys() & set(hooked)
            if decisions[uuid].state != OFFLOADED
        }
        parked = {
            uuid for uuid, row in rows.items() if row.parked or SELECT_VLAN_KEY in row.external_ids
        }
        held = parked | self._revalidations.look(
            rows.keys() - parked,
            applied,
            known,
            lambda: self._revalidate(bridges_of_datapaths(db)),
        )
        self.returning = bool(held) or self._revalidations.pending
        return held

    def look_for_outputs(self, db: Database) -> None:
        """Asks for a revalidation if other ports are reserved for copies: flows do not know."""
        rows = db.mirrors
        if any(u not in rows or rows[u].output_port != port for u, port in self._outputs.items()):
            self._revalidations.ask()
        self._outputs = {u: mirror.output_port for u, mirror in rows.items() if mirror.parked}

    def with_request(self, edits: Transaction) -> Transaction:
        """The edits, which ovs-vswitchd is to say of that it has applied them if that matters."""
        return replace(edits, reconfigure=True) if self._revalidations.asked else edits

    def note(self, edits: Transaction) -> None:
        """Notes a transaction that is begun."""
        if edits.reconfigure:
            self._revalidations.written(edit.mirror for edit in edits.mirrors if edit.gives_back)

    # Both.

    @property
    def under_way(self) -> bool:
        """Whether a mirror is on its way."""
        return self.returning or bool(self._draining)

    def run(self) -> bool:
        """Takes in what has happened; returns whether a revalidation has ended."""
        return self._revalidations.run()

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        self._revalidations.wait(poller)

    def close(self) -> None:
        """Ends the revalidations that are under way."""
        self._revalidations.close()


def _arrivals(plan: Plan, mirrors: set[UUID]) -> set[int]:
    """The devices whose hooks copy for these mirrors what arrives, by ifindex."""
    return {
        hook.ifindex
        for hook, rules in plan.hooks.items()
        if any(rule.arrival and rule.mirror in mirrors for rule in rules)
    }
