"""In which order a hook's parts are written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from errno import ENOMEM
from types import SimpleNamespace
from typing import Any, cast

import pytest
from builders import Clock, FakeHash, FakeMap, switch

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply import rule_ranges
from ovs_ebpf_tap.apply.attachment import Attachment
from ovs_ebpf_tap.apply.clsact import ClsactFilters
from ovs_ebpf_tap.apply.counter_slots import CounterSlots
from ovs_ebpf_tap.apply.encoding import Encoding
from ovs_ebpf_tap.apply.hook_entries import HookEntries
from ovs_ebpf_tap.apply.hook_parts import HookParts
from ovs_ebpf_tap.apply.hook_table import HookTable
from ovs_ebpf_tap.apply.hook_writer import HookWriter
from ovs_ebpf_tap.apply.rule_ranges import RuleRanges
from ovs_ebpf_tap.apply.tcx import TcxLinks
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.ebpf.programs import Programs
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, TCX, Hook
from ovs_ebpf_tap.model.tunnel import ANY, Tunnel
from ovs_ebpf_tap.util import probes

QUARANTINE = abi.constant("QUARANTINE_MS") / 1000
RULE_SIZE = abi.layout("rule").size
(RULE,) = switch("a out").add_mirror(src="a", out="out").plan().hooks[Hook(100, INGRESS)]
OTHER = replace(RULE, output=9, group=9)
SHARED, OWN = Attachment(TCX), Attachment(TCX, True)
A, B = Hook(1, INGRESS), Hook(2, INGRESS)


class FakeLinks:
    """Notes the programs of hooks, by descriptor; to attach may fail."""

    def __init__(self) -> None:
        self.there: dict[Hook, int] = {}
        self.fault: Exception | None = None

    def attach(self, hook: Hook, program: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.there[hook] = program

    def detach(self, hook: Hook) -> None:
        if self.fault is not None:
            raise self.fault
        del self.there[hook]


class WriterBench:
    """A writer on maps and links of our own, and what it has done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.clock = Clock()
        structs = {"rules": "rule", "ports": "port", "rewrites": "rewrite"}
        self.maps: dict[str, Any] = {n: FakeHash() for n in (INGRESS, EGRESS, "tunnels")}
        self.maps |= {n: FakeMap(abi.layout(struct).size, 16) for n, struct in structs.items()}
        self.maps |= {"vlans": FakeMap(512, 16), "matches": FakeMap(1, 16)}
        self.links = FakeLinks()
        self.table = HookTable()
        self.loads = 0
        self.parts = HookParts(
            cast(Programs, SimpleNamespace(fd=lambda _direction: 3, load_own=self._load_own)),
            HookEntries(self.maps),
            RuleRanges(self.maps["rules"]),
            cast(CounterSlots, {RULE.mirror: 5}),
            Encoding(self.maps),
            cast(TcxLinks, self.links),
            cast(ClsactFilters, SimpleNamespace(detach=lambda _hook: None)),
        )
        self.writer = HookWriter(self.parts, self.table)
        monkeypatch.setattr(rule_ranges, "time", self.clock)
        monkeypatch.setattr(bpf, "program_id", lambda _fd: 100 + self.loads)
        monkeypatch.setattr(probes, "handlers", [lambda point, _subject: self.said.append(point)])

    def _load_own(self, _name: str, _constants: Mapping[int, int]) -> int:
        self.loads += 1
        return os.open(os.devnull, os.O_RDONLY)

    def entry(self, hook: Hook) -> dict[str, int]:
        return self.parts.entries.read()[hook]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> WriterBench:
    return WriterBench(monkeypatch)


@pytest.mark.parametrize("how", [SHARED, OWN])
def test_a_new_hooks_entry_is_written_before_it_is_attached(
    bench: WriterBench, how: Attachment
) -> None:
    bench.writer.replace(A, (RULE,), how)
    assert bench.said == ["entry written", "program attached"]
    assert bench.entry(A)["program"] == (101 if how.specialized else 0)
    assert bench.table.attached == {A: how}


@pytest.mark.parametrize("before", [SHARED, OWN])
@pytest.mark.parametrize("rule", [RULE, OTHER])
def test_a_specialized_program_is_there_before_its_entry(
    bench: WriterBench, before: Attachment, rule: Any
) -> None:
    bench.writer.replace(A, (RULE,), before)
    bench.said.clear()
    bench.writer.replace(A, (rule,), OWN)
    assert bench.said == ["program attached", "entry written"]
    assert bench.entry(A)["program"] == 100 + bench.loads


def test_a_shared_program_finds_its_entry(bench: WriterBench) -> None:
    bench.writer.replace(A, (RULE,), OWN)
    bench.said.clear()
    bench.writer.replace(A, (RULE,), SHARED)
    assert bench.said == ["entry written", "program attached"]
    assert bench.entry(A)["program"] == 0


@pytest.mark.parametrize("how", [SHARED, OWN])
def test_a_new_hook_that_is_refused_leaves_nothing(bench: WriterBench, how: Attachment) -> None:
    bench.links.fault = OSError(ENOMEM, "no memory")
    for _ in range(3):
        with pytest.raises(OSError, match="no memory"):
            bench.writer.replace(A, (RULE,), how)
    assert not bench.maps[INGRESS].values
    assert not bench.table.actual
    assert bench.parts.ranges.find_room(1) == 3
    bench.clock.now += 2 * QUARANTINE
    assert bench.parts.ranges.find_room(1) == 0


def test_rules_stay_that_a_specialized_program_may_go_by(bench: WriterBench) -> None:
    bench.writer.replace(A, (RULE,), OWN)
    before = bench.entry(A)
    bench.links.fault = OSError(ENOMEM, "no memory")
    with pytest.raises(OSError, match="no memory"):
        bench.writer.replace(A, (OTHER,), OWN)
    assert bench.entry(A) == before
    bench.clock.now += 2 * QUARANTINE
    assert bench.parts.ranges.find_room(1) == 2
    bench.links.fault = None
    bench.writer.replace(A, (OTHER,), SHARED)
    bench.clock.now += 2 * QUARANTINE
    assert bench.parts.ranges.find_room(1) == 0


def test_a_hook_goes_before_its_entry_and_rules(bench: WriterBench) -> None:
    bench.writer.replace(A, (RULE,), OWN)
    bench.links.fault = OSError(ENOMEM, "no memory")
    with pytest.raises(OSError, match="no memory"):
        bench.writer.remove(A)
    assert bench.entry(A)
    assert bench.table.attached == {A: OWN}
    bench.links.fault = None
    bench.writer.remove(A)
    assert not bench.maps[INGRESS].values
    assert not bench.table.actual
    assert A not in bench.parts.ranges


def test_tunnel_ports_go_by_the_program_of_their_device(bench: WriterBench) -> None:
    tunnel = Hook(1, INGRESS, Tunnel(1 << 31, False, 7, ANY, ANY))
    bench.writer.replace(tunnel, (RULE,), SHARED)
    assert not bench.links.there
    bench.writer.replace(A, (), replace(SHARED, tunnels=True))
    assert bench.links.there == {A: 3}
    flags = abi.constant("HOOK_TUNNELS") | abi.constant("HOOK_ARRIVAL")
    assert bench.entry(A)["flags"] == flags
    entry = bench.entry(tunnel)
    assert entry["port"] == 1 << 31
    assert bench.parts.encoding.length(entry["flags"]) == 1
    bench.writer.remove(tunnel)
    assert bench.links.there == {A: 3}
    assert not bench.maps["tunnels"].values
    assert tunnel not in bench.parts.ranges


def test_a_kernel_that_tells_no_local_address(
    bench: WriterBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="5.15.0-91-generic"))
    with pytest.raises(OSError, match=r"Linux 5\.19"):
        bench.writer.replace(A, (), replace(SHARED, tunnels=True))
    assert not bench.maps[INGRESS].values
