"""Makes the kernel's hooks, rules and counters those that a plan wants.

What is there is read from the kernel, never remembered over a restart: pinned TCX links,
filters by their name, and the maps. Order keeps copies whole at every step: a hook's rules
are written before it is attached, rules that are there are adapted before others are added,
and hooks go before their rules do.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from errno import ENODEV
from pathlib import Path
from uuid import UUID

from ovs_ebpf_tap import abi, bpf, programs, rcu
from ovs_ebpf_tap.encoding import Encoding
from ovs_ebpf_tap.netlink import EGRESS, INGRESS, Netlink
from ovs_ebpf_tap.wanted import CLSACT, TCX, Hook, Rule

_MAX_RULES = abi.constant("MAX_RULES")
_MAX_MIRRORS = abi.constant("MAX_MIRRORS")
_QUARANTINE = abi.constant("QUARANTINE_MS") / 1000

_ATTACH_TYPES = {INGRESS: bpf.TCX_INGRESS, EGRESS: bpf.TCX_EGRESS}
_LOOPBACK = 1

_HOOK = abi.layout("hook")
_COUNTERS = abi.layout("counters")
_MIRROR = abi.layout("mirror")
_UUID = abi.layout("uuid")

Rules = Mapping[Hook, tuple[Rule, ...]]


@dataclass(frozen=True)
class Counters:
    """What a mirror's copies came to: packets, bytes, and copies that failed."""

    packets: int = 0
    bytes: int = 0
    drops: int = 0


def _total(older: Counters, values: bytes) -> Counters:
    """The older counts, and those of all CPUs."""
    each = _COUNTERS.unpack_many(values)
    return Counters(
        *(getattr(older, name) + sum(cpu[name] for cpu in each) for name in _COUNTERS.members)
    )


def _u32(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


def _number(key: bytes) -> int:
    return int.from_bytes(key, sys.byteorder)


def _pack_uuid(uuid: UUID) -> bytes:
    return _UUID.pack(high=uuid.int >> 64, low=uuid.int & (1 << 64) - 1)


def _unpack_uuid(key: bytes) -> UUID:
    halves = _UUID.unpack(key)
    return UUID(int=halves["high"] << 64 | halves["low"])


def choose_attach(wanted: str) -> str:
    """`TCX` or `CLSACT` for `--attach`: TCX where the kernel has it. Raises ValueError."""
    has_tcx = bpf.has_tcx(_LOOPBACK)
    if wanted == TCX and not has_tcx:
        raise ValueError("this kernel has no TCX hooks: Linux 6.6 or later is needed")
    if wanted == "auto":
        return TCX if has_tcx else CLSACT
    return wanted


class Datapath:
    """The hooks on devices, and the maps that their programs read."""

    def __init__(
        self, pin_dir: Path, netlink: Netlink, opened: programs.Programs, attach: str = CLSACT
    ) -> None:
        self._links = pin_dir / programs.LINKS
        self._netlink = netlink
        self._programs = opened
        self._attach = attach
        self._maps = opened.maps
        self._encoding = Encoding(opened.maps)
        self._quarantine: list[tuple[float, int, int]] = []
        self._dead_pins: list[Path] = []
        self._attached: dict[Hook, str] = {}
        self._rules: dict[Hook, tuple[Rule, ...]] = {}
        self._slots: dict[UUID, int] = {}
        self._older: dict[UUID, Counters] = {}
        """What each mirror's copies came to before its slot."""
        self._ranges: dict[Hook, tuple[int, int]] = {}
        self._synced: tuple[Rules, set[UUID]] | None = None
        """What `sync` was last asked for, if all of that is in place."""
        self._counted: dict[UUID, tuple[Counters, bytes]] = {}
        self._counters: dict[UUID, Counters] = {}
        self.read()

    @property
    def rules(self) -> Rules:
        """The rules of each attached hook, as they are in the kernel."""
        return {hook: rules for hook, rules in self._rules.items() if hook in self._attached}

    @property
    def attached(self) -> Mapping[Hook, str]:
        """How each hook is attached, `TCX` or `CLSACT`; with `old` behind for another build."""
        return self._attached

    @property
    def mirrors(self) -> set[UUID]:
        """The mirrors that have a place in the maps."""
        return set(self._slots)

    # What is there.

    def read(self) -> None:
        """Reads hooks, rules and slots back from the kernel."""
        self._synced = None
        self._read_maps()
        self._attached = {**self._read_filters(), **self._read_links()}

    def _read_maps(self) -> None:
        rows = {
            _unpack_uuid(key): _MIRROR.unpack(value)
            for key, value in self._maps["mirrors"].items().items()
        }
        self._slots = {uuid: row["slot"] for uuid, row in rows.items()}
        self._older = {
            uuid: Counters(*(row[name] for name in _COUNTERS.members)) for uuid, row in rows.items()
        }
        mirrors = {slot: uuid for uuid, slot in self._slots.items()}
        entries = {
            Hook(_number(key), direction): _HOOK.unpack(value)
            for direction in (INGRESS, EGRESS)
            for key, value in self._maps[direction].items().items()
        }
        self._ranges = {
            hook: (entry["first"], self._encoding.length(entry["shape"]))
            for hook, entry in entries.items()
        }
        data = self._maps["rules"].first(max(map(sum, self._ranges.values()), default=0))
        self._rules = {}
        for hook, (first, n) in self._ranges.items():
            read = data[first : first + n]
            self._rules[hook] = tuple(self._encoding.unpack(entries[hook]["shape"], read, mirrors))

    def _read_links(self) -> dict[Hook, str]:
        found = {}
        self._dead_pins = []
        for pin in list(self._links.iterdir()) if self._links.is_dir() else []:
            try:
                fd = bpf.get(pin)
            except FileNotFoundError:
                continue  # The sidecar has removed it meanwhile; we are its status command.
            try:
                link = bpf.tcx_link(fd)
            finally:
                os.close(fd)
            direction = INGRESS if link.attach_type == bpf.TCX_INGRESS else EGRESS
            # Its device may be gone, or in another namespace by now.
            if not link.ifindex or not bpf.is_on_device(link):
                self._dead_pins.append(pin)
                continue
            current = link.program_id == self._programs.ids[direction]
            found[Hook(link.ifindex, direction)] = TCX if current else f"{TCX} old"
        return found

    def _read_filters(self) -> dict[Hook, str]:
        found = {}
        for key in self._maps["qdiscs"].items():
            for each in self._netlink.filters(_number(key)):
                current = each.build == self._programs.build
                found[Hook(each.ifindex, each.direction)] = CLSACT if current else f"{CLSACT} old"
        return found

    # What is wanted.

    def sync(self, wanted: Rules, held: set[UUID]) -> dict[int, str]:
        """Makes hooks and rules those wanted, besides those that mirrors in `held` still have.

        Returns why the kernel refused a hook, by ifindex: the rules of other hooks are then in
        place, but no mirror with such a hook is to be moved to them. Asked for the same again, it
        does nothing until `read` was called.
        """
        if self._synced is not None and self._synced[0] is wanted and self._synced[1] == held:
            return {}
        while self._dead_pins:
            # Once only: a new hook's pin may have its name next.
            self._dead_pins.pop().unlink(missing_ok=True)
        goal = self._with_held(wanted, held)
        mirrors = {rule.mirror for rules in goal.values() for rule in rules}
        self._ensure_slots(mirrors)
        different = {
            hook: rules
            for hook, rules in goal.items()
            if self._rules.get(hook) is not rules or self._attached.get(hook) != self._attach
        }
        gone = (self._attached.keys() | self._ranges.keys()) - goal.keys()
        with rcu.expedited() if different or gone else contextlib.nullcontext():
            refused = self._ensure_hooks(different)
            for hook in sorted(gone, key=lambda hook: not self._rules.get(hook)):
                self._remove(hook)
        self._remove_qdiscs({hook.ifindex for hook in goal})
        self._free_slots(mirrors | held)
        self._encoding.keep(self._rules.values())
        whole = not refused and goal.keys() <= self._attached.keys()
        self._synced = (wanted, set(held)) if whole else None
        return refused

    def _ensure_hooks(self, goal: Rules) -> dict[int, str]:
        """Writes the rules and attaches the hooks; returns what was refused as `sync` does."""
        refused: dict[int, str] = {}
        with contextlib.ExitStack() as stack:
            if any(self._attached.get(hook) != self._attach for hook in goal):
                stack.enter_context(rcu.expedited())
            # Copies need the hooks that finish them. Rules that are there may have to mind
            # new ones.
            for hook in sorted(
                goal, key=lambda each: (bool(goal[each]), each not in self._attached)
            ):
                try:
                    self._ensure_rules(hook, goal[hook])
                    self._ensure_attached(hook)
                except OSError as error:
                    if error.errno != ENODEV:
                        refused[hook.ifindex] = f"hook refused: {error.strerror}"
        return refused

    def _with_held(self, wanted: Rules, held: set[UUID]) -> Rules:
        """What is wanted, with the rules of mirrors held, and the hooks that finish copies."""
        goal = dict(wanted)
        for hook, rules in self.rules.items() if held else ():
            groups = {rule.group for rule in goal.get(hook, ())}
            gates = {rule.gate for rule in goal.get(hook, ())}
            kept = tuple(
                rule
                for rule in rules
                if rule.mirror in held and rule.group not in groups and gates <= {rule.gate}
            )
            if kept:
                goal[hook] = goal.get(hook, ()) + kept
        finishing = [rule.finishing_hook for rules in goal.values() for rule in rules]
        for each in finishing:
            if each is not None:
                goal.setdefault(each, ())
        return goal

    # Rules.

    def _ensure_rules(self, hook: Hook, rules: tuple[Rule, ...]) -> None:
        if self._rules.get(hook) == rules:
            self._rules[hook] = rules
            return
        first = self._find_room(len(rules))
        for place, rule in enumerate(rules, start=first):
            data = self._encoding.pack(hook, rule, self._slots[rule.mirror])
            self._maps["rules"].set(_u32(place), data)
        value = _HOOK.pack(first=first, shape=self._encoding.shape(rules))
        self._maps[hook.direction].set(_u32(hook.ifindex), value)
        self._give_back(hook)
        self._ranges[hook] = (first, len(rules))
        self._rules[hook] = rules

    def _find_room(self, n: int) -> int:
        """The first place of `n` free ones; raises OSError if the map is full."""
        now = time.monotonic()
        self._quarantine = [each for each in self._quarantine if each[0] > now]
        taken = [*self._ranges.values(), *(each[1:] for each in self._quarantine)]
        place = 0
        for first, length in sorted(taken):
            if place + n <= first:
                break
            place = max(place, first + length)
        if place + n > _MAX_RULES:
            raise OSError(0, f"more than {_MAX_RULES} rules")
        return place

    def _give_back(self, hook: Hook) -> None:
        run = self._ranges.pop(hook, None)
        if run is not None:
            self._quarantine.append((time.monotonic() + _QUARANTINE, *run))

    # Mirrors and their counters.

    def _ensure_slots(self, mirrors: Iterable[UUID]) -> None:
        new = sorted(set(mirrors) - self._slots.keys())
        taken = set(self._slots.values())
        free = (slot for slot in range(_MAX_MIRRORS) if slot not in taken)
        for uuid, slot in zip(new, free, strict=False):
            self._maps["counters"].clear(_u32(slot))
            self._maps["mirrors"].set(_pack_uuid(uuid), _MIRROR.pack(slot=slot))
            self._slots[uuid] = slot
            self._older[uuid] = Counters()

    def _free_slots(self, used: set[UUID]) -> None:
        for uuid in self._slots.keys() - used:
            self._maps["mirrors"].delete(_pack_uuid(uuid))
            del self._slots[uuid], self._older[uuid]

    def counters(self) -> Mapping[UUID, Counters]:
        """The counters of each mirror that has hooks, or had them a moment ago.

        The object that it returned before if none has changed.
        """
        values = self._maps["counters"].first(max(self._slots.values(), default=-1) + 1)
        counted = {uuid: (self._older[uuid], values[slot]) for uuid, slot in self._slots.items()}
        if counted != self._counted:
            self._counters = {
                uuid: self._counters[uuid]
                if uuid in self._counted and self._counted[uuid] == each
                else _total(*each)
                for uuid, each in counted.items()
            }
            self._counted = counted
        return self._counters

    # Upgrades: the maps of a build are its own.

    def adopt(self, older: Datapath) -> None:
        """Takes over rules, mirrors and qdiscs of an older build, and attaches to its hooks."""
        for key, value in older._maps["qdiscs"].items().items():
            self._maps["qdiscs"].set(key, value)
        self._ensure_slots(older._slots)
        for hook, rules in older.rules.items():
            self._ensure_rules(hook, rules)
            self._ensure_attached(hook)
        for uuid, count in older.counters().items():
            self._add_count(uuid, count)
        self.read()

    def _add_count(self, uuid: UUID, count: Counters) -> None:
        key = _pack_uuid(uuid)
        older = _MIRROR.unpack(self._maps["mirrors"].get(key) or _MIRROR.pack())
        for name in _COUNTERS.members:
            older[name] += getattr(count, name)
        self._maps["mirrors"].set(key, _MIRROR.pack(**older))

    # Hooks.

    def _ensure_attached(self, hook: Hook) -> None:
        how = self._attached.get(hook)
        if how == self._attach:
            return
        if self._attach == TCX:
            self._attach_link(hook)
            if how is not None and how.startswith(CLSACT):
                self._netlink.remove_filter(hook.ifindex, hook.direction)
        else:
            self._attach_filter(hook)
            if how is not None and how.startswith(TCX):
                self._pin(hook).unlink(missing_ok=True)
        self._attached[hook] = self._attach

    def _pin(self, hook: Hook) -> Path:
        return self._links / f"{hook.ifindex}-{hook.direction}"

    def _attach_link(self, hook: Hook) -> None:
        program = self._programs.fd(hook.direction)
        pin = self._pin(hook)
        if pin.exists():
            fd = bpf.get(pin)
            try:
                link = bpf.tcx_link(fd)
                if link.ifindex and bpf.is_on_device(link):
                    bpf.update_link(fd, program)
                    return
            finally:
                os.close(fd)
            pin.unlink()
        self._links.mkdir(mode=0o700, exist_ok=True)
        fd = bpf.create_tcx_link(program, hook.ifindex, _ATTACH_TYPES[hook.direction])
        try:
            bpf.pin(fd, pin)
        finally:
            os.close(fd)

    def _detach_link(self, hook: Hook) -> None:
        pin = self._pin(hook)
        try:
            fd = bpf.get(pin)
        except FileNotFoundError:
            return
        try:
            bpf.detach_link(fd)
        finally:
            os.close(fd)
        pin.unlink(missing_ok=True)

    def _attach_filter(self, hook: Hook) -> None:
        # Noted before it is made, so that a crash in between leaves nothing unknown.
        key = _u32(hook.ifindex)
        known = self._maps["qdiscs"].get(key)
        if known is None:
            ours = self._netlink.ingress_qdisc(hook.ifindex) is None
            self._maps["qdiscs"].set(key, _u32(ours))
        self._netlink.ensure_clsact(hook.ifindex)
        program = self._programs.fd(hook.direction)
        self._netlink.replace_filter(hook.ifindex, hook.direction, program, self._programs.build)

    def _remove(self, hook: Hook) -> None:
        if self._attached.get(hook, "").startswith(TCX):
            self._detach_link(hook)
        if self._maps["qdiscs"].get(_u32(hook.ifindex)) is not None:
            self._netlink.remove_filter(hook.ifindex, hook.direction)
        self._attached.pop(hook, None)
        self._maps[hook.direction].delete(_u32(hook.ifindex))
        self._give_back(hook)
        self._rules.pop(hook, None)

    def _remove_qdiscs(self, used: set[int]) -> None:
        """Removes the clsact qdiscs that were made for hooks that are gone."""
        for key, value in self._maps["qdiscs"].items().items():
            if _number(key) in used and self._attach == CLSACT:
                continue
            if _number(value):
                self._netlink.remove_clsact(_number(key))
                self._netlink.announce(_number(key))
            self._maps["qdiscs"].delete(key)


def older_builds(pin_dir: Path) -> list[programs.Programs]:
    """The pinned programs of other versions, which this one replaces; the caller closes them."""
    opened = []
    for directory in programs.builds(pin_dir):
        if directory.name != programs.build_id():
            try:
                opened.append(programs.Programs(directory))
            except OSError:
                programs.remove_build(directory)  # Half of a build is of no use to anybody.
    return opened
