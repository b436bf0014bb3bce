"""A comparison as one HTML page, with plots in it; it refers to nothing outside."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import matplotlib
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovs_ebpf_tap.compare.figures import NATIVE, NONE, OFFLOADED, Load, Metric, Result
from ovs_ebpf_tap.compare.report import number, table_head, table_rows

_COLOURS = {NONE: "#8b93a1", NATIVE: "#d97b29", OFFLOADED: "#2a86c8"}
# Replaced by the page's own, which depends on the reader's light or dark setting.
_INK = "#010203"

_WIDTH = 6.4  # inches, at 72 units each in the page
_BAR, _GAP, _MARGIN = 0.19, 0.16, 0.5  # inches

_PROLOGUE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_SIZE = re.compile(r'(<svg[^>]*?) width="[^"]*"([^>]*?)>', re.DOTALL)
_HEIGHT = re.compile(r'(<svg[^>]*?) height="[^"]*"', re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
# Of groups; several plots in one page would have the same.
_GROUP_ID = re.compile(r'<g id="[a-z_]+\d*[a-z_\d.]*">')

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2026; --soft: #5d6673; --line: #dfe3e8; --page: #fff;
  --none: #8b93a1; --native: #d97b29; --offloaded: #2a86c8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #9aa4b1; --line: #333a44; --page: #15181c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 80rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.7rem; line-height: 1.25; font-weight: 650; }
h2 { margin: 2.75rem 0 .75rem; font-size: 1.15rem; font-weight: 650; }
h3 { margin: 0 0 .25rem; font-size: .95rem; font-weight: 600; }
h3 small { color: var(--soft); font-weight: 400; }
p { max-width: 46rem; margin: .4rem 0; font-size: .93rem; color: var(--soft); }
.key { display: flex; gap: 1.4rem; margin: 1rem 0; }
.key span::before { content: ""; display: inline-block; width: .75rem; height: .75rem;
  margin-right: .45rem; border-radius: 2px; background: var(--colour); }
.plots { display: grid; gap: 2rem 2.5rem; margin-top: 1.75rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
svg text { font-family: system-ui, sans-serif !important; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .83rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem 0 .32rem 1.1rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 500; }
.numbers { width: 100%; margin-bottom: 1.75rem; }
.facts td { text-align: left; white-space: normal; vertical-align: top; }
.facts td:first-child { color: var(--soft); white-space: nowrap; padding-right: 1.5rem; }
pre { padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 6px; overflow-x: auto;
  font: .87rem/1.5 ui-monospace, monospace; }
"""


@dataclass(frozen=True)
class _Panel:
    """A plot: a row for each figure of it, with a bar for each variant."""

    title: str
    unit: str
    rows: tuple[tuple[str, Load, Metric], ...]


def as_page(result: Result) -> str:
    """The page, as HTML."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(result.title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            f"<h1>{html.escape(result.title)}</h1>",
            *_key(result),
            "<p>Bars are medians of all rounds, dots the rounds.</p>",
            '<div class="plots">',
            *(_figure(result, panel) for panel in _panels(result)),
            "</div>",
            "<h2>Figures</h2>",
            *(_table(result, load) for load in result.loads),
            "<p>Medians of all rounds, [quartiles]; ratios are of medians.</p>",
            *(f"<p>Not known: {html.escape(why)}.</p>" for why in result.unknown),
            "<h2>What was compared, and on what</h2>",
            _facts((*result.about, *result.host)),
            "<h2>Repeat it</h2>",
            f"<pre>{html.escape(chr(10).join(result.commands))}</pre>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _key(result: Result) -> Iterator[str]:
    yield '<div class="key">'
    for variant in result.variants:
        yield f'<span style="--colour: var(--{variant})">{variant}</span>'
    yield "</div>"


def _facts(pairs: Sequence[tuple[str, str]]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(what)}</td><td>{html.escape(how)}</td></tr>" for what, how in pairs
    )
    return f'<table class="facts">{rows}</table>'


def _table(result: Result, load: Load) -> str:
    _, *heads = table_head(result, load)
    titles = "".join(f"<th>{html.escape(each.lower())}</th>" for each in heads)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table_rows(result, load)
    )
    return (
        f'<div class="wide"><table class="numbers"><tr><th>{html.escape(load.label)}</th>'
        f"{titles}</tr>{rows}</table></div>"
    )


# Plots.


def _panels(result: Result) -> Iterator[_Panel]:
    """The plots; one with several figures under several loads is one for each figure."""
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


def _figure(result: Result, panel: _Panel) -> str:
    title, unit = html.escape(panel.title), html.escape(panel.unit)
    svg = _plot(result, panel).replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    return f"<figure><h3>{title} <small>{unit}</small></h3>{svg}</figure>"


def _plot(result: Result, panel: _Panel) -> str:
    """The plot as an SVG element."""
    height = len(panel.rows) * (len(result.variants) * _BAR + _GAP) + _MARGIN
    written = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rc("svg", fonttype="none", hashsalt="ovs-ebpf-tap")
        matplotlib.rc("font", family="sans-serif", size=9)
        matplotlib.rc("text", color=_INK)
        matplotlib.rc("xtick", color=_INK)
        matplotlib.rc("ytick", color=_INK)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        _draw(axes, result, panel)
        figure.savefig(written, format="svg")
    return _inline(written.getvalue())


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


def _inline(document: str) -> str:
    """An SVG document as an element of the page, in the page's ink and as wide as there is room."""
    svg = _PROLOGUE.sub("", document)
    svg = _METADATA.sub("", svg)
    svg = _HEIGHT.sub(r"\1", _SIZE.sub(r"\1\2>", svg, count=1), count=1)
    return _GROUP_ID.sub("<g>", svg).replace(_INK, "currentColor")
