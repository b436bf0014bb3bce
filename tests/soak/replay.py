"""The same frames through both switches, and how what arrives differs."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.differences import Difference, difference
from ovs_ebpf_tap.lab.frames import Tag
from ovs_ebpf_tap.lab.tap import TapDevice
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from parity.case import Case, Sent
from parity.strategies import DESTINATIONS, TAGS, Example, Frame
from soak.pair import Pair, Twin
from soak.scene import BRIDGE, UP

_BETWEEN = 0.02
"""Seconds of quiet after which the next port may send: what it causes depends on the order."""
_LEARNT = 0.06
"""Seconds of quiet after which all addresses are learned."""
_AFTER = 0.12
"""Seconds of quiet after which nothing more is expected."""
_LATE = 2.0
"""Seconds that one switch has for as many frames as the other."""

# What loses the first of two tags when it leaves looks as if it had had the other only; Open
# vSwitch copies VLAN 4095 of parked mirrors itself; and packets that it has sent a copy of with
# another tag, it sends on without DEI.
_TAGS = [tags for tags in TAGS if len(tags) < 2 and tags not in ((4095,), (Tag(20, dei=1),))]

Frames = dict[str, Counter[bytes]]
"""What arrived behind each port."""


def make_case(rng: Random, pair: Pair, serial: int) -> Case:
    """Frames into every port; `serial` makes the addresses."""
    ports = {name: pair.scene.ports[name] for name in sorted(pair.scene.reachable)}
    sent = []
    for name in rng.sample(sorted(ports), len(ports)):
        sent.append((name, tuple(_frame(rng, list(ports)) for _ in range(rng.randint(3, 6)))))
    return Example(ports, (), tuple(sent)).case(serial)


def _frame(rng: Random, names: Sequence[str]) -> Frame:
    to = rng.choice((*DESTINATIONS, *names))
    return Frame(
        to,
        tags=rng.choice((*TAGS[:4], rng.choice(_TAGS))),
        to_tags=rng.choice(TAGS[:4]) if to in names else (),
        length=rng.choice((50, 0, 46, 60, 300, 1200)),
        ip=rng.random() < 0.5,
        count=rng.choice((1, 1, 1, 2, 5)),
    )


def play(pair: Pair, case: Case) -> tuple[Frames, Frames]:
    """Sends; returns what arrived behind the ports of the tested switch, and of the other."""
    with contextlib.ExitStack() as watching:
        watches = [watching.enter_context(_watch(twin, pair)) for twin in pair.twins]
        pair.both(lambda twin: twin.switch.appctl("fdb/flush", BRIDGE))
        _send(pair, case.learn, watches)
        _await_equal(watches, _LEARNT)
        with contextlib.suppress(TimeoutError):  # What follows tells what is wrong.
            wait_for(lambda: len({*map(_learned, pair.twins)}) == 1, _LATE)
        for watch in watches:
            watch.clear()
        pair.both(lambda twin: twin.switch.appctl("revalidator/purge"))
        _send(pair, case.sent, watches)
        _await_equal(watches, _AFTER)
        tested, oracle = (watch.frames() for watch in watches)
    return tested, oracle


def _learned(twin: Twin) -> frozenset[tuple[str, ...]]:
    """Ports, VLANs and addresses, without their age."""
    lines = twin.switch.appctl("fdb/show", BRIDGE).splitlines()
    return frozenset(tuple(line.split()[:3]) for line in lines)


def compare(expected: Frames, seen: Frames) -> dict[str, Difference]:
    """What differs, by place."""
    found = {place: difference(expected[place], seen[place]) for place in expected}
    return {place: each for place, each in found.items() if each}


class _SwitchListeners:
    """What arrives behind the ports of one switch."""

    def __init__(self, listeners: dict[str, Capture | TapDevice]) -> None:
        self._listeners = listeners

    def clear(self) -> None:
        for listener in self._listeners.values():
            listener.clear()

    def frames(self) -> Frames:
        return {name: listener.multiset() for name, listener in self._listeners.items()}

    def count(self) -> int:
        return sum(len(listener.frames()) for listener in self._listeners.values())


@contextlib.contextmanager
def _watch(twin: Twin, pair: Pair) -> Iterator[_SwitchListeners]:
    """Behind all ports, and devices that are ports no more."""
    scene = pair.scene
    names = {*scene.reachable, *(name for name, state in scene.devices.items() if state == UP)}
    with contextlib.ExitStack() as stack:
        listeners: dict[str, Capture | TapDevice] = {}
        for name in sorted(names):
            machine = twin.machine(name)
            if isinstance(machine, TapDevice):
                machine.clear()
                listeners[name] = machine
            else:
                listeners[name] = stack.enter_context(Capture.of(machine))
        yield _SwitchListeners(listeners)


def _send(pair: Pair, sent: Sequence[Sent], watches: Sequence[_SwitchListeners]) -> None:
    for name, frames in sent:
        for twin in pair.twins:
            twin.machine(name).send(frames)
        _await_quiet(watches, _BETWEEN)


def _await_quiet(watches: Sequence[_SwitchListeners], idle: float) -> None:
    last, since = -1, time.monotonic()
    while time.monotonic() - since < patience(idle):
        total = sum(watch.count() for watch in watches)
        if total != last:
            last, since = total, time.monotonic()
        time.sleep(idle / 4)


def _await_equal(watches: Sequence[_SwitchListeners], idle: float) -> None:
    deadline = time.monotonic() + patience(_LATE)
    while True:
        _await_quiet(watches, idle)
        if len({watch.count() for watch in watches}) == 1 or time.monotonic() > deadline:
            return
