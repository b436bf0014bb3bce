"""The entries of hooks: which rules, and which program, a hook goes by."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply.tunnel_key import pack_tunnel, unpack_tunnel
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, Hook
from ovs_ebpf_tap.util.probes import probe

_HOOK = abi.layout("hook")


class HookEntries:
    """`struct tap_hook` by hook, in a map for each direction of devices, and one for tunnels."""

    def __init__(self, maps: Mapping[str, bpf.Map]) -> None:
        self._maps = {direction: maps[direction] for direction in (INGRESS, EGRESS)}
        self._tunnels = maps.get("tunnels")
        """None with an earlier version's maps."""

    def read(self) -> dict[Hook, dict[str, int]]:
        """The members of all hooks' entries, by name."""
        found = {
            Hook(int.from_bytes(key, sys.byteorder), direction): _HOOK.unpack(value)
            for direction, entries in self._maps.items()
            for key, value in entries.items().items()
        }
        tunnels = self._tunnels.items() if self._tunnels is not None else {}
        for key, value in tunnels.items():
            members = _HOOK.unpack(value)
            found[unpack_tunnel(key, members["port"])] = members
        return found

    def _place(self, hook: Hook) -> tuple[bpf.Map, bytes]:
        """The map and the key of the hook's entry."""
        if hook.tunnel is not None and self._tunnels is not None:
            return self._tunnels, pack_tunnel(hook.ifindex, hook.tunnel)
        return self._maps[hook.direction], bpf.u32(hook.ifindex)

    def get(self, hook: Hook) -> bytes | None:
        """The hook's entry, as `restore` takes it."""
        entries, key = self._place(hook)
        return entries.get(key)

    def publish(self, hook: Hook, *, first: int, flags: int, program: int = 0) -> None:
        """Writes the hook's entry, by one update of its map."""
        port = hook.tunnel.port if hook.tunnel is not None else 0
        entries, key = self._place(hook)
        entries.set(key, _HOOK.pack(first=first, flags=flags, program=program, port=port))
        probe("entry written")

    def restore(self, hook: Hook, entry: bytes | None) -> bool:
        """Makes the hook's entry what `get` returned; returns whether it is."""
        try:
            if entry is None:
                self.delete(hook)
            else:
                entries, key = self._place(hook)
                entries.set(key, entry)
        except OSError:
            return False
        return True

    def delete(self, hook: Hook) -> None:
        """Removes the hook's entry, if it is there."""
        entries, key = self._place(hook)
        entries.delete(key)
