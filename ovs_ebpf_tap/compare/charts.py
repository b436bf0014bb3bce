"""The charts of a comparison, as SVG elements of a page."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from xml.dom import minidom

import matplotlib
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovs_ebpf_tap.compare.figures import NATIVE, NONE, OFFLOADED, Load, Metric, Result
from ovs_ebpf_tap.compare.report import number

_COLOURS = {NONE: "#8b93a1", NATIVE: "#d97b29", OFFLOADED: "#2a86c8"}
_INK = "#010203"
"""Stands for the page's text colour, which depends on the reader's light or dark setting."""

_WIDTH = 6.4  # inches, at 72 units each in the page
_BAR, _GAP, _MARGIN = 0.19, 0.16, 0.5  # inches

_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Chart:
    """An SVG element, what it shows, and in which unit."""

    title: str
    unit: str
    svg: str


@dataclass(frozen=True)
class _Panel:
    """What a chart shows: a row for each figure of it, with a bar for each variant."""

    title: str
    unit: str
    rows: tuple[tuple[str, Load, Metric], ...]


def draw_charts(result: Result) -> list[Chart]:
    """A chart for each panel of the metrics that has a figure."""
    return [Chart(panel.title, panel.unit, _svg(result, panel)) for panel in _panels(result)]


def _panels(result: Result) -> Iterator[_Panel]:
    """The panels; one with several metrics under several loads is one for each metric."""
    found: dict[str, list[tuple[Load, Metric]]] = {}
    for load in result.loads:
        for metric in load.metrics:
            known = any(result.summary(load.name, metric.key, v) for v in result.variants)
            if metric.panel and known:
                found.setdefault(metric.panel, []).append((load, metric))
    for title, items in found.items():
        unit = items[0][1].unit
        metrics = list(dict.fromkeys(metric for _, metric in items))
        if len({load.name for load, _ in items}) == 1:
            yield _Panel(title, unit, tuple((metric.row, load, metric) for load, metric in items))
            continue
        for each in metrics:
            rows = tuple((load.name, load, metric) for load, metric in items if metric == each)
            yield _Panel(f"{title}, {each.row}" if len(metrics) > 1 else title, unit, rows)


def _svg(result: Result, panel: _Panel) -> str:
    height = len(panel.rows) * (len(result.variants) * _BAR + _GAP) + _MARGIN
    written = io.BytesIO()
    with matplotlib.rc_context():
        # Identifiers are hashes: salted, those of one chart are not in another.
        matplotlib.rc("svg", fonttype="none", hashsalt=panel.title)
        matplotlib.rc("font", family="sans-serif", size=9)
        matplotlib.rc("text", color=_INK)
        matplotlib.rc("xtick", color=_INK)
        matplotlib.rc("ytick", color=_INK)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        _draw(axes, result, panel)
        figure.savefig(written, format="svg", metadata=_NO_METADATA)
    return _as_element(written.getvalue(), panel.title)


def _as_element(document: bytes, title: str) -> str:
    """An SVG document as an element of a page, which may have further ones."""
    svg = minidom.parseString(document).documentElement
    assert svg is not None
    svg.setAttribute("role", "img")
    svg.setAttribute("aria-label", title)
    for group in svg.getElementsByTagName("g"):
        # Numbered from 1 in each document, and referred to nowhere.
        if group.hasAttribute("id"):
            group.removeAttribute("id")
    return svg.toxml().replace(_INK, "currentColor")


def _draw(axes: Axes, result: Result, panel: _Panel) -> None:
    step = len(result.variants) * _BAR + _GAP
    most = 0.0
    for place, (_, load, metric) in enumerate(panel.rows):
        for index, variant in enumerate(result.variants):
            summary = result.summary(load.name, metric.key, variant)
            if summary is None:
                continue
            at = place * step + index * _BAR
            values = [v * metric.scale for v in result.values(load.name, metric.key, variant)]
            colour = _COLOURS[variant]
            median = summary.median * metric.scale
            axes.barh(at, median, height=_BAR * 0.82, color=colour, alpha=0.45, linewidth=0)
            axes.plot(values, [at] * len(values), "o", color=colour, markersize=3.2, clip_on=False)
            most = max(most, *values)
            axes.annotate(
                number(median, metric.digits),
                (max(values), at),
                xytext=(6, 0),
                textcoords="offset points",
                verticalalignment="center",
                fontsize=8,
            )
    middle = (len(result.variants) - 1) * _BAR / 2
    axes.set_yticks(
        [place * step + middle for place in range(len(panel.rows))], [row[0] for row in panel.rows]
    )
    axes.invert_yaxis()
    axes.set_xlim(0, most * 1.12 or 1)
    axes.margins(y=0.02)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="x", color=_INK, alpha=0.12, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)
