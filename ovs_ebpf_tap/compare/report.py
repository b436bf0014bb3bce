"""A comparison as a table for people, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ovs_ebpf_tap.compare.figures import Load, Metric, Result, Summary
from ovs_ebpf_tap.util.text import align

NONE = "-"
NOT_KNOWN = "not known"
# Figures that are missing for a reason, which is told.
_TOLD = ("due_pps", "copies_pps", "missing", "extra")


def as_json(result: Result) -> str:
    """All of it: what was read in each run, medians, spreads and ratios, in base units."""
    return json.dumps(
        {
            "title": result.title,
            "about": dict(result.about),
            "host": dict(result.host),
            "commands": result.commands,
            "variants": result.variants,
            "not_known": result.unknown,
            "notes": result.notes,
            "summary": {load.name: _load_json(result, load) for load in result.loads},
            "rounds": [asdict(reading) for reading in result.readings],
        },
        indent=2,
    )


def _load_json(result: Result, load: Load) -> dict[str, Any]:
    return {metric.key: _metric_json(result, load, metric) for metric in load.metrics}


def _metric_json(result: Result, load: Load, metric: Metric) -> dict[str, Any]:
    found: dict[str, Any] = {"label": metric.label}
    for variant in result.variants:
        summary = result.summary(load.name, metric.key, variant)
        found[variant] = None if summary is None else asdict(summary)
    for over, under in result.pairs:
        found[f"{over}/{under}"] = result.ratio(load.name, metric.key, over, under)
    return found


def as_table(result: Result) -> str:
    """The medians, the quartiles around them, and ratios of medians."""
    lines = [result.title, ""]
    lines += align([(f"{what}:", how) for what, how in (*result.about, *result.host)])
    for load in result.loads:
        head = table_head(result, load)
        lines += ["", *align([head, *table_rows(result, load)], right=range(1, len(head)))]
    lines += ["", "Medians of all rounds, [quartiles]; ratios are of medians."]
    lines += [f"Not known: {why}." for why in result.unknown]
    lines += [f"{note}." for note in result.notes]
    return "\n".join(lines)


def table_head(result: Result, load: Load) -> tuple[str, ...]:
    """The heading of a load's table."""
    ratios = (f"{over}/{under}" for over, under in result.pairs)
    return (load.label.upper(), *(v.upper() for v in result.variants), *map(str.upper, ratios))


def table_rows(result: Result, load: Load) -> Iterator[tuple[str, ...]]:
    """A row for each figure that is known of any variant, or that is said not to be."""
    for metric in load.metrics:
        summaries = [result.summary(load.name, metric.key, v) for v in result.variants]
        told = bool(result.unknown) and metric.key in _TOLD
        if not any(summaries) and not told:
            continue
        ratios = (result.ratio(load.name, metric.key, *pair) for pair in result.pairs)
        yield (
            label(metric),
            *(
                show(metric, summary) if summary else NOT_KNOWN if told else NONE
                for summary in summaries
            ),
            *(NONE if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        )


def label(metric: Metric) -> str:
    """What is measured, with its unit."""
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label


def show(metric: Metric, summary: Summary) -> str:
    """The median with its quartiles, in the unit that is shown."""
    median, q1, q3 = (
        number(value * metric.scale, metric.digits)
        for value in (summary.median, summary.q1, summary.q3)
    )
    return median if q1 == q3 else f"{median} [{q1}, {q3}]"


def number(value: float, digits: int) -> str:
    """A number with so many digits behind the point, and its thousands apart."""
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not float(text.replace(",", "")) else text
