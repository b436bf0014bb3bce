"""What the kernel or the maps did not take, and for how long it is planned without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from errno import EMFILE, ENFILE, ENOMEM
from uuid import UUID

from ovs_ebpf_tap.daemon.scheduler import FAILURE
from ovs_ebpf_tap.model.reasons.port_reasons import HOOK_REFUSED

_REFUSAL = 5.0
"""Seconds after which a hook that the kernel refused is tried again."""

_OUR_OWN = (EMFILE, ENFILE, ENOMEM)
"""Errors that tell nothing of the device."""


@dataclass(frozen=True)
class _Refusal:
    reason: str
    until: float


class Refusals:
    """The hooks that the kernel refused, and the mirrors that found no slot in the maps.

    Times are of the monotonic clock.
    """

    def __init__(self) -> None:
        self._hooks: dict[int, _Refusal] = {}
        """By ifindex; by `NO_CUTTER` for the cutter."""
        self._mirrors: dict[UUID, float] = {}
        """Until when each is not placed."""

    def __bool__(self) -> bool:
        return bool(self._hooks or self._mirrors)

    def expire(self, now: float) -> None:
        """Has what was refused long enough ago tried again."""
        self._hooks = {i: refusal for i, refusal in self._hooks.items() if refusal.until > now}
        self._mirrors = {uuid: until for uuid, until in self._mirrors.items() if until > now}

    def note(self, hooks: Mapping[int, OSError], mirrors: Iterable[UUID], now: float) -> bool:
        """Takes in what `Datapath.sync` refused; returns whether any of that is new."""
        new = hooks.keys() - self._hooks.keys()
        for ifindex in new:
            error = hooks[ifindex]
            pause = FAILURE if error.errno in _OUR_OWN else _REFUSAL
            self._hooks[ifindex] = _Refusal(HOOK_REFUSED.told(error=error.strerror), now + pause)
        unplaced = set(mirrors) - self._mirrors.keys()
        self._mirrors |= dict.fromkeys(unplaced, now + FAILURE)
        return bool(new or unplaced)

    def forget(self, ifindexes: Iterable[int]) -> bool:
        """Has the hooks of these devices tried again; returns whether one was refused."""
        found = self._hooks.keys() & set(ifindexes)
        for ifindex in found:
            del self._hooks[ifindex]
        return bool(found)

    @property
    def reasons(self) -> dict[int, str]:
        """Why the kernel takes no hook on a device, by ifindex."""
        return {ifindex: refusal.reason for ifindex, refusal in self._hooks.items()}

    @property
    def unplaced(self) -> frozenset[UUID]:
        """The mirrors that find no slot in the maps."""
        return frozenset(self._mirrors)
