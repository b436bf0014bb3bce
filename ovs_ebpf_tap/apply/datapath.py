"""Makes the kernel's hooks, rules and counters those of a plan.

What is there is read from the kernel, never remembered over a restart: pinned TCX links,
filters by their name, and the maps. The order of changes loses no copy at any step: a hook's
rules are written before it is attached, present rules are adapted before others are added,
and hooks are removed before their rules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import UUID

import structlog

from ovs_ebpf_tap.apply import cutter, rcu
from ovs_ebpf_tap.apply.attacher import HookAttacher
from ovs_ebpf_tap.apply.dummy import Dummies
from ovs_ebpf_tap.apply.hook_parts import HookParts
from ovs_ebpf_tap.apply.hook_table import DesiredHook, HookTable
from ovs_ebpf_tap.apply.hook_writer import HookWriter
from ovs_ebpf_tap.apply.receiving import Rules, need_cutter, receiving_hooks
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.ebpf.programs import Programs
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.desired import CLSACT, NO_CUTTER, Hook
from ovs_ebpf_tap.observe.devices import DeviceMonitor
from ovs_ebpf_tap.util import unexpected
from ovs_ebpf_tap.util.probes import probe

log = structlog.get_logger()


@dataclass(frozen=True)
class _Request:
    """What `sync` was asked for, and on which devices."""

    desired: Rules
    held: frozenset[UUID]
    devices_version: int


class Datapath:
    """The hooks on devices, and the maps that their programs read."""

    def __init__(
        self,
        pin_dir: Path,
        monitor: DeviceMonitor,
        traffic_control: TrafficControl,
        opened: Programs,
        attach: str = CLSACT,
        *,
        fast_attach: bool = False,
    ) -> None:
        """As `open`, but nothing is read yet."""
        self._monitor = monitor
        self._programs = opened
        self._fast_attach = fast_attach
        self.parts = HookParts.of(pin_dir, traffic_control, opened)
        self._table = HookTable()
        self._writer = HookWriter(self.parts, self._table)
        self.attacher = HookAttacher(attach, self._writer, self._table, monitor)
        self.cutter = cutter.Cutter(Dummies(traffic_control), opened)
        self._pinned: tuple[int, ...] = ()
        self.unfinished = False
        """Whether hooks are still to get faster programs: `sync` again."""
        self.unplaced: frozenset[UUID] = frozenset()
        """The mirrors for which the last `sync` had no slot: it has done nothing."""
        self.stuck: frozenset[Hook] = frozenset()
        """The hooks that the last `sync` could not remove: `sync` again."""
        self._in_place: _Request | None = None
        """What `sync` was last asked for, if all of that is in place."""

    @classmethod
    def open(
        cls,
        pin_dir: Path,
        monitor: DeviceMonitor,
        traffic_control: TrafficControl,
        opened: Programs,
        attach: str = CLSACT,
        *,
        fast_attach: bool = False,
    ) -> Self:
        """The datapath of these programs, read from the kernel; new hooks are attached by `attach`.

        `fast_attach` says whether grace periods are expedited for TCX hooks: see `rcu`.
        """
        made = cls(pin_dir, monitor, traffic_control, opened, attach, fast_attach=fast_attach)
        made.read()
        probe("hooks read")
        return made

    @property
    def rules(self) -> Rules:
        """The rules of each attached hook, as they are in the kernel."""
        return self._table.rules

    @property
    def attached(self) -> Mapping[Hook, str]:
        """How each hook is attached, `TCX` or `CLSACT`; with `old` behind for another build."""
        return {
            hook: f"{attachment.kind} old" if self._table.actual[hook].outdated else attachment.kind
            for hook, attachment in self._table.attached.items()
        }

    @property
    def mirrors(self) -> set[UUID]:
        """The mirrors that have a slot."""
        return set(self.parts.slots.mirrors)

    def counters(self) -> Mapping[UUID, Counters]:
        """As `CounterSlots.counters`."""
        return self.parts.slots.counters()

    def take_ended(self) -> Mapping[UUID, Counters]:
        """As `CounterSlots.take_ended`."""
        return self.parts.slots.take_ended()

    # What is there.

    def has_drifted(self) -> bool:
        """Whether somebody removed or added what the kernel tells nobody of; `read` then.

        Looks at all pins, and at some TCX hooks: at others when it is called again.
        """
        return self._pinned != self._look_at_pins() or self.parts.links.has_drifted()

    def _look_at_pins(self) -> tuple[int, ...]:
        """When pins were last made or removed."""
        return tuple(
            path.stat().st_mtime_ns if path.is_dir() else 0
            for path in (self._programs.directory, self.parts.links.directory)
        )

    def ensure_pins(self) -> None:
        """Pins again what was unpinned; where that can't be, says so."""
        try:
            self._programs.pin_again()
        except (OSError, TapError) as error:
            log.warning("programs not pinned", error=str(error))

    def read(self) -> None:
        """Reads hooks, rules and slots back from the kernel."""
        self._in_place = None
        self._table.actual = self.parts.read()
        self._pinned = self._look_at_pins()

    def hand_over(self, former: UUID, mirror: UUID) -> None:
        """Has the hooks of a mirror copy for another, and count on for it, from now on."""
        if former in self.mirrors and mirror not in self.mirrors:
            self.parts.slots.hand_over(former, mirror)
            self._table.hand_over(former, mirror)
            self._in_place = None

    # What is desired.

    def sync(
        self, desired: Rules, held: set[UUID], *, hw_offload: bool = False
    ) -> dict[int, OSError]:
        """Makes hooks and rules those desired, besides those that mirrors in `held` still have.

        With `hw_offload`, Open vSwitch wants the ingress of devices that lose their hooks.
        Returns how the kernel refused a hook, by ifindex, or the cutter (`NO_CUTTER`): the
        rules of other hooks are then in place, but no mirror with such a hook is to be moved to
        them. Asked for the same again, it does nothing until `read` was called. If it is to find
        slots for more mirrors than there are, it does nothing but to name them (`unplaced`).
        """
        self.unplaced = frozenset()
        request = _Request(desired, frozenset(held), self._monitor.devices_version)
        if request == self._in_place:
            return {}
        self.parts.links.remove_dead_pins()
        rules = self._table.with_held(desired, held)
        mirrors = {rule.mirror for each in rules.values() for rule in each}
        self.unplaced = self.parts.slots.ensure(mirrors)
        if self.unplaced:
            return {}
        goal = self._goal(rules)
        changed, gone = self._table.changed(goal), self._table.gone(goal)
        refused = self.ensure_cutter(rules)
        with self._expedited() if changed or gone else contextlib.nullcontext():
            refused |= self.attacher.attach({hook: goal[hook] for hook in changed})
            self._remove_all(gone)
        if not (changed or refused):
            self.attacher.improve(goal)
        self.unfinished = not (refused or self.attacher.is_finished(goal))
        if not need_cutter(rules):
            self.cutter.remove(self._monitor.devices)
        self._remove_qdiscs(hw_offload=hw_offload)
        self.parts.slots.keep(
            mirrors | held | (self._table.mirrors if refused or self.stuck else set())
        )
        self.parts.encoding.keep(each.rules for each in self._table.actual.values())
        self._pinned = self._look_at_pins()
        done = not (refused or self.stuck or self.unfinished)
        whole = done and goal.keys() <= self._table.attached.keys()
        self._in_place = request if whole else None
        return refused

    def _goal(self, rules: Rules) -> dict[Hook, DesiredHook]:
        self.attacher.forget(rules.keys())
        receiving = receiving_hooks(rules)
        carrying = {hook.of_device for hook in rules if hook.tunnel is not None}
        return {
            hook: DesiredHook(
                each, self.attacher.final(hook, each, receiving.get(hook), tunnels=hook in carrying)
            )
            for hook, each in rules.items()
        }

    def ensure_cutter(self, rules: Rules) -> dict[int, OSError]:
        """Ensures that copies that are to be cut find a cutter; returns what `sync` does."""
        try:
            if need_cutter(rules):
                self.cutter.ensure()
        except OSError as error:
            return {NO_CUTTER: error}
        return {}

    def _expedited(self) -> AbstractContextManager[None]:
        if not self._fast_attach:
            return contextlib.nullcontext()
        return rcu.expedited(self._programs.directory, self._programs.maps["qdiscs"].fd)

    def _remove_all(self, gone: Iterable[Hook]) -> None:
        stuck = set()
        for hook in gone:
            try:
                self._writer.remove(hook)
            except Exception as error:
                stuck.add(hook)
                if hook not in self.stuck:
                    why = str(error)
                    if not isinstance(error, OSError):
                        why = unexpected.reason(f"removal of {hook}", error)
                    device = self._monitor.name_of(hook.ifindex)
                    log.error("hook not removed", device=device, hook=hook.direction, error=why)
        self.stuck = frozenset(stuck)

    def _remove_qdiscs(self, *, hw_offload: bool) -> None:
        """Removes the qdiscs of devices that have no filters any more."""
        attached = self._table.attached.items()
        used = {hook.ifindex for hook, attachment in attached if attachment.kind == CLSACT}
        used |= {hook.ifindex for hook in self.stuck}
        self.parts.filters.remove_qdiscs(used, hw_offload=hw_offload)
