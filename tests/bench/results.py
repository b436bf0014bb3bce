"""What was measured, beside its limits, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ovs_ebpf_tap.util.quantiles import percentile
from ovs_ebpf_tap.util.text import align

MEDIAN = "median"
P99 = "99th"
WORST = "worst"


@dataclass(frozen=True)
class Figure:
    """A measured quantity; `limits` are by `MEDIAN`, `P99` and `WORST`."""

    what: str
    unit: str
    values: Sequence[float]
    limits: Mapping[str, float]

    @property
    def found(self) -> dict[str, float]:
        """Median, 99th percentile and the largest value."""
        median, p99 = (percentile(self.values, percent) for percent in (50, 99))
        return {MEDIAN: median, P99: p99, WORST: max(self.values)}

    @property
    def ratio(self) -> float:
        """The largest share of a limit that was measured: above 1 it is not met."""
        found = self.found
        return max(found[name] / limit for name, limit in self.limits.items())


def as_json(figures: Iterable[Figure]) -> str:
    """The figures as a JSON array of objects."""
    rows = [
        {
            "what": each.what,
            "unit": each.unit,
            **each.found,
            "n": len(each.values),
            "limits": dict(each.limits),
            "ratio": each.ratio,
        }
        for each in figures
    ]
    return json.dumps(rows, indent=2)


_COLUMNS = ("WHAT", "MEDIAN", "99TH", "WORST", "N", "LIMIT", "OF LIMIT")


def as_table(figures: Iterable[Figure]) -> str:
    """The figures as a table for people."""
    return "\n".join(align([_COLUMNS, *map(_cells, figures)], right=range(1, 5)))


def _cells(figure: Figure) -> tuple[str, ...]:
    limits = ", ".join(f"{name} {limit:g}" for name, limit in figure.limits.items())
    return (
        f"{figure.what} [{figure.unit}]",
        *(f"{figure.found[name]:.3g}" for name in (MEDIAN, P99, WORST)),
        str(len(figure.values)),
        limits,
        f"{figure.ratio:.2f}",
    )
