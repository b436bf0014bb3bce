"""What tests have added to the reports of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def reported(terminalreporter: Any, name: str) -> Iterator[Any]:
    """The values of this property; each report of a test has those that it had by then."""
    for kind in ("passed", "failed"):
        for report in terminalreporter.stats.get(kind, ()):
            yield from (value for each, value in report.user_properties if each == name)
