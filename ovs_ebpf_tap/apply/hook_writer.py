"""Makes, changes and removes one hook, so that no packet in between misses its copy."""

from __future__ import annotations

import os
from errno import EOPNOTSUPP

from ovs_ebpf_tap.apply.attachment import Attachment
from ovs_ebpf_tap.apply.hook_parts import HookParts
from ovs_ebpf_tap.apply.hook_table import ActualHook, HookTable
from ovs_ebpf_tap.apply.rule_ranges import Range
from ovs_ebpf_tap.apply.tunnel_key import has_local_address
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.desired import CLSACT, TCX, Hook, Rule
from ovs_ebpf_tap.util.probes import probe


class HookWriter:
    """Writes hooks to the kernel, and notes in the table what was done."""

    def __init__(self, parts: HookParts, table: HookTable) -> None:
        self._parts = parts
        self._table = table

    def replace(self, hook: Hook, rules: tuple[Rule, ...], attachment: Attachment) -> None:
        """Puts other rules, or another program, in a hook's place, or makes the hook.

        If that fails, the hook's entry is again what it was, and the rules that were written rest;
        where something may go by them, they stay until the hook is replaced or removed. Raises
        OSError.
        """
        parts = self._parts
        slots, ranges = parts.slots, parts.ranges
        packed = [parts.encoding.pack(hook, rule, slots[rule.mirror]) for rule in rules]
        actual = self._table.actual.get(hook)
        written = hook in ranges and actual is not None and actual.rules == rules
        there = ranges[hook] if written else ranges.write(hook, packed)
        entry = parts.entries.get(hook)
        try:
            self._put(hook, rules, attachment, packed, there)
        except BaseException:
            restored = parts.entries.restore(hook, entry)
            attached = actual is not None and actual.attachment is not None
            if restored and not written and not (attachment.specialized and attached):
                ranges.withdraw(hook, there)
            raise
        if not written:
            ranges.settle(hook, there)
        self._table.actual[hook] = ActualHook(rules, attachment)

    def _put(
        self,
        hook: Hook,
        rules: tuple[Rule, ...],
        attachment: Attachment,
        packed: list[bytes],
        there: Range,
    ) -> None:
        """Attaches the hook's program and publishes its entry.

        The shared program goes by the entry, so that is there first. So it is where nothing is
        attached yet: after a crash, an entry tells which rules a program goes by. A specialized
        program that replaces another is attached first: the other may go by the present entry.
        """
        if not attachment.specialized:
            encoding = self._parts.encoding
            flags = (
                encoding.carrying_flags(hook.direction)
                if attachment.tunnels
                else encoding.hook_flags(rules)
            )
            self._parts.entries.publish(hook, first=there.first, flags=flags)
            self._attach(hook, attachment, self._parts.programs.fd(hook.direction), 0)
            return
        fd, entry = self._load(rules, attachment, packed, there)
        try:
            number = bpf.program_id(fd)
            is_new = hook not in self._table.attached
            if is_new:
                self._parts.entries.publish(hook, **entry, program=number)
            self._attach(hook, attachment, fd, number)
            if not is_new:
                self._parts.entries.publish(hook, **entry, program=number)
        finally:
            os.close(fd)

    def _load(
        self,
        rules: tuple[Rule, ...],
        attachment: Attachment,
        packed: list[bytes],
        there: Range,
    ) -> tuple[int, dict[str, int]]:
        """Loads a specialized program; returns its descriptor, and what the hook's entry says."""
        encoding, programs = self._parts.encoding, self._parts.programs
        if attachment.rewrite is not None:
            constants = encoding.rewrite_constants(attachment.rewrite)
            entry = {"first": encoding.rewrite_index(attachment.rewrite), "flags": 0}
            return programs.load_own("tap_output", constants), entry
        flags = encoding.hook_flags(rules, by_action=bool(attachment.action))
        constants = encoding.rule_constants(rules[0], packed[0], there.first, flags)
        return programs.load_own("tap_specialized", constants), {
            "first": there.first,
            "flags": flags,
        }

    def _attach(self, hook: Hook, attachment: Attachment, program: int, number: int) -> None:
        """Attaches the program, before a program of the other kind is removed.

        The program of a tunnel port is that of its device.
        """
        if hook.tunnel is not None:
            return
        if attachment.tunnels and not has_local_address():
            raise OSError(EOPNOTSUPP, "programs learn a tunnel's local address from Linux 5.19 on")
        links, filters = self._parts.links, self._parts.filters
        actual = self._table.actual.get(hook)
        before = actual.attachment.kind if actual and actual.attachment else None
        if attachment.kind == TCX:
            links.attach(hook, program)
            if before == CLSACT:
                filters.detach(hook)
        else:
            filters.attach(hook, attachment, program, number)
            if before == TCX:
                links.unpin(hook)
        probe("program attached")

    def remove(self, hook: Hook) -> None:
        """Detaches the hook, then removes its entry and rules. Raises OSError."""
        probe("hooks about to go")
        parts, actual = self._parts, self._table.actual[hook]
        if hook.tunnel is None:
            if actual.attachment is not None and actual.attachment.kind == TCX:
                parts.links.detach(hook)
            parts.filters.detach(hook)
        parts.entries.delete(hook)
        parts.ranges.give_back(hook)
        del self._table.actual[hook]
        probe("hook removed")
