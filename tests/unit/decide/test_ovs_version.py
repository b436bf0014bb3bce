"""Which versions of Open vSwitch copy a packet again that a flow modified."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.decide.ovs_version import (
    mirrors_after_metadata,
    mirrors_modified_packets,
    parse_version,
)


@pytest.mark.parametrize(
    ("version", "modified", "metadata"),
    [
        ("2.5.9", False, False),
        ("2.16.0", False, False),
        ("2.17.7", False, False),
        ("2.17.8", True, True),
        ("2.17.12", True, True),
        ("2.17.90", None, None),
        ("3.0.4", False, False),
        ("3.0.5", True, True),
        ("3.0.90", None, None),
        ("3.1.0", False, False),
        ("3.1.2", False, False),
        ("3.1.3", True, True),
        ("3.1.5", True, True),
        ("3.1.6", True, False),
        ("3.1.90", None, None),
        ("3.2.0", True, True),
        ("3.2.3", True, True),
        ("3.2.4", True, False),
        ("3.2.90", True, None),
        ("3.3.2", True, True),
        ("3.3.3", True, False),
        ("3.4.0", True, True),
        ("3.4.1", True, False),
        ("3.5.0", True, False),
        ("3.10.0", True, False),
        ("4.0.0", True, False),
        (None, None, None),
        ("", None, None),
        ("3.1", None, None),
        ("v3.1.0", None, None),
        ("3.1.0\n", None, None),
        ("3.1.7-17.el9", None, None),
        ("3.1.٣", None, None),
        ("99999.1.1", None, None),
    ],
)
def test_versions(version: str | None, modified: bool | None, metadata: bool | None) -> None:
    assert mirrors_modified_packets(version) is modified
    assert mirrors_after_metadata(version) is metadata


def test_versions_compare_as_numbers() -> None:
    older, newer = parse_version("3.9.1"), parse_version("3.10.0")
    assert older is not None
    assert newer is not None
    assert older < newer


@given(st.text(max_size=20))
def test_no_text_breaks_it(text: str) -> None:
    mirrors_modified_packets(text)
    mirrors_after_metadata(text)
