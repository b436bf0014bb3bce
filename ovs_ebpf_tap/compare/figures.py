"""Figures of runs as plain data, their medians and spreads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ovs_ebpf_tap.util.quantiles import quantiles

NONE = "none"
NATIVE = "native"
OFFLOADED = "offloaded"
TC = "tc"
"""No mirror, but a tc filter that makes the same copies: what the kernel alone needs for them."""


@dataclass(frozen=True)
class Metric:
    """A figure of a run. `scale` turns its base unit into the one that is shown.

    Figures with the same `panel` are plotted side by side, as `row` each; without one, not at all.
    """

    key: str
    label: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 0
    panel: str = ""
    row: str = ""


@dataclass(frozen=True)
class Load:
    """The traffic of a run, and what is measured under it."""

    name: str
    label: str
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class Reading:
    """A run's figures by metric, in base units; None where one is not known.

    `raw` is what was read for them.
    """

    round: int
    load: str
    variant: str
    seconds: float
    values: Mapping[str, float | None]
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """The median of some runs, with quartiles and extremes."""

    n: int
    median: float
    q1: float
    q3: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Result:
    """All that a comparison has found.

    `about` and `host` are pairs of what and how; `unknown` says why figures are missing, `notes`
    what to mind when reading others.
    """

    title: str
    about: tuple[tuple[str, str], ...]
    host: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]
    variants: tuple[str, ...]
    loads: tuple[Load, ...]
    readings: tuple[Reading, ...]
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def values(self, load: str, metric: str, variant: str) -> list[float]:
        """The figures that are known, in the order of rounds."""
        found = (
            each.values.get(metric)
            for each in self.readings
            if (each.load, each.variant) == (load, variant)
        )
        return [value for value in found if value is not None]

    def summary(self, load: str, metric: str, variant: str) -> Summary | None:
        """The runs' median and spread; None if the figure is not known of each."""
        runs = [r for r in self.readings if (r.load, r.variant) == (load, variant)]
        values = self.values(load, metric, variant)
        return summarise(values) if values and len(values) == len(runs) else None

    def ratio(self, load: str, metric: str, variant: str, base: str) -> float | None:
        """The variant's median divided by the base's; None if unknown, or if the base's is 0."""
        over, under = (self.summary(load, metric, each) for each in (variant, base))
        if over is None or under is None or not under.median:
            return None
        return over.median / under.median

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs (variant, base) whose ratios are shown, those of the last variant first."""
        last = len(self.variants) - 1
        return [
            (self.variants[i], self.variants[j]) for i in range(last, 0, -1) for j in range(i)[::-1]
        ]


def summarise(values: Iterable[float]) -> Summary:
    """The median of the values, which are not none, and their spread."""
    known = sorted(values)
    q1, median, q3 = quantiles(known, 4)
    return Summary(len(known), median, q1, q3, known[0], known[-1])
