"""Attaches hooks, with the shared programs first, and with specialized ones when there is time."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Set
from errno import ENODEV, ENOENT, EOPNOTSUPP

import structlog

from ovs_ebpf_tap.apply.attachment import Attachment, fastest
from ovs_ebpf_tap.apply.hook_table import DesiredHook, HookTable
from ovs_ebpf_tap.apply.hook_writer import HookWriter
from ovs_ebpf_tap.model.desired import Hook, Rule
from ovs_ebpf_tap.model.frame_rewrite import FrameRewrite
from ovs_ebpf_tap.observe.devices import DeviceMonitor
from ovs_ebpf_tap.util import unexpected
from ovs_ebpf_tap.util.probes import probe

IMPROVING = 0.02
"""Seconds of one `sync`, with nothing else to do, in which hooks get specialized programs.

Loading one takes 1 to 2 ms, which the first copy would come later.
"""

log = structlog.get_logger()


class HookAttacher:
    """Attaches hooks, in the end by their fastest attachments.

    What the kernel refuses is done by the shared programs.
    """

    def __init__(
        self, kind: str, writer: HookWriter, table: HookTable, monitor: DeviceMonitor
    ) -> None:
        self._kind = kind
        self._writer = writer
        self._table = table
        self._monitor = monitor
        self._has_action = True
        """Whether the kernel has act_mirred, as far as is known."""
        self._refused: dict[Hook, Attachment] = {}

    def final(
        self,
        hook: Hook,
        rules: tuple[Rule, ...],
        arriving: Set[FrameRewrite] | None,
        *,
        tunnels: bool = False,
    ) -> Attachment:
        """As `fastest`, as far as is known of this kernel and the devices.

        `tunnels` says whether the device carries tunnel ports that have hooks; one program tells
        them apart, and applies their rules.
        """
        if tunnels or hook.tunnel is not None:
            return Attachment(self._kind, tunnels=tunnels)
        may_act = self._has_action and len(rules) == 1 and self._monitor.is_up(rules[0].output)
        return fastest(self._kind, rules, arriving, may_act=may_act)

    def attach(self, changed: Mapping[Hook, DesiredHook]) -> dict[int, OSError]:
        """Makes or changes hooks, in this order; returns what the kernel refused, by ifindex."""
        refused: dict[int, OSError] = {}
        if changed:
            probe("grace periods expedited")
        for hook, desired in changed.items():
            try:
                self._refused.pop(hook, None)
                self._writer.replace(hook, desired.rules, desired.attachment.shared)
            except OSError as error:
                if error.errno != ENODEV:
                    refused[hook.ifindex] = error
            except Exception as error:
                refused[hook.ifindex] = OSError(0, unexpected.reason(f"{hook}", error))
        if changed:
            probe("hooks there")
        return refused

    def improve(self, goal: Mapping[Hook, DesiredHook]) -> None:
        """Gives hooks their final programs, for `IMPROVING` seconds."""
        until = time.monotonic() + IMPROVING
        for hook, desired in goal.items():
            if self._may_improve(hook, desired):
                if time.monotonic() >= until:
                    return
                try:
                    self._writer.replace(hook, desired.rules, desired.attachment)
                except Exception as error:
                    self._note_refusal(hook, desired.attachment, error)
                    if not self._has_action:
                        return

    def is_finished(self, goal: Mapping[Hook, DesiredHook]) -> bool:
        """Whether no hook can be improved."""
        return not any(self._may_improve(hook, desired) for hook, desired in goal.items())

    def forget(self, kept: Collection[Hook]) -> None:
        """Forgets what was refused to other hooks."""
        self._refused = {hook: each for hook, each in self._refused.items() if hook in kept}

    def _may_improve(self, hook: Hook, desired: DesiredHook) -> bool:
        actual = self._table.actual.get(hook)
        final = desired.attachment
        there = actual.attachment if actual is not None else None
        return there not in (None, final) and self._refused.get(hook) != final

    def _note_refusal(self, hook: Hook, final: Attachment, error: Exception) -> None:
        if not isinstance(error, OSError):
            self._refused[hook] = final
            unexpected.reason(f"faster {hook}", error)
        elif self._has_action and final.action and error.errno in (ENOENT, EOPNOTSUPP):
            self._has_action = False  # The kernel has no act_mirred: another final one is next.
        else:
            self._refused[hook] = final
            if error.errno != ENODEV:
                device = self._monitor.name_of(hook.ifindex)
                log.warning("slower hook", device=device, error=error.strerror)
