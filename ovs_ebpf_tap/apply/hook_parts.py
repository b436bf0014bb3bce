"""What a hook consists of in the kernel: entry, rules, program, link or filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import UUID

from ovs_ebpf_tap.apply.attachment import Attachment
from ovs_ebpf_tap.apply.clsact import ClsactFilters
from ovs_ebpf_tap.apply.counter_slots import CounterSlots
from ovs_ebpf_tap.apply.encoding import Encoding
from ovs_ebpf_tap.apply.hook_entries import HookEntries
from ovs_ebpf_tap.apply.hook_table import ActualHook
from ovs_ebpf_tap.apply.rule_ranges import Range, RuleRanges
from ovs_ebpf_tap.apply.tcx import TcxLinks
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.ebpf.pinning import LINKS
from ovs_ebpf_tap.ebpf.programs import Programs
from ovs_ebpf_tap.model.desired import CLSACT, TCX, Hook, Rule
from ovs_ebpf_tap.model.frame_rewrite import FrameRewrite
from ovs_ebpf_tap.util import unexpected


@dataclass(frozen=True)
class HookParts:
    """The parts of all hooks."""

    programs: Programs
    entries: HookEntries
    ranges: RuleRanges
    slots: CounterSlots
    encoding: Encoding
    links: TcxLinks
    filters: ClsactFilters

    @classmethod
    def of(cls, pin_dir: Path, traffic_control: TrafficControl, opened: Programs) -> Self:
        """Those of a build's programs and maps; nothing is read yet."""
        return cls(
            opened,
            HookEntries(opened.maps),
            RuleRanges(opened.maps["rules"]),
            CounterSlots(opened.maps),
            Encoding(opened.maps),
            TcxLinks(pin_dir / LINKS),
            ClsactFilters(traffic_control, opened),
        )

    def read(self) -> dict[Hook, ActualHook]:
        """Reads everything back from the kernel; returns what hooks there are. Raises OSError."""
        self.slots.read()
        entries = self._read_entries()
        found = {hook: ActualHook(entry.rules, None) for hook, entry in entries.items()}
        for hook, each in self.filters.read().items():
            entry = entries.get(hook, _NO_ENTRY)
            program = each.program if each.build == self.programs.build else None
            found[hook] = ActualHook(
                entry.rules,
                Attachment(
                    CLSACT,
                    bool(entry.program),
                    entry.rewrite,
                    each.action,
                    each.untagged,
                    entry.tunnels,
                ),
                outdated=hook not in entries or program != entry.program,
            )
        for hook, program in self.links.read().items():
            entry = entries.get(hook, _NO_ENTRY)
            found[hook] = ActualHook(
                entry.rules,
                Attachment(TCX, bool(entry.program), entry.rewrite, tunnels=entry.tunnels),
                outdated=hook not in entries
                or program != (entry.program or self.programs.ids[hook.direction]),
            )
        for hook, actual in found.items():
            carrying = found.get(hook.of_device)
            if hook.tunnel is not None and carrying is not None and carrying.attachment is not None:
                actual.attachment = Attachment(carrying.attachment.kind)
        return found

    def _read_entries(self) -> dict[Hook, _Entry]:
        entries = self.entries.read()
        packed = self.ranges.read(
            {
                hook: Range(entry["first"] if n else 0, n)
                for hook, entry in entries.items()
                for n in [self.encoding.length(entry["flags"])]
            }
        )
        mirrors = self.slots.by_slot
        return {
            hook: self._unpack(hook, entry, packed[hook], mirrors)
            for hook, entry in entries.items()
        }

    def _unpack(
        self, hook: Hook, entry: Mapping[str, int], packed: list[bytes], mirrors: dict[int, UUID]
    ) -> _Entry:
        """One that makes no sense counts as without rules: so its hook gets what it is to have."""
        program = entry["program"]
        try:
            rules = tuple(self.encoding.unpack(entry["flags"], packed, mirrors))
            finishes = program and not rules
            rewrite = self.encoding.rewrite_at(entry["first"]) if finishes else None
        except Exception as error:
            unexpected.reason(f"entry of {hook}", error)
            return _Entry((), program, None, False)
        return _Entry(rules, program, rewrite, self.encoding.carries_tunnels(entry["flags"]))


@dataclass(frozen=True)
class _Entry:
    """What a hook's entry says: its rules, and the id of its specialized program, 0 for none."""

    rules: tuple[Rule, ...]
    program: int
    rewrite: FrameRewrite | None
    """What the program makes of copies that arrive."""
    tunnels: bool
    """Whether the device carries tunnel ports."""


_NO_ENTRY = _Entry((), 0, None, False)
