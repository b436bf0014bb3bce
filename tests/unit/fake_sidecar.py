"""Fakes of what surrounds a sidecar's parts: they do as a test says, and note what is done."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from builders import World

from ovs_ebpf_tap.daemon.observer import Events, Observation
from ovs_ebpf_tap.decide.followed_ports import followed_ports
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.desired import Hook, Rule
from ovs_ebpf_tap.model.flow_traits import OpenFlow
from ovs_ebpf_tap.model.rows import Database
from ovs_ebpf_tap.model.transaction import Transaction

Statistics = Mapping[UUID, Mapping[str, int]]


class FakeDrain:
    """Lasts until the test ends it."""

    def __init__(self, ifindexes: Collection[int] = ()) -> None:
        self.ifindexes = set(ifindexes)
        self.done = False
        self.wake = 5.0

    def run(self) -> None:
        pass


class FakeRevalidation:
    """Lasts until the test ends it."""

    lost = False

    def __init__(self) -> None:
        self.done = False
        self.closed = False

    def run(self) -> None:
        pass

    def wait(self, poller: object) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class FakeWriter:
    """Holds the statistics that it is told to; `written` has all of them."""

    def __init__(self) -> None:
        self.held: Statistics = {}
        self.holds = True
        self.written: list[Statistics] = []
        self.overwritten: Statistics = {}

    def run(self) -> Statistics:
        found, self.overwritten = self.overwritten, {}
        return found

    def hold(self, values: Statistics, stale: set[UUID]) -> None:
        self.held = values
        self.written.append(values)

    def rest(self) -> None:
        self.held = {}

    def wait(self, poller: object) -> None:
        pass


class FakeDatapath:
    """Has the rules that it is told to have, but for the hooks that it refuses."""

    def __init__(self) -> None:
        self.rules: dict[Hook, tuple[Rule, ...]] = {}
        self.refuses: dict[int, OSError] = {}
        self.no_slots: frozenset[UUID] = frozenset()
        self.unplaced: frozenset[UUID] = frozenset()
        self.unfinished = False
        self.stuck: frozenset[Hook] = frozenset()
        self.syncs = 0
        self.reads = 0
        self.disturbed = False
        self.counted: Mapping[UUID, Counters] = {}
        self.ended: Mapping[UUID, Counters] = {}

    @property
    def mirrors(self) -> set[UUID]:
        return {rule.mirror for rules in self.rules.values() for rule in rules}

    def hand_over(self, former: UUID, mirror: UUID) -> None:
        self.rules = {
            hook: tuple(
                replace(rule, mirror=mirror) if rule.mirror == former else rule for rule in rules
            )
            for hook, rules in self.rules.items()
        }
        self.counted = {
            mirror if uuid == former else uuid: each for uuid, each in self.counted.items()
        }

    def ensure_pins(self) -> None:
        pass

    def read(self) -> None:
        self.reads += 1

    def has_drifted(self) -> bool:
        return self.disturbed

    def sync(
        self, wanted: Mapping[Hook, tuple[Rule, ...]], held: set[UUID], *, hw_offload: bool
    ) -> dict[int, OSError]:
        self.syncs += 1
        kept = {
            hook: tuple(rule for rule in rules if rule.mirror in held)
            for hook, rules in self.rules.items()
        }
        mirrors = {rule.mirror for rules in wanted.values() for rule in rules}
        self.unplaced = self.no_slots & mirrors
        if self.unplaced:
            return {}
        kept = {hook: rules for hook, rules in kept.items() if rules}
        taken = {hook: rules for hook, rules in wanted.items() if hook.ifindex not in self.refuses}
        self.rules = {**kept, **taken}
        return {hook.ifindex: self.refuses[hook.ifindex] for hook in wanted.keys() - taken.keys()}

    def counters(self) -> Mapping[UUID, Counters]:
        return self.counted

    def take_ended(self) -> Mapping[UUID, Counters]:
        ended, self.ended = self.ended, {}
        return ended


class FakeOvsdb:
    """Has a world's rows; `committed` are the transactions, which the test carries out."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.connected = True
        self.locked_out = False
        self.away = False
        self.busy = False
        self.is_applied = True
        self.last_reconfigure = 1
        self.committed: list[Transaction] = []

    def snapshot(self) -> Database:
        return self.world.db

    def applied(self, db: Database) -> bool:
        return self.is_applied

    def commit(self, edits: Transaction) -> None:
        self.committed.append(edits)


class FakeObserver:
    """Observes a world; `events` are told once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.events = Events(False, False, False, frozenset())
        self.wake = math.inf
        self.followed: list[str] = []
        """Bridges."""
        self.refreshed = 0
        self.closed = False

    def run(self) -> Events:
        events, self.events = self.events, Events(False, False, False, frozenset())
        return events

    def refresh(self) -> None:
        self.refreshed += 1

    def observe(self, now: float) -> Observation:
        world = self.world
        surroundings = world.surroundings
        return Observation(
            world.db, dict(world.devices), world.openflow, surroundings.state, surroundings.reserved
        )

    def follow_flows(self, db: Database) -> OpenFlow:
        self.followed = sorted(followed_ports(db))
        return self.world.openflow

    def hidden(self, seen: Observation) -> Mapping[int, str]:
        return {}

    def wait(self, poller: Any) -> None:
        pass

    def close(self) -> None:
        self.closed = True
