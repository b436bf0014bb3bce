"""Hooks with specialized programs that deduplicate, to run on frames that are on no device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf, programs
from ovs_ebpf_tap.ebpf.object import NEXT, PROGRAMS, TEMPLATES, XDP, Object
from ovs_ebpf_tap.ebpf.template import bind_program

RULE = abi.layout("rule")
COUNTERS = abi.layout("counters")
DEDUP = abi.constant("RULE_DEDUP")
ARRIVAL = abi.constant("RULE_ARRIVAL")
HOOK_FLAGS = abi.constant("HOOK_DEDUP") | 1
# What a hook's constants are of that admits all frames, and selects them all.
UNUSED = {
    f"{struct}.{member}": 0
    for struct in ("port", "prefilter", "shortcut")
    for member in abi.layout(struct).members
}
NOWHERE = 0x7FFFFFFF
"""No device has that index: a copy to it fails, and is counted as a drop."""


@dataclass
class Hooks:
    """The programs, and hooks that copy; those of one group copy to one output."""

    stack: contextlib.ExitStack
    codes: Mapping[str, bytes]
    maps: Mapping[str, bpf.Map]
    constants: Mapping[str, int]
    programs: list[int] = field(default_factory=list)
    group: int = 0

    def add(self, *, arrival: bool = False, device: int = 0) -> int:
        """A hook of that device, or of one of its own; returns its number."""
        number = len(self.programs)
        flags = DEDUP | ARRIVAL * arrival
        rule = RULE.pack(
            hook=device or number + 1,
            output=NOWHERE,
            group=self.group,
            flags=flags,
            max_len=1514,
            slot=number,
            selection=1,
        )
        self.maps["rules"].set(bpf.u32(number), rule)
        constants = {
            **self.constants,
            **UNUSED,
            "hook.first": number,
            "hook.flags": HOOK_FLAGS,
            **{f"rule.{member}": value for member, value in RULE.unpack(rule).items()},
        }
        code = bind_program(
            self.codes["tap_specialized"], constants, [each.fd for each in self.maps.values()]
        )
        self.programs.append(bpf.load_classifier(code, "tap_specialized"))
        self.stack.callback(os.close, self.programs[-1])
        return number

    def see(self, hook: int, *frames: bytes) -> int:
        """Runs the hook on frames; returns how many of them it has meant to copy."""
        before = self._counted(hook)
        for frame in frames:
            assert bpf.run_classifier(self.programs[hook], frame) == -1
        return self._counted(hook) - before

    def _counted(self, hook: int) -> int:
        read = self.maps["counters"].get(bpf.u32(hook)) or b""
        return sum(
            fields["packets"] + fields["drops"]
            for fields in (
                COUNTERS.unpack(read[at : at + COUNTERS.size])
                for at in range(0, len(read), COUNTERS.size)
            )
        )


@contextlib.contextmanager
def loaded(made: Object, **times: int) -> Iterator[Hooks]:
    """The programs in the kernel, with these times in ticks."""
    with contextlib.ExitStack() as stack:
        maps = {}
        for name, layout in made.maps.items():
            maps[name] = bpf.Map(bpf.create_map(layout, name))
            stack.callback(maps[name].close)
        constants = {
            **programs.kernel_constants(),
            "global.copy_tag": 1,
            **{f"global.{name}": ticks for name, ticks in times.items()},
        }
        fds = [each.fd for each in maps.values()]
        for name in set(PROGRAMS) - {XDP}:
            fd = bpf.load_classifier(bind_program(made.codes[name], constants, fds), name)
            stack.callback(os.close, fd)
            if name in NEXT:
                maps["next"].set(bpf.u32(NEXT[name]), bpf.u32(fd))
        assert set(TEMPLATES) <= set(made.codes)
        yield Hooks(stack, made.codes, maps, constants)
