"""Text on one line, and tables."""

from __future__ import annotations

from ovs_ebpf_tap.util.text import align


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert align([("NAME", "N", "WHY"), ("m0", "12345", "-")]) == [
        "NAME  N      WHY",
        "m0    12345  -",
    ]


def test_numbers_are_aligned_to_the_right() -> None:
    rows = [("NAME", "N", "LIMIT"), ("m0", "12345", "9")]
    assert align(rows, right=range(1, 3)) == ["NAME      N  LIMIT", "m0    12345      9"]


def test_no_line_ends_in_spaces() -> None:
    assert align([("a", ""), ("b", "long")]) == ["a", "b  long"]


def test_nothing_has_no_lines() -> None:
    assert align([]) == []
