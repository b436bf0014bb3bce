"""The scheme of `bpf/dedup.h`, in the running kernel: hooks that count copy each packet once.

Programs go by a clock of the test's, so that events are as far apart as a test has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from dedup_hooks import Hooks, loaded
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.ebpf.compile import build, expand
from ovs_ebpf_tap.ebpf.object import MAPS
from ovs_ebpf_tap.lab.frames import Address, udp_frame

# A tick is a millisecond here.
FORGET = abi.constant("FORGET_MS")
RACE = abi.constant("RACE_MS")

LAG = 100
"""The longest time here that a packet takes through the switch."""

ARRIVAL = "arrival"
"""A hook where packets arrive; `arrival a` is on the port that `a` is the departures' hook of."""

CLOCK = """
BPF_TABLE("array", u32, u32, clock, 1);

static __always_inline u64 clock_now(void)
{
	u32 zero = 0, *now = clock.lookup(&zero);

	return now ? *now : 0;
}
"""

A = Address("02:00:00:00:00:02", "10.0.0.2")
B = Address("02:00:00:00:00:03", "10.0.0.3")


@dataclass
class CountingHooks:
    """Hooks of one group, and how often contents were sent through them."""

    hooks: Hooks
    numbers: dict[str, int]
    start: int = field(default=0)
    """The clock's time that is 0 to a test."""

    def restart(self) -> None:
        """Has nothing counted: what was is forgotten, and frames have another content."""
        self.start += 100 * FORGET

    def copies(self, content: str, hook: str, at: int) -> bool:
        """Whether the hook, at that time in ms, copies the frame that it sees."""
        self.hooks.maps["clock"].set(bpf.u32(0), bpf.u32(self.start + at))
        frame = udp_frame(A, B, f"{self.start} {content}".encode())
        return self.hooks.see(self.numbers[hook], frame) == 1


@pytest.fixture(scope="module")
def counting_hooks() -> Iterator[CountingHooks]:
    source = expand(abi.source_dir() / "tap.c")
    assert source.count("bpf_jiffies64()") == 1
    made = build(CLOCK + source.replace("bpf_jiffies64()", "clock_now()"), (*MAPS, "clock"))
    with loaded(made, forget_ticks=FORGET, race_ticks=RACE) as hooks:
        devices = {"a": 101, "b": 102, "c": 103}
        numbers = {port: hooks.add(device=device) for port, device in devices.items()}
        numbers[ARRIVAL] = hooks.add(arrival=True, device=104)
        numbers[f"{ARRIVAL} a"] = hooks.add(arrival=True, device=devices["a"])
        yield CountingHooks(hooks, numbers)


@dataclass(frozen=True, order=True)
class HookPass:
    """A packet passes a hook."""

    at: int
    order: int
    """Orders what happens in the same millisecond."""
    content: str
    hook: str


@st.composite
def traffic(draw: st.DrawFn, gaps: st.SearchStrategy[int]) -> tuple[list[HookPass], Counter[str]]:
    """Packets of few contents, each with the hooks that its like pass, and when they do."""
    events: list[HookPass] = []
    sent: Counter[str] = Counter()
    orders = st.integers(0, 1000)
    for content in draw(st.sampled_from(["x", "xy"])):
        arrives = draw(st.booleans())
        ports = draw(st.lists(st.sampled_from("abc"), unique=True, min_size=not arrives))
        now = 10_000
        for _ in range(draw(st.integers(1, 8))):
            now += draw(gaps)
            sent[content] += 1
            if arrives:
                events.append(HookPass(now, draw(orders), content, ARRIVAL))
            for port in ports:
                early = -RACE if arrives else 0
                at = now + draw(st.integers(early, LAG))
                events.append(HookPass(at, draw(orders), content, port))
    return events, sent


# What follows at once, what follows while all is remembered, and what when all is forgotten.
# Between the last two, hooks that forget one after the other may count apart.
SOON = st.integers(0, 5)
LATER = st.integers(0, FORGET - 2 * LAG)
MUCH_LATER = st.integers(FORGET + 2 * LAG, 3 * FORGET)


@settings(max_examples=examples(500))
@given(traffic(gaps=SOON | LATER | MUCH_LATER))
def test_as_many_copies_as_packets(
    counting_hooks: CountingHooks, case: tuple[list[HookPass], Counter[str]]
) -> None:
    events, sent = case
    counting_hooks.restart()
    made: Counter[str] = Counter()
    for event in sorted(events):
        made[event.content] += counting_hooks.copies(event.content, event.hook, event.at)
    assert made == sent


@pytest.mark.parametrize(
    ("passes", "copied_by"),
    [
        # One packet: who sees it first copies it.
        ([(ARRIVAL, 0), ("a", 0)], [ARRIVAL]),
        ([("a", 0), (ARRIVAL, 1)], ["a"]),
        ([("a", 0), (ARRIVAL, RACE)], ["a"]),
        ([(ARRIVAL, 0), ("a", 0), ("b", 0), ("c", 0)], [ARRIVAL]),
        ([("a", 0), ("b", 0), (ARRIVAL, 1), ("c", 2)], ["a"]),
        # As late as can be, and too late.
        ([(ARRIVAL, 0), ("a", FORGET)], [ARRIVAL]),
        ([(ARRIVAL, 0), ("a", FORGET + 1)], [ARRIVAL, "a"]),
        # Two of one content, in each other's way.
        ([(ARRIVAL, 0), (ARRIVAL, 0), ("a", 1), ("a", 1)], [ARRIVAL, ARRIVAL]),
        ([("a", 0), ("a", 0), (ARRIVAL, 1), (ARRIVAL, 1)], ["a", "a"]),
        ([(ARRIVAL, 0), ("a", 0), ("a", 1), (ARRIVAL, 2)], [ARRIVAL, "a"]),
        ([("a", 0), ("a", 1), ("b", 2), ("b", 3)], ["a", "a"]),
        # One that came from a port that is not selected, and later one that did.
        ([("a", 0), (ARRIVAL, RACE + 1), ("a", RACE + 2)], ["a", ARRIVAL]),
        # One that came by the port that another left through: no packet does both.
        ([("a", 0), ("arrival a", 1), ("a", 2)], ["a", "arrival a", "a"]),
        ([("b", 0), ("a", 0), ("arrival a", 1), ("b", 2)], ["b", "arrival a"]),
        # Dropped by the flow table.
        ([(ARRIVAL, 0), (ARRIVAL, 1), (ARRIVAL, 2)], [ARRIVAL, ARRIVAL, ARRIVAL]),
    ],
)
def test_who_copies(
    counting_hooks: CountingHooks, passes: list[tuple[str, int]], copied_by: list[str]
) -> None:
    counting_hooks.restart()
    seen = [hook for hook, at in passes if counting_hooks.copies("x", hook, 10_000 + at)]
    assert seen == copied_by
