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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from errno import EINVAL, EMFILE, ENFILE, ENODEV, ENOENT, EOPNOTSUPP
from pathlib import Path
from uuid import UUID

import structlog

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply import cutter, rcu
from ovs_ebpf_tap.apply.dummy import Dummies
from ovs_ebpf_tap.apply.encoding import Encoding
from ovs_ebpf_tap.apply.tc_filter import Filter
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.ebpf import bpf, programs
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.desired import CLSACT, EGRESS, INGRESS, NO_CUTTER, TCX, Hook, Rule
from ovs_ebpf_tap.model.frame_rewrite import FrameRewrite
from ovs_ebpf_tap.observe.devices import DeviceMonitor
from ovs_ebpf_tap.util import unexpected
from ovs_ebpf_tap.util.probes import probe

_MAX_RULES = abi.constant("MAX_RULES")
_MAX_MIRRORS = abi.constant("MAX_MIRRORS")
_QUARANTINE = abi.constant("QUARANTINE_MS") / 1000

_IMPROVING = 0.02
"""Seconds of one `sync` that hooks are given faster forms in."""

_LOOKS = 32
"""TCX hooks that are looked at at once: there is a call for each."""

_ATTACH_TYPES = {INGRESS: bpf.TCX_INGRESS, EGRESS: bpf.TCX_EGRESS}
_LOOPBACK = 1

_HOOK = abi.layout("hook")
_COUNTERS = abi.layout("counters")
_MIRROR = abi.layout("mirror")
_UUID = abi.layout("uuid")

Rules = Mapping[Hook, tuple[Rule, ...]]

log = structlog.get_logger()


@dataclass(frozen=True)
class _Form:
    """How a hook is attached.

    `own` says whether its program is its own, made for its one rule, or for the one `edit` of
    copies that arrive; `action` is the device that the filter's action copies to, by ifindex, 0
    without an action, and `marks` whether these copies carry a mark.
    """

    kind: str
    own: bool = False
    edit: FrameRewrite | None = None
    action: int = 0
    marks: bool = False


@dataclass(frozen=True)
class _Own:
    """What a hook's entry says of its own program: the id, and the edit if it makes one."""

    program: int
    edit: FrameRewrite | None


def _total(older: Counters, values: bytes) -> Counters:
    """The older counts, and those of all CPUs."""
    each = _COUNTERS.unpack_many(values)
    return Counters(
        *(getattr(older, name) + sum(cpu[name] for cpu in each) for name in _COUNTERS.members)
    )


def _revision(hook: Hook) -> int:
    """Of the device's TCX hook; 0 if it is gone."""
    try:
        return bpf.tcx_revision(hook.ifindex, _ATTACH_TYPES[hook.direction])
    except OSError as error:
        if error.errno == ENODEV:
            return 0
        raise


def _number(key: bytes) -> int:
    return int.from_bytes(key, sys.byteorder)


def _pack_uuid(uuid: UUID) -> bytes:
    return _UUID.pack(high=uuid.int >> 64, low=uuid.int & (1 << 64) - 1)


def _unpack_uuid(key: bytes) -> UUID:
    halves = _UUID.unpack(key)
    return UUID(int=halves["high"] << 64 | halves["low"])


def choose_attach(wanted: str) -> str:
    """`TCX` or `CLSACT` for `--attach`: TCX where the kernel has it. Raises ValueError.

    A clsact qdisc is faster, but to add or remove one has the kernel drop what is sent to the
    device for about a millisecond (`dev_deactivate` in its `net/sched/sch_generic.c`).
    """
    has_tcx = bpf.has_tcx(_LOOPBACK)
    if wanted == TCX and not has_tcx:
        raise ValueError("this kernel has no TCX hooks: Linux 6.6 or later is needed")
    if wanted == "auto":
        return TCX if has_tcx else CLSACT
    return wanted


class Datapath:
    """The hooks on devices, and the maps that their programs read."""

    def __init__(
        self,
        pin_dir: Path,
        monitor: DeviceMonitor,
        traffic_control: TrafficControl,
        opened: programs.Programs,
        attach: str = CLSACT,
        *,
        fast_attach: bool = False,
    ) -> None:
        """`fast_attach` says whether grace periods are expedited for TCX hooks: see `rcu`."""
        self._links = pin_dir / programs.LINKS
        self._monitor = monitor
        self._traffic_control = traffic_control
        self._programs = opened
        self._attach = attach
        self._fast_attach = fast_attach
        self._maps = opened.maps
        self._dummies = Dummies(traffic_control)
        self._cutter = cutter.Cutter(self._dummies, opened)
        self._encoding = Encoding(opened.maps)
        self._quarantine: list[tuple[float, int, int]] = []
        self._resting: dict[int, float] = {}
        """Slots that were given back, and until when programs may still count there."""
        self._dead_pins: list[Path] = []
        self._attached: dict[Hook, _Form] = {}
        # Those whose program is not the one that their entry tells of.
        self._outdated: set[Hook] = set()
        self._qdiscs: dict[int, bool] = {}
        self._pinned: tuple[int, ...] = ()
        self._revisions: dict[Hook, int] = {}
        """Of TCX hooks, when ours was attached."""
        self._unseen: list[Hook] = []
        """The hooks that `is_disturbed` has yet to look at."""
        self._no_action = False
        self._unimproved: dict[Hook, _Form] = {}
        """Forms that the kernel refused; it takes the shared programs."""
        self.unfinished = False
        """Whether hooks are still to get faster forms: `sync` again."""
        self.unplaced: frozenset[UUID] = frozenset()
        """The mirrors for which the last `sync` had no slot: it has done nothing."""
        self.stuck: frozenset[Hook] = frozenset()
        """The hooks that the last `sync` could not remove: `sync` again."""
        self._rules: dict[Hook, tuple[Rule, ...]] = {}
        self._slots: dict[UUID, int] = {}
        self._older: dict[UUID, Counters] = {}
        """What each mirror's copies came to before its slot."""
        self._ranges: dict[Hook, tuple[int, int]] = {}
        """Where each hook's rules are: the first place, and how many."""
        self._doubtful: dict[Hook, list[tuple[int, int]]] = {}
        """Where rules were written that a hook may go by, though it was not seen to."""
        self._synced: tuple[Rules, set[UUID], object] | None = None
        """What `sync` was last asked for, and on which devices, if all of that is in place."""
        self._looked_at: tuple[object, ...] = ()
        """What `counters` last read, and what it is the counters of."""
        self._counted: dict[UUID, tuple[Counters, bytes]] = {}
        self._counters: dict[UUID, Counters] = {}
        self._ended: dict[UUID, Counters] = {}
        self.read()
        probe("hooks read")

    @property
    def rules(self) -> Rules:
        """The rules of each attached hook, as they are in the kernel."""
        return {hook: rules for hook, rules in self._rules.items() if hook in self._attached}

    @property
    def attached(self) -> Mapping[Hook, str]:
        """How each hook is attached, `TCX` or `CLSACT`; with `old` behind for another build."""
        return {
            hook: f"{form.kind} old" if hook in self._outdated else form.kind
            for hook, form in self._attached.items()
        }

    @property
    def mirrors(self) -> set[UUID]:
        """The mirrors that have a place in the maps."""
        return set(self._slots)

    # What is there.

    def is_disturbed(self) -> bool:
        """Whether somebody removed or added what the kernel tells nobody of; `read` then.

        Looks at all pins, and at some TCX hooks: at others when it is called again.
        """
        if self._pinned != self._look_at_pins():
            return True
        looked, self._unseen = self._unseen[:_LOOKS], self._unseen[_LOOKS:]
        if not self._unseen:
            self._unseen = list(self._revisions)
        return any(
            hook in self._revisions and self._revisions[hook] != _revision(hook) for hook in looked
        )

    def _look_at_pins(self) -> tuple[int, ...]:
        """When pins were last made or removed."""
        return tuple(
            path.stat().st_mtime_ns if path.is_dir() else 0
            for path in (self._programs.directory, self._links)
        )

    def ensure_pins(self) -> None:
        """Pins again what was unpinned; where that can't be, says so."""
        try:
            self._programs.pin_again()
        except (OSError, TapError) as error:
            log.warning("programs not pinned", error=str(error))

    def read(self) -> None:
        """Reads hooks, rules and slots back from the kernel."""
        self._synced = None
        own = self._read_maps()
        self._outdated.clear()
        self._attached = {}
        self._revisions = {}
        self._read_filters(own)
        self._read_links(own)
        self._pinned = self._look_at_pins()

    def _read_maps(self) -> dict[Hook, _Own]:
        """Returns what the entries say of hooks' own programs."""
        rows = {
            _unpack_uuid(key): _MIRROR.unpack(value)
            for key, value in self._maps["mirrors"].items().items()
        }
        self._slots = {uuid: row["slot"] for uuid, row in rows.items()}
        self._older = {
            uuid: Counters(*(row[name] for name in _COUNTERS.members)) for uuid, row in rows.items()
        }
        mirrors = {slot: uuid for uuid, slot in self._slots.items()}
        self._qdiscs = {
            _number(key): bool(_number(value))
            for key, value in self._maps["qdiscs"].items().items()
        }
        entries = {
            Hook(_number(key), direction): _HOOK.unpack(value)
            for direction in (INGRESS, EGRESS)
            for key, value in self._maps[direction].items().items()
        }
        self._ranges = {
            hook: (entry["first"] if n else 0, n)
            for hook, entry in entries.items()
            for n in [self._encoding.length(entry["flags"])]
        }
        data = self._maps["rules"].first(max(map(sum, self._ranges.values()), default=0))
        self._rules = {}
        own: dict[Hook, _Own] = {}
        for hook, (first, n) in self._ranges.items():
            entry, read = entries[hook], data[first : first + n]
            try:
                rules = tuple(self._encoding.unpack(entry["flags"], read, mirrors))
                finishes = entry["program"] and not rules
                edit = self._encoding.rewrite_at(entry["first"]) if finishes else None
            except Exception as error:
                # As if it had none, it gets what it is to have.
                unexpected.reason(f"entry of {hook}", error)
                rules, edit = (), None
            self._rules[hook] = rules
            if entry["program"]:
                own[hook] = _Own(entry["program"], edit)
        return own

    def _note_attached(self, hook: Hook, form: _Form, *, current: bool) -> None:
        self._attached[hook] = form
        if form.kind == TCX:
            self._revisions[hook] = _revision(hook)
        self._outdated.discard(hook)
        if not current:
            self._outdated.add(hook)

    def _read_links(self, own: Mapping[Hook, _Own]) -> None:
        self._dead_pins = []
        for pin in list(self._links.iterdir()) if self._links.is_dir() else []:
            try:
                fd = bpf.get(pin)
            except FileNotFoundError:
                continue  # The sidecar has removed it meanwhile; we are its status command.
            try:
                link = bpf.tcx_link(fd)
            except OSError as error:
                if error.errno != EINVAL:
                    raise
                continue  # Somebody else's pin.
            finally:
                os.close(fd)
            direction = INGRESS if link.attach_type == bpf.TCX_INGRESS else EGRESS
            # Its device may be gone, or in another namespace by now.
            if not link.ifindex or not bpf.is_on_device(link):
                self._dead_pins.append(pin)
                continue
            hook = Hook(link.ifindex, direction)
            mine = own.get(hook)
            wanted = self._programs.ids[direction] if mine is None else mine.program
            form = _Form(TCX, mine is not None, mine.edit if mine is not None else None)
            self._note_attached(hook, form, current=link.program_id == wanted)

    def _read_filters(self, own: Mapping[Hook, _Own]) -> None:
        for ifindex in self._qdiscs:
            for each in self._filters(ifindex):
                hook = Hook(each.ifindex, each.direction)
                mine = own.get(hook)
                wanted = 0 if mine is None else mine.program
                current = each.build == self._programs.build and each.program == wanted
                edit = mine.edit if mine is not None else None
                form = _Form(CLSACT, mine is not None, edit, each.action, each.unmarked)
                self._note_attached(hook, form, current=current)

    def _filters(self, ifindex: int) -> list[Filter]:
        try:
            return self._traffic_control.filters(ifindex)
        except OSError:
            raise
        except Exception as error:  # Whatever others have there.
            unexpected.reason(f"filters of device {ifindex}", error)
            return []

    # What is wanted.

    def sync(
        self, wanted: Rules, held: set[UUID], *, hw_offload: bool = False
    ) -> dict[int, OSError]:
        """Makes hooks and rules those wanted, besides those that mirrors in `held` still have.

        With `hw_offload`, Open vSwitch wants the ingress of devices that lose their hooks.
        Returns how the kernel refused a hook, by ifindex, or the cutter (`NO_CUTTER`): the
        rules of other hooks are then in place, but no mirror with such a hook is to be moved to
        them. Asked for the same again, it does nothing until `read` was called. If it is to find
        slots for more mirrors than there are, it does nothing but to name them (`unplaced`).
        """
        self.unplaced = frozenset()
        devices = self._monitor.devices
        if self._synced is not None:
            rules, mirrors, known = self._synced
            if rules is wanted and mirrors == held and known is devices:
                return {}
        while self._dead_pins:
            # Once only: a new hook's pin may have its name next.
            self._dead_pins.pop().unlink(missing_ok=True)
        goal = self._with_held(wanted, held)
        receiving = _receiving(goal)
        mirrors = {rule.mirror for rules in goal.values() for rule in rules}
        self.unplaced = self._ensure_slots(mirrors)
        if self.unplaced:
            return {}
        forms = {hook: self._form(goal[hook], receiving.get(hook)) for hook in goal}
        different = [hook for hook in goal if not self._is_there(hook, goal[hook], forms[hook])]
        if self._unimproved.keys() - goal.keys():
            self._unimproved = {k: form for k, form in self._unimproved.items() if k in goal}
        # Copies need the hooks that finish them. Rules that are there may have to mind new ones.
        before = _receiving(self.rules) if different else {}
        different.sort(
            key=lambda each: (each not in receiving, each in before, each not in self._attached)
        )
        gone = (self._attached.keys() | self._ranges.keys()) - goal.keys()
        refused = self._ensure_cutter(goal)
        with self._expedited() if different or gone else contextlib.nullcontext():
            refused |= self._ensure({hook: (goal[hook], forms[hook].kind) for hook in different})
            self._remove_all(sorted(gone, key=lambda hook: not self._rules.get(hook)))
        self.unfinished = not refused and (bool(different) or self._improve(goal, forms))
        if not _cuts(goal):
            self._cutter.remove(self._monitor.devices)
        self._remove_qdiscs(hw_offload=hw_offload)
        left = self._rules.values() if refused or self.stuck else ()
        self._free_slots(mirrors | held | {rule.mirror for rules in left for rule in rules})
        self._encoding.keep(self._rules.values())
        self._pinned = self._look_at_pins()
        done = not (refused or self.stuck or self.unfinished)
        whole = done and goal.keys() <= self._attached.keys()
        self._synced = (wanted, set(held), devices) if whole else None
        return refused

    def _ensure_cutter(self, goal: Rules) -> dict[int, OSError]:
        """Sees to it that copies that are to be cut find a cutter; returns what `sync` does."""
        try:
            if _cuts(goal):
                self._cutter.ensure()
        except OSError as error:
            return {NO_CUTTER: error}
        return {}

    def _expedited(self) -> AbstractContextManager[None]:
        if not self._fast_attach:
            return contextlib.nullcontext()
        return rcu.expedited(self._programs.directory, self._maps["qdiscs"].fd)

    def _with_held(self, wanted: Rules, held: set[UUID]) -> Rules:
        """What is wanted, with the rules of mirrors held, and the hooks that finish copies.

        Hooks of theirs that somebody has removed come back, too: nobody else copies yet.
        """
        goal = dict(wanted)
        for hook, rules in self._rules.items() if held else ():
            groups = {rule.group for rule in goal.get(hook, ())}
            policies = {rule.ingress_policy for rule in goal.get(hook, ())}
            kept = tuple(
                rule
                for rule in rules
                if rule.mirror in held
                and rule.group not in groups
                and policies <= {rule.ingress_policy}
            )
            if kept:
                goal[hook] = goal.get(hook, ()) + kept
        finishing = [rule.finishing_hook for rules in goal.values() for rule in rules]
        for each in finishing:
            if each is not None:
                goal.setdefault(each, ())
        return goal

    # Rules.

    def _is_there(self, hook: Hook, rules: tuple[Rule, ...], form: _Form) -> bool:
        """Whether the hook does what is wanted, in the wanted form or by the shared program."""
        if hook in self._outdated or self._rules.get(hook) != rules:
            return False
        if self._attached.get(hook) not in (form, _Form(form.kind)):
            return False
        self._rules[hook] = rules  # The same object is found equal sooner.
        return True

    def _ensure(self, wanted: Mapping[Hook, tuple[tuple[Rule, ...], str]]) -> dict[int, OSError]:
        """Has hooks with these rules, attached so, in this order; returns what `sync` does."""
        refused: dict[int, OSError] = {}
        for hook, (rules, kind) in wanted.items():
            self._unimproved.pop(hook, None)
            try:
                self._replace(hook, rules, _Form(kind))
            except OSError as error:
                if error.errno != ENODEV:
                    refused[hook.ifindex] = error
            except Exception as error:
                refused[hook.ifindex] = OSError(0, unexpected.reason(f"{hook}", error))
        return refused

    def _improve(self, goal: Rules, forms: Mapping[Hook, _Form]) -> bool:
        """Has hooks in their fastest forms, for a while; returns whether some are left.

        To load a program takes milliseconds, in which a copy waits for its hook, or a change for
        its turn.
        """
        until = time.monotonic() + _IMPROVING
        for hook, form in forms.items():
            there = self._attached.get(hook)
            if there in (None, form) or self._unimproved.get(hook) == form:
                continue
            if time.monotonic() >= until:
                return True
            try:
                self._replace(hook, goal[hook], form)
            except OSError as error:
                self._unimproved[hook] = form
                if form.action and error.errno in (ENOENT, EOPNOTSUPP):
                    self._no_action = True  # The kernel has no act_mirred.
                    return True
                if error.errno != ENODEV:
                    log.warning("slower hook", ifindex=hook.ifindex, error=error.strerror)
            except Exception as error:
                self._unimproved[hook] = form
                unexpected.reason(f"faster {hook}", error)
        return False

    def _replace(self, hook: Hook, rules: tuple[Rule, ...], form: _Form) -> None:
        """Has another program, or other rules, in a hook's place, with no packet in between.

        If that fails, the hook's entry is again what it was, and the rules that were written rest;
        where something may go by them, they stay until the hook is replaced or removed.
        """
        packed = [self._encoding.pack(hook, rule, self._slots[rule.mirror]) for rule in rules]
        written = hook in self._ranges and self._rules.get(hook) == rules
        first = self._ranges[hook][0] if written else self._write(hook, packed)
        entry = self._maps[hook.direction].get(bpf.u32(hook.ifindex))
        try:
            self._put(hook, rules, form, packed, first)
        except BaseException:
            if self._put_back(hook, entry) and not written and not form.own:
                self._doubtful[hook].remove((first, len(rules)))
                self._rest([(first, len(rules))])
            raise
        if not written:
            self._doubtful[hook].remove((first, len(rules)))
            self._give_back(hook)
        self._ranges[hook] = (first, len(rules))
        self._rules[hook] = rules
        self._note_attached(hook, form, current=True)

    def _put(
        self,
        hook: Hook,
        rules: tuple[Rule, ...],
        form: _Form,
        packed: Sequence[bytes],
        first: int,
    ) -> None:
        """Has the hook go by its rules, which are written.

        The shared program goes by the hook's entry, so that is there first. A program of its own
        does not; an entry that tells of it says that it is attached.
        """
        flags = self._encoding.hook_flags(rules, by_action=bool(form.action))
        if form.edit is not None:
            constants = self._encoding.rewrite_constants(form.edit)
            entry = {"first": self._encoding.rewrite_index(form.edit), "flags": 0}
            self._attach_own(hook, form, "tap_output", constants, entry)
        elif form.own:
            constants = self._encoding.rule_constants(rules[0], packed[0], first, flags)
            entry = {"first": first, "flags": flags}
            self._attach_own(hook, form, "tap_specialized", constants, entry)
        else:
            self._publish(hook, {"first": first, "flags": flags})
            self._attach_program(hook, form, self._programs.fd(hook.direction), 0)

    def _put_back(self, hook: Hook, entry: bytes | None) -> bool:
        """Has the hook's entry as it was, None for none; returns whether it is."""
        entries, key = self._maps[hook.direction], bpf.u32(hook.ifindex)
        try:
            if entry is None:
                entries.delete(key)
            else:
                entries.set(key, entry)
        except OSError:
            return False
        return True

    def _write(self, hook: Hook, packed: Sequence[bytes]) -> int:
        """Has rules in free places; returns the first. Raises OSError if there are none.

        They are taken before anything can go by them.
        """
        first = self._find_room(len(packed))
        self._doubtful.setdefault(hook, []).append((first, len(packed)))
        for place, data in enumerate(packed, start=first):
            self._maps["rules"].set(bpf.u32(place), data)
        return first

    def _attach_own(
        self,
        hook: Hook,
        form: _Form,
        name: str,
        constants: Mapping[int, int],
        entry: Mapping[str, int],
    ) -> None:
        program = self._programs.load_own(name, constants)
        try:
            number = bpf.program_id(program)
            self._attach_program(hook, form, program, number)
        finally:
            os.close(program)
        self._publish(hook, {**entry, "program": number})

    def _publish(self, hook: Hook, entry: Mapping[str, int]) -> None:
        self._maps[hook.direction].set(bpf.u32(hook.ifindex), _HOOK.pack(**entry))
        probe("entry written")

    # Which program, and how it is attached.

    def _form(self, rules: tuple[Rule, ...], edits: set[FrameRewrite] | None) -> _Form:
        """The fastest that there is for a hook.

        A clsact filter's action clones without touching the original's head, which
        `bpf_clone_redirect` copies; but there is one action a hook, and what is delivered to a
        device's ingress is not the same. What a filter may select is left to the shared programs.
        """
        own = len(rules) == 1
        edit = None
        if not rules and edits and len(edits) == 1:
            own, (edit,) = True, edits
        if self._attach == TCX:
            return _Form(TCX, own, edit)
        action = 0
        if own and rules and edits is None and not self._no_action:
            (rule,) = rules
            if rule.match is None and not rule.to_ingress and self._monitor.is_up(rule.output):
                action = rule.output
        marks = bool(action) and _receiving_hook(rules[0]) is not None
        return _Form(CLSACT, own, edit, action, marks)

    def _find_room(self, n: int) -> int:
        """The first place of `n` free ones; raises OSError if the map is full."""
        now = time.monotonic()
        self._quarantine = [each for each in self._quarantine if each[0] > now]
        doubtful = [run for runs in self._doubtful.values() for run in runs]
        used = [*self._ranges.values(), *doubtful, *(each[1:] for each in self._quarantine)]
        taken = [(first, length) for first, length in used if length]
        place = 0
        for first, length in sorted(taken):
            if place + n <= first:
                break
            place = max(place, first + length)
        if place + n > _MAX_RULES:
            raise OSError(0, f"more than {_MAX_RULES} rules")
        return place

    def _give_back(self, hook: Hook) -> None:
        runs = self._doubtful.pop(hook, [])
        if hook in self._ranges:
            runs.append(self._ranges.pop(hook))
        self._rest(runs)

    def _rest(self, runs: Iterable[tuple[int, int]]) -> None:
        """Has nobody write there for a while: programs may still go by it."""
        until = time.monotonic() + _QUARANTINE
        self._quarantine += [(until, *run) for run in runs]

    # Mirrors and their counters.

    def _ensure_slots(self, mirrors: Iterable[UUID]) -> frozenset[UUID]:
        """Sees to it that the mirrors have slots; if some can't, has none take one, and says which.

        A slot rests before another mirror has it: programs just taken off may still count there.
        """
        new = sorted(set(mirrors) - self._slots.keys())
        now = time.monotonic()
        self._resting = {slot: until for slot, until in self._resting.items() if until > now}
        taken = {*self._slots.values(), *self._resting}
        free = [slot for slot in range(_MAX_MIRRORS) if slot not in taken] if new else []
        if len(new) > len(free):
            return frozenset(new[len(free) :])
        for uuid, slot in zip(new, free, strict=False):
            self._maps["counters"].clear(bpf.u32(slot))
            self._maps["mirrors"].set(_pack_uuid(uuid), _MIRROR.pack(slot=slot))
            self._slots[uuid] = slot
            self._older[uuid] = Counters()
        return frozenset()

    def _free_slots(self, used: set[UUID]) -> None:
        gone = self._slots.keys() - used
        if gone:
            last = self.counters()
            self._ended |= {uuid: last[uuid] for uuid in gone}
        until = time.monotonic() + _QUARANTINE
        for uuid in gone:
            self._maps["mirrors"].delete(_pack_uuid(uuid))
            self._resting[self._slots.pop(uuid)] = until
            del self._older[uuid]

    def counters(self) -> Mapping[UUID, Counters]:
        """The counters of each mirror that has hooks, or had them a moment ago.

        The object that it returned before if none has changed.
        """
        values = self._maps["counters"].first(max(self._slots.values(), default=-1) + 1)
        seen = (values, dict(self._slots), dict(self._older))
        if seen == self._looked_at:
            return self._counters
        self._looked_at = seen
        counted = {uuid: (self._older[uuid], values[slot]) for uuid, slot in self._slots.items()}
        self._counters = {
            uuid: self._counters[uuid]
            if uuid in self._counted and self._counted[uuid] == each
            else _total(*each)
            for uuid, each in counted.items()
        }
        self._counted = counted
        return self._counters

    def take_ended(self) -> Mapping[UUID, Counters]:
        """The last counters of mirrors that have lost their slots since this was last asked."""
        ended, self._ended = self._ended, {}
        return ended

    # Upgrades: the maps of a build are its own.

    def adopt(self, older: Datapath) -> None:
        """Takes over rules, mirrors and qdiscs of an older build, and attaches to its hooks."""
        for ifindex, ours in older._qdiscs.items():
            self._note_qdisc(ifindex, ours)
        self.read()
        self._ensure_slots(older._slots)
        self._ensure_cutter(older.rules)
        self._ensure({hook: (rules, self._attach) for hook, rules in older.rules.items()})
        probe("older hooks taken over")
        for ifindex in older._qdiscs:
            self._traffic_control.remove_former(ifindex)
        for uuid, count in older.counters().items():
            self._take_count(uuid, count)
            probe("older counters taken over")
        cutter.remove_all(self._dummies, keep=self._cutter.name)
        self.read()
        probe("older build taken over")

    def _take_count(self, uuid: UUID, count: Counters) -> None:
        """Has our count begin at that; one that was killed after it had is no reason to add."""
        key = _pack_uuid(uuid)
        older = _MIRROR.unpack(self._maps["mirrors"].get(key) or _MIRROR.pack())
        for name in _COUNTERS.members:
            older[name] = max(older[name], getattr(count, name))
        self._maps["mirrors"].set(key, _MIRROR.pack(**older))

    # Hooks.

    def _attach_program(self, hook: Hook, form: _Form, program: int, number: int) -> None:
        there = self._attached.get(hook)
        if form.kind == TCX:
            self._attach_link(hook, program)
            if there is not None and there.kind == CLSACT:
                self._traffic_control.remove_filter(hook.ifindex, hook.direction)
        else:
            self._attach_filter(hook, form, program, number)
            if there is not None and there.kind == TCX:
                self._pin(hook).unlink(missing_ok=True)
        probe("program attached")

    def _pin(self, hook: Hook) -> Path:
        return self._links / f"{hook.ifindex}-{hook.direction}"

    def _attach_link(self, hook: Hook, program: int) -> None:
        pin = self._pin(hook)
        if pin.exists():
            fd = bpf.get(pin)
            try:
                link = bpf.tcx_link(fd)
                if link.ifindex and bpf.is_on_device(link):
                    bpf.update_link(fd, program)
                    probe("link's program replaced")
                    return
            finally:
                os.close(fd)
            pin.unlink()
        self._links.mkdir(mode=0o700, exist_ok=True)
        fd = bpf.create_tcx_link(program, hook.ifindex, _ATTACH_TYPES[hook.direction])
        probe("link made")
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
        except OSError as error:
            if error.errno not in (EMFILE, ENFILE):
                raise
            pin.unlink(missing_ok=True)  # Then the kernel takes it off, if not at once.
            return
        try:
            bpf.detach_link(fd)
            probe("link detached")
        finally:
            os.close(fd)
        pin.unlink(missing_ok=True)

    def _attach_filter(self, hook: Hook, form: _Form, program: int, number: int) -> None:
        if hook.ifindex not in self._qdiscs:
            # Noted before it is made, so that a crash in between leaves nothing unknown.
            self._note_qdisc(hook.ifindex, self._makes_qdisc(hook.ifindex))
        self._traffic_control.ensure_clsact(hook.ifindex)
        probe("qdisc made")
        if form.marks:
            self._traffic_control.ensure_unmark(hook.ifindex, hook.direction, self._programs.unmark)
            probe("program that unmarks attached")
        self._traffic_control.replace_filter(
            hook.ifindex,
            hook.direction,
            program,
            self._programs.build,
            number,
            form.action,
            made=self._qdiscs[hook.ifindex],
        )
        if not form.marks:
            self._traffic_control.remove_unmark(hook.ifindex, hook.direction)

    def _makes_qdisc(self, ifindex: int) -> bool:
        """Whether the clsact qdisc is to be made by us, or was: filters tell if pins were lost."""
        if self._traffic_control.ingress_qdisc(ifindex) is None:
            return True
        return any(each.made for each in self._traffic_control.filters(ifindex))

    def _remove_all(self, gone: Iterable[Hook]) -> None:
        stuck = set()
        for hook in gone:
            try:
                self._remove(hook)
            except Exception as error:
                stuck.add(hook)
                if hook not in self.stuck:
                    why = str(error)
                    if not isinstance(error, OSError):
                        why = unexpected.reason(f"removal of {hook}", error)
                    log.error("hook not removed", ifindex=hook.ifindex, error=why)
        self.stuck = frozenset(stuck)

    def _remove(self, hook: Hook) -> None:
        probe("hooks about to go")
        there = self._attached.get(hook)
        if there is not None and there.kind == TCX:
            self._detach_link(hook)
        if hook.ifindex in self._qdiscs:
            self._traffic_control.remove_filter(hook.ifindex, hook.direction)
            probe("filter removed")
        self._attached.pop(hook, None)
        self._revisions.pop(hook, None)
        self._outdated.discard(hook)
        self._maps[hook.direction].delete(bpf.u32(hook.ifindex))
        self._give_back(hook)
        self._rules.pop(hook, None)
        probe("hook removed")

    def _remove_qdiscs(self, *, hw_offload: bool) -> None:
        """Removes the clsact qdiscs that were made for hooks that are gone."""
        used = {hook.ifindex for hook, form in self._attached.items() if form.kind == CLSACT}
        for ifindex in self._qdiscs.keys() - used - {hook.ifindex for hook in self.stuck}:
            if self._qdiscs[ifindex]:
                probe("qdisc about to go")
                self._traffic_control.remove_clsact(ifindex, hw_offload=hw_offload)
                probe("qdisc removed")
                self._traffic_control.announce(ifindex)
            self._maps["qdiscs"].delete(bpf.u32(ifindex))
            del self._qdiscs[ifindex]

    def _note_qdisc(self, ifindex: int, ours: bool) -> None:
        self._maps["qdiscs"].set(bpf.u32(ifindex), bpf.u32(ours))
        self._qdiscs[ifindex] = ours
        probe("qdisc noted")


def _cuts(rules: Mapping[Hook, Iterable[Rule]]) -> bool:
    """Whether copies are to be cut."""
    return any(rule.edit.snaplen for each in rules.values() for rule in each)


def _receiving_hook(rule: Rule) -> Hook | None:
    """The hook where the rule's copies arrive with a mark, if they do."""
    if rule.to_hook:
        return Hook(rule.output, INGRESS if rule.to_ingress else EGRESS)
    return rule.finishing_hook


def _receiving(rules: Mapping[Hook, Iterable[Rule]]) -> dict[Hook, set[FrameRewrite]]:
    """The hooks where copies arrive with a mark, and the edits that are to be made there."""
    found: dict[Hook, set[FrameRewrite]] = {}
    for rule in (rule for each in rules.values() for rule in each):
        hook = _receiving_hook(rule)
        if hook is not None:
            edits = found.setdefault(hook, set())
            if rule.finishing_hook is not None:
                edits.add(rule.edit)
    return found


def older_builds(pin_dir: Path) -> list[programs.Programs]:
    """The pinned programs of other versions, which this one replaces; the caller closes them."""
    opened = []
    for directory in programs.builds(pin_dir):
        if directory.name != programs.build_id():
            try:
                opened.append(programs.Programs(directory))
                probe("older build found")
            except FileNotFoundError:
                programs.remove_build(directory)  # Half of a build is of no use to anybody.
    return opened
