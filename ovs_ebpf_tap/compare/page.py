"""A comparison as one HTML page, with charts in it; it refers to nothing outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import jinja2

from ovs_ebpf_tap.compare.charts import draw_charts
from ovs_ebpf_tap.compare.figures import Load, Result
from ovs_ebpf_tap.compare.report import table_head, table_rows


@dataclass(frozen=True)
class _Table:
    """The figures of a load, as text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_page(result: Result) -> str:
    """The page, as HTML."""
    return _template().render(
        result=result,
        charts=draw_charts(result),
        tables=[_table(result, load) for load in result.loads],
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ovs_ebpf_tap.compare"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html")


def _table(result: Result, load: Load) -> _Table:
    _, *heads = table_head(result, load)
    return _Table((load.label, *(head.lower() for head in heads)), tuple(table_rows(result, load)))
