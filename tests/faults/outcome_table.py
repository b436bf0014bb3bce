"""The table of what faults came to."""

from __future__ import annotations

from typing import Any

from faults.fault import DOUBLED, QUIET, RECOVERY, Outcome
from ovs_ebpf_tap.util.text import align
from reported import reported

PROPERTY = "fault"
"""Of a test's report: what its fault came to."""

_COLUMNS = (
    "fault",
    "frames",
    "missing",
    "blackout",
    "doubled",
    "for ms",
    "unattended",
    "right after s",
    "others' CPUs",
)


def print_table(terminalreporter: Any) -> None:
    """Prints the outcomes that the reports of a run hold, if any do."""
    outcomes = dict.fromkeys(Outcome(**value) for value in reported(terminalreporter, PROPERTY))
    if not outcomes:
        return
    terminalreporter.section("faults")
    for line in align([_COLUMNS, *map(_cells, outcomes)], right=range(1, len(_COLUMNS))):
        terminalreporter.line(line)
    late = sum(outcome.is_late for outcome in outcomes)
    for line in (
        "blackout: missing while nobody could copy, or dropped at the output's device; unattended:",
        "doubled from the moment on that a transition began in which the sidecar was killed,",
        "until the next one had ended it",
        f"{late} of {len(outcomes)} doubled for over {DOUBLED:g} s a transition, or took over "
        f"{RECOVERY:g} s; where others took at most {QUIET:g} CPUs, such a test has failed",
    ):
        terminalreporter.line(line)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.fault,
        str(outcome.sent),
        str(outcome.missing),
        str(outcome.blackout),
        str(outcome.doubled),
        f"{outcome.longest * 1e3:.0f}",
        str(outcome.unattended),
        f"{outcome.recovery:.2f}",
        f"{outcome.others:.2f}",
    )
