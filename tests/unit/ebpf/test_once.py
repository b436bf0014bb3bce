"""The scheme of `bpf/dedup.h`, in Python: hooks that count make one copy of each packet.

This tests the scheme, as the header's comment and its C say it, not the C: the tables are
large enough here, and one event is over before the next begins.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ebpf_tap import abi

FORGET = abi.constant("FORGET_MS")
RACE = abi.constant("RACE_MS")

# Longest time here that a packet takes through the switch.
LAG = 100

ARRIVAL = "arrival"
"""Where nothing that is selected leaves; `arrival a` is on the port `a`."""


@dataclass
class PassingFrame:
    """`struct tap_frame`"""

    born: int
    used: int
    raced: int
    arrived: int = 0
    copies: int = 0


@dataclass
class FrameDeparture:
    """`struct tap_departure`"""

    born: int
    used: int
    count: int = 0


@dataclass
class Once:
    """The hooks that copy to one output."""

    frames: dict[str, PassingFrame] = field(default_factory=dict)
    departures: dict[tuple[str, str], FrameDeparture] = field(default_factory=dict)

    def see(self, content: str, hook: str, now: int) -> bool:
        """`tap_should_copy`: whether the hook, at that time in ms, copies the frame it sees."""
        frame = self.frames.get(content)
        if frame is None or now - frame.used > FORGET:
            frame = self.frames[content] = PassingFrame(born=now, used=now, raced=now - RACE - 1)
        frame.used = now
        if hook.startswith(ARRIVAL):
            return self._arrive(frame, content, hook.removeprefix(ARRIVAL).strip(), now)
        count = self._depart(content, hook, frame.born, now)
        if count <= frame.copies:
            return False
        frame.copies, frame.raced = count, now
        return True

    def _arrive(self, frame: PassingFrame, content: str, port: str, now: int) -> bool:
        frame.arrived += 1
        if frame.arrived > frame.copies:
            frame.copies = frame.arrived
            return True
        if not self._answers(frame, content, port) and now - frame.raced <= RACE:
            return False
        frame.copies += 1
        frame.arrived = frame.copies
        return True

    def _answers(self, frame: PassingFrame, content: str, port: str) -> bool:
        """Whether it has left through the port that it arrives on: that was another packet."""
        way = self.departures.get((content, port))
        if way is None or way.born != frame.born:
            return False
        way.count += 1
        return True

    def _depart(self, content: str, hook: str, born: int, now: int) -> int:
        way = self.departures.get((content, hook))
        if way is None or way.born != born:
            way = self.departures[content, hook] = FrameDeparture(born, now)
        way.used = now
        way.count += 1
        return way.count


@dataclass(frozen=True, order=True)
class Event:
    """A packet passes a hook."""

    at: int
    place: int
    """Orders what happens in the same millisecond."""
    content: str
    hook: str


def copies(events: list[Event]) -> Counter[str]:
    once = Once()
    made: Counter[str] = Counter()
    for event in sorted(events):
        made[event.content] += once.see(event.content, event.hook, event.at)
    return made


@st.composite
def traffic(draw: st.DrawFn, gaps: st.SearchStrategy[int]) -> tuple[list[Event], Counter[str]]:
    """Packets of few contents, each with the hooks that its like pass, and when they do."""
    events: list[Event] = []
    sent: Counter[str] = Counter()
    places = st.integers(0, 1000)
    for content in draw(st.sampled_from(["x", "xy"])):
        arrives = draw(st.booleans())
        ports = draw(st.lists(st.sampled_from("abc"), unique=True, min_size=not arrives))
        now = 10_000
        for _ in range(draw(st.integers(1, 8))):
            now += draw(gaps)
            sent[content] += 1
            if arrives:
                events.append(Event(now, draw(places), content, ARRIVAL))
            for port in ports:
                early = -RACE if arrives else 0
                at = now + draw(st.integers(early, LAG))
                events.append(Event(at, draw(places), content, port))
    return events, sent


# What follows at once, what follows while all is remembered, and what when all is forgotten.
# Between the last two, hooks that forget one after the other may count apart.
SOON = st.integers(0, 5)
LATER = st.integers(0, FORGET - 2 * LAG)
MUCH_LATER = st.integers(FORGET + 2 * LAG, 3 * FORGET)


@settings(max_examples=examples(500), deadline=None)
@given(traffic(gaps=SOON | LATER | MUCH_LATER))
def test_as_many_copies_as_packets(case: tuple[list[Event], Counter[str]]) -> None:
    events, sent = case
    assert copies(events) == sent


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
def test_who_copies(passes: list[tuple[str, int]], copied_by: list[str]) -> None:
    once = Once()
    assert [hook for hook, at in passes if once.see("x", hook, 10_000 + at)] == copied_by
