"""Fixtures for faults, and the table of what they came to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from faults.fault import DOUBLED, RECOVERY, Fault, Outcome
from faults.ground import Ground
from ovs_ebpf_tap.lab.kernel import attachments

_FAULT = "fault"
_COLUMNS = (
    "fault",
    "frames",
    "missing",
    "dark",
    "doubled",
    "for ms",
    "unattended",
    "right after s",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They need a real switch."""
    for item in items:
        if "ground" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.openvswitch)


class _Grounds:
    """One ground for each kind of hooks, for many tests."""

    def __init__(self) -> None:
        self._free: dict[str, Ground] = {}

    def take(self, attach: str) -> Ground:
        ground = self._free.pop(attach, None)
        if ground is None:
            ground = Ground(attach)
            ground.open()
        return ground

    def give_back(self, ground: Ground) -> None:
        try:
            ground.reset()
        except BaseException:
            ground.close()
            raise
        self._free[ground.attach] = ground

    def close(self) -> None:
        for ground in self._free.values():
            ground.close()


@pytest.fixture(scope="session")
def grounds() -> Iterator[_Grounds]:
    made = _Grounds()
    yield made
    made.close()


@pytest.fixture
def bare_ground(grounds: _Grounds, request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A ground without mirror and sidecar; the parameter is the kind of hooks."""
    ground = grounds.take(getattr(request, "param", attachments()[0]))
    yield ground
    grounds.give_back(ground)


@pytest.fixture
def ground(bare_ground: Ground) -> Ground:
    """A ground with a sidecar that runs, and the mirror offloaded."""
    bare_ground.tap.start()
    bare_ground.mirror()
    return bare_ground


@pytest.fixture
def fault(bare_ground: Ground, request: pytest.FixtureRequest) -> Fault:
    """A fault on the ground, which adds a line to the table."""
    properties = request.node.user_properties
    return Fault(bare_ground, lambda outcome: properties.append((_FAULT, outcome)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the table of faults."""
    reports = (
        each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, ())
    )
    # Each report of a test has what it had told by then.
    outcomes = dict.fromkeys(
        Outcome(**value)
        for each in reports
        for name, value in each.user_properties
        if name == _FAULT
    )
    if not outcomes:
        return
    terminalreporter.section("faults")
    rows = [_COLUMNS, *map(_cells, outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        first, *others = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        terminalreporter.line(
            f"{first}  " + "  ".join(text.strip().rjust(len(text)) for text in others)
        )
    late = sum(outcome.is_late for outcome in outcomes)
    for line in (
        "dark: missing while nobody could copy, or dropped at the output's device; unattended:",
        "doubled from the moment on that a transition began in which the sidecar was killed,",
        "until the next one had ended it",
        f"{late} of {len(outcomes)} doubled for over {DOUBLED:g} s a transition, or took over "
        f"{RECOVERY:g} s",
    ):
        terminalreporter.line(line)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.fault,
        str(outcome.sent),
        str(outcome.missing),
        str(outcome.dark),
        str(outcome.doubled),
        f"{outcome.longest * 1e3:.0f}",
        str(outcome.unattended),
        f"{outcome.recovery:.2f}",
    )
