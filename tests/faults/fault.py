"""A fault under numbered traffic: what was missing, what was doubled, and for how long."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace

from faults.other_load import measure_others
from faults.testbed import Testbed
from ovs_ebpf_tap.lab.capture import Capture, Direction
from ovs_ebpf_tap.lab.frames import parse_seq
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import EMULATED, patience, wait_for

RATE = 500.0 if EMULATED else 5_000.0
"""Frames a second; an emulated machine takes as long for a tenth."""

DOUBLED = 0.05
"""Seconds for which a transition may double copies."""

RECOVERY = 1.0
"""Seconds from the fault's end until all is right."""

QUIET = 0.1
"""CPUs that others may take during a fault on a machine that counts as quiet: limits hold there."""

_BUSY = 20.0
"""How many times as long a machine may take that is busy with something else. The table says how
long it took, and how many faults took longer than they may on a quiet one."""

_BEFORE = 0.1  # seconds of traffic before the fault
_PATIENCE = 15.0  # seconds until all has to be right at last
_SETTLED = 0.25
"""Seconds for which all has to be right: also what each frame's one copy is looked at in."""
_LATE = 5.0
"""Seconds that the last copies may take."""

_APART = 0.01
"""Seconds without a doubled copy between those of two transitions: as long as some frames take."""


@dataclass(frozen=True)
class Outcome:
    """What a fault came to: counts of frames, and seconds."""

    fault: str
    sent: int
    missing: int
    blackout: int
    """Missing, but nobody was to copy them."""
    doubled: int
    longest: float
    """From the first doubled copy of a transition to its last."""
    unattended: int
    """Doubled while a sidecar was not there, or had not settled."""
    recovery: float
    """From the fault's end until rows and copies were right."""
    moves: int
    """Transitions that come one upon the other, as if they were one."""
    preparation: float = 0.0
    """Of the recovery: what it may take more, as the sidecar compiles first."""
    others: float = 0.0
    """CPUs that processes took which are not the test's."""

    @property
    def is_late(self) -> bool:
        """Whether it took longer than it may on a quiet machine."""
        return self._is_doubled_too_long() or self._is_right_too_late()

    def problems(self) -> list[str]:
        """What is not as it has to be, on a machine as busy as it was."""
        slower = 1.0 if self.others <= QUIET else _BUSY
        found = []
        if self.missing:
            found.append(f"{self.missing} copies are missing")
        if self._is_doubled_too_long(slower):
            found.append(f"copies were doubled for {self.longest * 1e3:.0f} ms")
        if self._is_right_too_late(slower):
            found.append(f"it took {self.recovery:.2f} s until all was right")
        return found

    def _is_doubled_too_long(self, slower: float = 1.0) -> bool:
        return self.longest > patience(DOUBLED) * self.moves * slower

    def _is_right_too_late(self, slower: float = 1.0) -> bool:
        return self.recovery > patience(RECOVERY + self.preparation) * slower


class Interval:
    """From a moment on, until it ends."""

    def __init__(self) -> None:
        self.start = time.time()
        self.end = float("inf")

    def finish(self) -> None:
        """It ends now, if it has not yet."""
        self.end = min(self.end, time.time())

    def covers(self, when: float) -> bool:
        """Whether a moment is within it."""
        return self.start <= when <= self.end


@dataclass
class During:
    """The fault while it is there; times are the kernel's, of frames too."""

    _dark: list[Interval] = field(default_factory=list)
    _unattended: list[Interval] = field(default_factory=list)
    _ended: float = 0.0
    outcome: Outcome | None = None
    """What it came to, after the block."""

    @contextlib.contextmanager
    def blackout(self) -> Iterator[None]:
        """Neither OVS nor hooks can copy what is sent in this block: it may be missing."""
        span = Interval()
        self._dark.append(span)
        try:
            yield
        finally:
            span.finish()

    def unattended(self) -> None:
        """The sidecar is gone from here on: both may copy until all is right."""
        self._unattended.append(Interval())

    def ended(self) -> None:
        """The fault has ended, the last time that it is called; else it has at the block's end."""
        self._ended = time.time()


@dataclass(frozen=True)
class _Seen:
    """When each frame of the stream passed, by number."""

    sent: dict[int, float]
    copies: dict[int, list[float]]

    def doubled(self) -> list[float]:
        """When further copies were there, in order."""
        return sorted(when for whens in self.copies.values() for when in sorted(whens)[1:])

    def missing(self) -> list[float]:
        """When those were sent that were not copied, in order."""
        return sorted(when for number, when in self.sent.items() if number not in self.copies)


class Fault:
    """Call it with the fault's name, for the block in which the fault is there."""

    def __init__(self, ground: Testbed, tell: Callable[[dict[str, object]], None]) -> None:
        self._ground = ground
        self._tell = tell

    @contextlib.contextmanager
    def __call__(self, name: str, moves: int = 1, preparation: float = 0.0) -> Iterator[During]:
        """Traffic passes meanwhile; raises AssertionError if the outcome is not as it has to be.

        `moves` is how many transitions may come one upon the other; `preparation` is how many
        seconds it may take until the sidecar can begin to put things right.
        """
        ground, during = self._ground, During()
        dropped = ground.dropped()
        others = measure_others(ground.namespaces())
        with (
            Capture.of(ground.monitor) as copies,
            Capture.of(ground.a, Direction.OUT) as sent,
            Stream(ground.a, ground.b, rate=RATE) as stream,
        ):
            time.sleep(_BEFORE)
            yield during
            if not during._ended:
                during.ended()
            right = _await_right(ground)
            for span in during._unattended:
                span.end = right
            _await_last(copies, stream)
        busy = others()
        seen = _Seen(
            {number: whens[0] for number, whens in _by_number(sent, stream).items()},
            _by_number(copies, stream),
        )
        # In the blackout, a device without a carrier takes frames that it does not send.
        assert len(seen.sent) == stream.sent or during._dark
        moved = _outcome(name, moves, seen, during, right, max(0, ground.dropped() - dropped))
        during.outcome = outcome = replace(moved, preparation=preparation, others=busy)
        self._tell(asdict(outcome))
        problems = outcome.problems()
        assert not problems, (
            f"{name}: {', '.join(problems)}\n{outcome}\n"
            f"seconds after the fault's end: right at {right - during._ended:.3f}, "
            f"missing {_spans(seen.missing(), during)}, doubled {_spans(seen.doubled(), during)}\n"
            f"{ground.tap.log()}"
        )


def _await_right(ground: Testbed) -> float:
    """Waits until all is right for a while; returns since when."""
    deadline = time.monotonic() + patience(_PATIENCE)
    since = None
    while since is None or time.time() - since < _SETTLED:
        if not ground.is_right():
            since = None
        elif since is None:
            since = time.time()
        assert time.monotonic() < deadline, f"not right: {ground.rows()}\n{ground.tap.log()}"
        time.sleep(0.005)
    return since


def _await_last(copies: Capture, stream: Stream) -> None:
    """Ends the stream; a switch that is busy may come to its last frame late."""
    last = stream.stop() - 1
    with contextlib.suppress(TimeoutError):  # It is missing, as will be reported.
        wait_for(lambda: last in copies.sequences(stream.stream_id), _LATE, every=0.1)
    copies.wait_quiet(0.1)


def _by_number(capture: Capture, stream: Stream) -> dict[int, list[float]]:
    found = defaultdict(list)
    for record in capture.records():
        parsed = parse_seq(record.frame)
        if parsed is not None and parsed[0] == stream.stream_id:
            found[parsed[1]].append(record.time_ns / 1e9)
    return dict(found)


def _outcome(
    name: str, moves: int, seen: _Seen, during: During, right: float, dropped: int
) -> Outcome:
    """`dropped` is how many frames the kernel has dropped that were sent to the output's device.

    It does while a qdisc is replaced there, as ovs-vswitchd does when it starts.
    """
    missing = seen.missing()
    blackout = [when for when in missing if any(span.covers(when) for span in during._dark)]
    blackout += [when for when in missing if when not in blackout][:dropped]
    doubled = seen.doubled()
    excused = [when for when in doubled if any(span.covers(when) for span in during._unattended)]
    attended = sorted(set(doubled) - set(excused))
    wrong = [when for when in missing + doubled if when > during._ended]
    return Outcome(
        fault=name,
        sent=len(seen.sent),
        missing=len(missing) - len(blackout),
        blackout=len(blackout),
        doubled=len(doubled) - len(excused),
        longest=max((run[-1] - run[0] for run in _runs(attended)), default=0.0),
        unattended=len(excused),
        recovery=max([right, *wrong]) - during._ended,
        moves=moves,
    )


def _spans(times: list[float], during: During) -> str:
    spans = [f"{run[0] - during._ended:.3f}..{run[-1] - during._ended:.3f}" for run in _runs(times)]
    return ", ".join(spans) or "none"


def _runs(times: list[float]) -> list[list[float]]:
    """Moments in order, cut up into transitions."""
    runs: list[list[float]] = []
    for when in times:
        if runs and when - runs[-1][-1] < _APART:
            runs[-1].append(when)
        else:
            runs.append([when])
    return runs
