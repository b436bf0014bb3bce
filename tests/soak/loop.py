"""The loop: a step, rest, frames, counts; a line for each, and what is needed to do it again."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from ovs_ebpf_tap.lab.capture import CaptureLossError
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.netns import CommandError, reap
from ovs_ebpf_tap.lab.sidecar_process import reap_pins
from ovs_ebpf_tap.model.rows import REASON_KEY
from ovs_ebpf_tap.util.signals import interruptible
from ovs_ebpf_tap.util.text import align
from parity.case import Case, CasePort
from soak import steps
from soak.pair import CANARY, Pair, Rest, Row
from soak.port_changes import add_named_port
from soak.readings import MOST_GROWTH, SidecarUsage, growth, lives, read
from soak.replay import Frames, compare, make_case, play
from soak.scene import BRIDGE

_FIRST_PORTS = ("va", "vb", "vc", "vm", "vn", "vi", "vt")
_LIVES = (3, 10, 30, 100)
"""Steps that a sidecar is spared for: what grows shows in the long ones."""

_LOG_LINES = 40
_REASON = 70

_NAMES = re.compile(rf"\b({BRIDGE}|v[a-z]|m[0-9]+)\b")

_REPLAYS = 3
"""How often frames are sent again because mirrors moved meanwhile."""


class FailedError(Exception):
    """A step left something that it must not; the message says all of it."""


@dataclass
class Tally:
    """What a run came to."""

    steps: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    mirrors: int = 0
    offloaded: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Why mirrors were not offloaded, ports and mirrors unnamed."""
    replays: int = 0
    undecided: int = 0
    readings: list[SidecarUsage] = field(default_factory=list)


class Soak:
    """A run from a seed."""

    def __init__(self, seed: int, pair: Pair) -> None:
        self.tally = Tally()
        self._seed = seed
        self._pair = pair
        self._rng = Random(seed)
        self._number = 0
        self._spared = self._rng.choice(_LIVES)
        self.line = "the first ports"

    def begin(self) -> None:
        """The ports that there are at first."""
        for name in _FIRST_PORTS:
            add_named_port(self._pair, name, CasePort())

    def step(self, *, checked: bool = True) -> str:
        """The next step; returns its line. Raises FailedError, and what the lab raises.

        Frames are sent, and things counted, only if it is to be `checked`.
        """
        self._number += 1
        self.line = f"step {self._number}, which was not over"
        began = time.monotonic()
        self._spared -= 1
        name, line = steps.take(self._rng, self._pair, may_end=self._spared < 0)
        if name in {step.__name__ for step in steps.ENDS}:
            self._spared = self._rng.choice(_LIVES)
        self.tally.steps[name] += 1
        self.line = f"step {self._number}: {line}"
        rest = self._pair.settle()
        if not checked:
            return self.line
        rows, arrived = self._check_frames(rest)
        reading, problems = read(self._pair, rows)
        if problems:
            raise FailedError("\n".join(problems))
        self.tally.frames += arrived
        self.tally.mirrors += len(rows)
        self.tally.offloaded += reading.mirrors
        reasons = (row["external_ids"].get(REASON_KEY) for row in rows)
        self.tally.reasons.update(_NAMES.sub("_", reason) for reason in reasons if reason)
        self.tally.readings.append(reading)
        took = time.monotonic() - began
        return (
            f"{self.line} | {reading.mirrors} of {len(rows)} mirrors offloaded, {arrived} frames, "
            f"{reading.hooks} hooks, {reading.memory / 1024:.1f} MiB, {reading.descriptors} "
            f"descriptors, {took:.1f} s"
        )

    def _check_frames(self, rest: Rest) -> tuple[list[Row], int]:
        """Returns the rows as they were meanwhile, and how many frames arrived."""
        for attempt in range(_REPLAYS):
            # Of a generator of its own: steps are the same however often frames are sent.
            serial = self._number * _REPLAYS + attempt
            case = make_case(Random(f"{self._seed} {self._number}"), self._pair, serial)
            tested, oracle = play(self._pair, case)
            after = self._pair.settle()
            if after == rest:
                break
            rest = after
            self.tally.replays += 1
        else:
            raise FailedError(f"mirrors do not rest: {rest}")
        if compare(oracle, tested):
            self._checker(case, tested, oracle)
        return rest.mirrors, sum(frames.total() for frames in oracle.values())

    def _checker(self, case: Case, tested: Frames, oracle: Frames) -> None:
        """Raises FailedError, unless the first switch alone makes the same of the frames.

        What two Open vSwitches make of them may differ: which of several ports a flood comes to
        first, and so which of several mirrors, depends on where their memory is.
        """
        with self._pair.all_native():
            native, _ = play(self._pair, case)
        found = compare(native, tested)
        if not found:
            self.tally.undecided += 1
            return
        again, _ = play(self._pair, case)
        lines = [f"behind {place}: {each}" for place, each in found.items()]
        same = compare(oracle, native)
        raise FailedError(
            "\n".join(
                [
                    "what arrives is not what Open vSwitch alone makes of it:",
                    *lines,
                    f"the other switch makes {same or 'the same'} of it",
                    f"sent again: {compare(native, again) or 'as it should be'}",
                ]
            )
        )


def explain(pair: Pair) -> Iterator[str]:
    """What is there when a step has failed."""
    scene = pair.scene
    yield f"ports: {scene.ports}"
    yield f"devices: {scene.devices}"
    yield f"flows: {list(scene.flows.values())}"
    yield f"others' programs: {sorted(pair.foreign.links)}, {sorted(pair.foreign.filters)}"
    try:
        yield f"mirrors:\n{pair.tested.switch.vsctl('list', 'Mirror')}"
        yield f"status:\n{pair.sidecar.run('status').stdout}"
    except (CommandError, OSError, subprocess.TimeoutExpired) as error:
        yield f"no more is to be had: {error}"
    log = [line for line in pair.sidecar.log().splitlines() if f"mirror={CANARY}" not in line]
    yield "\n".join(["the sidecar's log:", *log[-_LOG_LINES:]])


def check_growth(tally: Tally) -> list[str]:
    """What has grown over a sidecar's life."""
    return [
        f"{what} grew by {more:g} over {len(life)} steps"
        for life in lives(tally.readings)
        for what, most in MOST_GROWTH.items()
        if (more := growth(life, what)) > most
    ]


def summary(tally: Tally) -> str:
    """The table at the end."""
    long = lives(tally.readings)
    memory = [growth(life, "memory") for life in long]
    share = tally.offloaded / tally.mirrors if tally.mirrors else 0.0
    pids = {reading.pid for reading in tally.readings}
    lines = [
        ("steps", f"{tally.steps.total()}"),
        ("mirrors compared", f"{tally.mirrors}, {share:.0%} of them offloaded"),
        ("frames that arrived, on each switch", f"{tally.frames}"),
        ("frames sent again as mirrors moved", f"{tally.replays}"),
        ("steps where Open vSwitches differ", f"{tally.undecided}"),
        ("sidecars", f"{len(pids)}, {len(long)} of them long enough to tell of growth"),
        *_ranges(tally.readings),
        ("memory's growth over a life, worst", f"{max(memory, default=0.0):.0f} KiB"),
        *((f"  {name}", str(count)) for name, count in sorted(tally.steps.items())),
        ("mirrors left to Open vSwitch", str(tally.mirrors - tally.offloaded)),
        *((f"  {reason[:_REASON]}", str(count)) for reason, count in tally.reasons.most_common()),
    ]
    return "\n".join(align(lines))


def _ranges(readings: Sequence[SidecarUsage]) -> list[tuple[str, str]]:
    if not readings:
        return []
    memory = [reading.memory / 1024 for reading in readings]
    rows = [("memory, MiB", f"{min(memory):.1f} to {max(memory):.1f}")]
    for what in ("descriptors", "threads", "hooks", "mirrors"):
        values = [getattr(reading, what) for reading in readings]
        rows.append((what, f"{min(values)} to {max(values)}"))
    return rows


def run(seed: int, seconds: float, last: int | None = None) -> int:
    """Runs for as long, or to step `last`, which alone is checked; returns the exit status."""
    print(f"soak: seed {seed}", flush=True)
    deadline = time.monotonic() + seconds
    with Pair(attachments()[0]) as pair:
        soak = Soak(seed, pair)
        try:
            soak.begin()
            number = 0
            while number < last if last is not None else time.monotonic() < deadline:
                number += 1
                print(soak.step(checked=last in (None, number)), flush=True)
        except (
            AssertionError,
            CaptureLossError,
            CommandError,
            FailedError,
            OSError,
            RuntimeError,
            subprocess.TimeoutExpired,
        ) as error:
            print(f"soak: failed at seed {seed}: {soak.line}\n{type(error).__name__}: {error}")
            print(*explain(pair), sep="\n")
            print(f"soak: again: --seed {seed} --step {number}, or all of it: --seed {seed}")
            return 1
        except KeyboardInterrupt:
            print("soak: interrupted")
    print(summary(soak.tally))
    problems = check_growth(soak.tally)
    for problem in problems:
        print(f"soak: failed at seed {seed}: {problem}")
    return 1 if problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs and prints; returns the exit status."""
    parser = argparse.ArgumentParser(prog="soak", description="Runs mirrors and faults at random.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    parser.add_argument("--seed", type=int, help="what makes the steps (default: a new one)")
    parser.add_argument("--step", type=int, help="end with this step, and check that one only")
    arguments = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("soak: root is needed", file=sys.stderr)
        return 1
    with interruptible(lambda _: KeyboardInterrupt()):
        reap()
        reap_pins()
        seed = secrets.randbelow(1 << 32) if arguments.seed is None else arguments.seed
        return run(seed, arguments.minutes * 60, arguments.step)
