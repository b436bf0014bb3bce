"""What is read of the database beside its rows."""

from __future__ import annotations

import pytest

from ovs_ebpf_tap.observe import row_readers


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("", 1),
        ("1", 1),
        ("2", 2),
        ("3", 2),
        ("0", 2),
        ("-1", 2),
        ("+2", 2),
        (" \t2", 2),
        ("02", 2),
        ("2147483647", 2),
        # What strtoll does not take to its end, or what is no int.
        ("2 ", 1),
        ("0x2", 1),
        ("0b10", 1),
        ("1_0", 1),
        ("\u0662", 1),
        ("two", 1),
        ("2147483648", 1),
        ("-2147483649", 1),
        ("9" * 30, 1),
        ("9" * 5000, 1),
    ],
)
def test_vlan_limit(text: str, limit: int) -> None:
    """As `smap_get_int` and `flow_limit_vlans` read it."""
    assert row_readers._vlan_limit(text) == limit
