"""The entries of hooks: which rules, and which program, a hook goes by."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, Hook
from ovs_ebpf_tap.util.probes import probe

_HOOK = abi.layout("hook")


class HookEntries:
    """`struct tap_hook` by hook, in a map for each direction."""

    def __init__(self, maps: Mapping[str, bpf.Map]) -> None:
        self._maps = {direction: maps[direction] for direction in (INGRESS, EGRESS)}

    def read(self) -> dict[Hook, dict[str, int]]:
        """The members of all hooks' entries, by name."""
        return {
            Hook(int.from_bytes(key, sys.byteorder), direction): _HOOK.unpack(value)
            for direction, entries in self._maps.items()
            for key, value in entries.items().items()
        }

    def get(self, hook: Hook) -> bytes | None:
        """The hook's entry, as `restore` takes it."""
        return self._maps[hook.direction].get(bpf.u32(hook.ifindex))

    def publish(self, hook: Hook, *, first: int, flags: int, program: int = 0) -> None:
        """Writes the hook's entry, by one update of its map."""
        entry = _HOOK.pack(first=first, flags=flags, program=program)
        self._maps[hook.direction].set(bpf.u32(hook.ifindex), entry)
        probe("entry written")

    def restore(self, hook: Hook, entry: bytes | None) -> bool:
        """Makes the hook's entry what `get` returned; returns whether it is."""
        try:
            if entry is None:
                self.delete(hook)
            else:
                self._maps[hook.direction].set(bpf.u32(hook.ifindex), entry)
        except OSError:
            return False
        return True

    def delete(self, hook: Hook) -> None:
        """Removes the hook's entry, if it is there."""
        self._maps[hook.direction].delete(bpf.u32(hook.ifindex))
