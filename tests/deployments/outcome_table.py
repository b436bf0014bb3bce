"""The table of what the comparisons came to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from deployments.outcome import Outcome
from ovs_ebpf_tap.util.text import align
from reported import reported

PROPERTY = "deployment"
"""Of a test's report: what the comparison of a mirror came to."""
FILE_VARIABLE = "OVS_EBPF_TAP_DEPLOYMENTS"
"""Names the file that the table is written to, too, as Markdown."""

_COLUMNS = (
    "deployment",
    "mirror",
    "Open vSwitch",
    "offloaded, or why not",
    "due",
    "missing",
    "extra",
    "natively due",
    "missing",
    "extra",
)
_COUNTS = range(4, len(_COLUMNS))


def print_table(terminalreporter: Any) -> None:
    """Prints the outcomes that the reports of a run hold, if any do."""
    each = (Outcome(**value) for value in reported(terminalreporter, PROPERTY))
    found = sorted(dict.fromkeys(each), key=_order)
    if not found:
        return
    rows = [_cells(each) for each in found]
    terminalreporter.section("deployments")
    for line in align([_COLUMNS, *rows], right=_COUNTS):
        terminalreporter.line(line)
    offloaded = sum(each.is_offloaded for each in found)
    terminalreporter.line(f"{offloaded} of {len(found)} mirrors are offloaded")
    if path := os.environ.get(FILE_VARIABLE):
        Path(path).write_text("".join(f"| {' | '.join(row)} |\n" for row in _with_rule(rows)))


def _with_rule(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    rule = tuple("---:" if column in _COUNTS else "---" for column in range(len(_COLUMNS)))
    return [_COLUMNS, rule, *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]


def _order(outcome: Outcome) -> tuple[str, str]:
    return outcome.deployment, outcome.ovs


def _cells(outcome: Outcome) -> tuple[str, ...]:
    counts = (
        outcome.due,
        outcome.missing,
        outcome.extra,
        outcome.native_due,
        outcome.native_missing,
        outcome.native_extra,
    )
    texts = (outcome.deployment, outcome.mirror, outcome.ovs, outcome.verdict)
    return (*texts, *map(str, counts))
