"""Figures beside their limits."""

from __future__ import annotations

import json

from bench.results import MEDIAN, P99, WORST, Figure, as_json, as_table

MANY = Figure("moves", "ms", [float(n) for n in range(1, 102)], {MEDIAN: 102.0, P99: 400.0})
ONE = Figure("memory", "MiB", [96.0], {WORST: 48.0})


def test_what_is_found() -> None:
    assert MANY.found == {MEDIAN: 51.0, P99: 100.0, WORST: 101.0}
    assert ONE.found == {MEDIAN: 96.0, P99: 96.0, WORST: 96.0}


def test_the_ratio_is_of_the_limit_that_is_nearest() -> None:
    assert MANY.ratio == 0.5
    assert ONE.ratio == 2.0


def test_the_table_lines_up() -> None:
    head, many, one = as_table([MANY, ONE]).splitlines()
    assert head.split() == ["WHAT", "MEDIAN", "99TH", "WORST", "N", "LIMIT", "OF", "LIMIT"]
    assert many.split()[:6] == ["moves", "[ms]", "51", "100", "101", "101"]
    assert many.endswith("median 102, 99th 400  0.50")
    assert one.index("worst 48") == head.index("LIMIT")


def test_json_has_the_same() -> None:
    assert json.loads(as_json([ONE])) == [
        {
            "what": "memory",
            "unit": "MiB",
            "median": 96.0,
            "99th": 96.0,
            "worst": 96.0,
            "n": 1,
            "limits": {"worst": 48.0},
            "ratio": 2.0,
        }
    ]
