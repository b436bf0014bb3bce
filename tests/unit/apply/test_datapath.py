"""Hooks that fail, and places that run out: on maps and a traffic control of our own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from errno import ENOMEM
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from builders import Clock, FakeHash, FakeMap, switch

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply import attacher, counter_slots, interned_array, rule_ranges
from ovs_ebpf_tap.apply.datapath import Datapath
from ovs_ebpf_tap.apply.tc_filter import Filter
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.ebpf.programs import Programs
from ovs_ebpf_tap.model.desired import CLSACT, EGRESS, INGRESS, Hook, Rule
from ovs_ebpf_tap.observe.devices import DeviceMonitor

MAX_MIRRORS = abi.constant("MAX_MIRRORS")
QUARANTINE = abi.constant("QUARANTINE_MS") / 1000
HOOK = abi.layout("hook")
RULE = abi.layout("rule")


@dataclass
class FakeTrafficControl:
    """Filters by hook; to replace or to remove some raises, or breaks the map of entries."""

    maps: dict[str, Any]
    owner: int = 1
    rtnetlink = SimpleNamespace(route=None)
    there: dict[Hook, Filter] = field(default_factory=dict)
    faults: dict[Hook, Exception] = field(default_factory=dict)
    breaks: bool = False

    def filters(self, ifindex: int) -> list[Filter]:
        return [each for hook, each in self.there.items() if hook.ifindex == ifindex]

    def ingress_qdisc(self, ifindex: int) -> str | None:
        return "clsact" if self.filters(ifindex) else None

    def replace_filter(
        self,
        ifindex: int,
        direction: str,
        _fd: int,
        build: str,
        program: int,
        action: int,
        *,
        made: bool,
    ) -> None:
        self._fail(Hook(ifindex, direction))
        one = Filter(ifindex, direction, 1, build, made, program, action)
        self.there[Hook(ifindex, direction)] = one

    def remove_filter(self, ifindex: int, direction: str) -> None:
        self._fail(Hook(ifindex, direction))
        self.there.pop(Hook(ifindex, direction), None)

    def _fail(self, hook: Hook) -> None:
        if hook in self.faults:
            self.maps[hook.direction].failing = self.breaks
            raise self.faults[hook]

    def ensure_clsact(self, _ifindex: int) -> bool:
        return True

    def remove_untag(self, _ifindex: int, _direction: str) -> None:
        pass

    def remove_clsact(self, _ifindex: int, *, hw_offload: bool) -> None:
        pass

    def announce(self, _ifindex: int) -> None:
        pass


class DatapathBench:
    """A datapath on fakes; it has no programs but the shared ones."""

    def __init__(self, pins: Path) -> None:
        sizes = {"rules": RULE.size, "ports": abi.layout("port").size}
        sizes |= {
            "rewrites": abi.layout("rewrite").size,
            "vlans": 512,
            "matches": 1,
            "counters": 24,
        }
        self.maps: dict[str, Any] = {
            name: FakeMap(size, 1 << 17) for name, size in sizes.items()
        } | {name: FakeHash() for name in (INGRESS, EGRESS, "mirrors", "qdiscs", "cutter")}
        self.traffic_control = FakeTrafficControl(self.maps)
        self.pins = pins
        self.datapath = self.open()

    def open(self) -> Datapath:
        """The datapath as it is after a start."""

        def load_own(*_: object) -> int:
            raise OSError(ENOMEM, "no memory")

        opened = SimpleNamespace(
            maps=self.maps,
            build="build",
            directory=self.pins,
            ids={},
            fd=lambda _direction: 3,
            load_own=load_own,
        )
        monitor = SimpleNamespace(
            devices={},
            devices_version=0,
            is_up=lambda _ifindex: False,
            name_of=lambda _ifindex: "a0",
        )
        return Datapath.open(
            self.pins,
            cast(DeviceMonitor, monitor),
            cast(TrafficControl, self.traffic_control),
            cast(Programs, opened),
            CLSACT,
        )

    def sync(self, wanted: dict[Hook, tuple[Rule, ...]]) -> dict[int, OSError]:
        return self.datapath.sync(wanted, set())

    def live(self) -> dict[Hook, list[int]]:
        """The outputs of the rules that entries, of any hook, lead to."""
        return {
            Hook(int.from_bytes(key, sys.byteorder), where): self._outputs(HOOK.unpack(value))
            for where in (INGRESS, EGRESS)
            for key, value in self.maps[where].values.items()
        }

    def _outputs(self, entry: Any) -> list[int]:
        length = self.datapath.parts.encoding.length(entry["flags"])
        rules = self.maps["rules"].first(entry["first"] + length)[entry["first"] :]
        return [RULE.unpack(each)["output"] for each in rules]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (attacher, counter_slots, rule_ranges):
        monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def bench(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> DatapathBench:
    monkeypatch.setattr(Datapath, "_expedited", lambda _self: contextlib.nullcontext())
    return DatapathBench(tmp_path)


_RULE = next(iter(switch("a out").add_mirror(src="a", out="out").plan().hooks[Hook(100, INGRESS)]))


def rules(*outputs: int, mirror: int = 1) -> tuple[Rule, ...]:
    return tuple(
        replace(_RULE, mirror=UUID(int=mirror), output=each, group=each) for each in outputs
    )


A, B, C = (Hook(n, INGRESS) for n in (1, 2, 3))
FAULTS = [OSError(ENOMEM, "no memory"), KeyError("a fault")]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("breaks", [False, True])
def test_a_new_hook_that_fails(
    bench: DatapathBench, clock: Clock, fault: Exception, breaks: bool
) -> None:
    """With entries that can't be put back, its rules stay where they are."""
    bench.traffic_control.faults, bench.traffic_control.breaks = {A: fault}, breaks
    refused = bench.sync({A: rules(7, 8)})
    assert refused.keys() == {A.ifindex}
    assert A in bench.live() or not breaks
    bench.maps[INGRESS].failing = False
    clock.now += 2 * QUARANTINE
    assert bench.sync({B: rules(9, 10)}).keys() == set()
    assert bench.live()[B] == [9, 10]
    assert bench.live().get(A, [7, 8]) == [7, 8]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("breaks", [False, True])
def test_new_rules_of_a_hook_that_fail(
    bench: DatapathBench, clock: Clock, fault: Exception, breaks: bool
) -> None:
    bench.sync({A: rules(5, 6)})
    bench.traffic_control.faults, bench.traffic_control.breaks = {A: fault}, breaks
    assert bench.sync({A: rules(7, 8), B: rules(9, 10)}).keys() >= {A.ifindex}
    now = [7, 8] if breaks else [5, 6]
    assert bench.live()[A] == now
    bench.maps[INGRESS].failing = bench.traffic_control.breaks = False
    clock.now += 2 * QUARANTINE
    assert bench.sync({A: rules(7, 8), B: rules(9, 10), C: rules(11, 12)}).keys() == {A.ifindex}
    assert bench.live() == {A: bench.live()[A], B: [9, 10], C: [11, 12]}
    assert bench.live()[A] == [5, 6] or breaks
    bench.traffic_control.faults.clear()
    assert not bench.sync({A: rules(7, 8), B: rules(9, 10), C: rules(11, 12)})
    assert bench.live() == {A: [7, 8], B: [9, 10], C: [11, 12]}


def test_a_hook_that_fails_again_and_again_takes_no_room(
    bench: DatapathBench, clock: Clock
) -> None:
    bench.traffic_control.faults[A] = OSError(ENOMEM, "no memory")
    for _ in range(5):
        assert bench.sync({A: rules(*range(100))})
        clock.now += 2 * QUARANTINE
    assert bench.datapath.parts.ranges.find_room(1) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hook_that_is_not_removed(bench: DatapathBench, clock: Clock, fault: Exception) -> None:
    """It goes on to count for its mirror, whose slot stays; others are removed."""
    bench.sync({A: rules(7, 8), B: rules(9, 10, mirror=2), C: rules(11, 12, mirror=3)})
    bench.traffic_control.faults[A] = fault
    assert not bench.sync({C: rules(11, 12, mirror=3)})
    assert bench.datapath.stuck == {A}
    assert bench.datapath.attached.keys() == {A, C}
    assert bench.datapath.mirrors == {UUID(int=1), UUID(int=3)}
    bench.traffic_control.faults.clear()
    assert not bench.sync({C: rules(11, 12, mirror=3)})
    assert bench.datapath.stuck == set()
    assert bench.datapath.attached.keys() == {C}
    assert bench.datapath.mirrors == {UUID(int=3)}


def test_an_entry_that_makes_no_sense(
    bench: DatapathBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hook is given what it is to have; the others are as they were."""
    wanted = {A: rules(7, 8), B: rules(9, 10)}
    bench.sync(wanted)
    encoding = bench.datapath.parts.encoding
    unpack = encoding.unpack

    def failing(flags: int, data: Iterable[bytes], mirrors: Any) -> Any:
        read = list(data)
        if RULE.unpack(read[0])["output"] == 7:
            raise ValueError("what is this?")
        return unpack(flags, read, mirrors)

    monkeypatch.setattr(encoding, "unpack", failing)
    bench.datapath.read()
    assert bench.datapath.rules == {A: (), B: rules(9, 10)}
    assert not bench.sync(wanted)
    assert bench.datapath.rules == wanted


# At the limit.


def full(mirrors: Iterable[int]) -> dict[Hook, tuple[Rule, ...]]:
    """A rule for each, on hooks of their own for each 256."""
    found: dict[Hook, tuple[Rule, ...]] = {}
    for hook, some in groupby(mirrors, lambda n: Hook(1 + n // 256, INGRESS)):
        found[hook] = tuple(rule for n in some for rule in rules(n, mirror=n))
    return found


def test_the_lack_of_slots_is_forgotten(bench: DatapathBench) -> None:
    """Also where what is wanted is in place, so that there is nothing to do."""
    fits = {A: rules(7, 8)}
    while not bench.datapath._in_place:
        bench.sync(fits)
    bench.sync(full(range(1, MAX_MIRRORS + 2)))
    assert bench.datapath.unplaced
    bench.sync(fits)
    assert not bench.datapath.unplaced


def test_a_mirror_in_the_place_of_another(bench: DatapathBench, clock: Clock) -> None:
    last = MAX_MIRRORS
    bench.sync(full(range(last)))
    wanted = full(range(1, last + 1))
    before = bench.live()
    bench.datapath = bench.open()
    assert bench.sync(wanted) == {}
    assert bench.datapath.unplaced == {UUID(int=last)}
    assert bench.live() == before
    # The sidecar leaves it out then, so that the other gives its slot back.
    bench.sync(full(range(1, last)))
    assert bench.live()[A] == [*range(1, 256)]
    bench.sync(wanted)
    assert bench.datapath.unplaced == {UUID(int=last)}
    clock.now += 2 * QUARANTINE
    bench.sync(wanted)
    assert not bench.datapath.unplaced
    assert [each for hook in sorted(bench.live()) for each in bench.live()[hook]] == [
        *range(1, last + 1)
    ]
    assert len(bench.datapath.mirrors) == MAX_MIRRORS


def test_every_rule_that_changes_frames_has_an_edit(
    bench: DatapathBench, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after hooks were read that finish copies by the shared program, and refer to none."""
    monkeypatch.setattr(interned_array, "time", clock)
    for vlan in range(10, 20, 2):
        rewrites = (replace(_RULE.rewrite, set_vid=vid) for vid in (vlan, vlan + 1))
        changing = (replace(_RULE, output=7, group=7, rewrite=rewrite) for rewrite in rewrites)
        wanted = {A: (*changing,)}
        assert not bench.sync(wanted)
        bench.datapath.read()
        assert all(bench.datapath.parts.encoding.rewrite_index(rule.rewrite) for rule in wanted[A])
        clock.now += 2 * QUARANTINE
