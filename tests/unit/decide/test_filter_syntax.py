"""The text of a filter taken apart, and values read as OVS reads them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ovs_ebpf_tap.decide.filter_syntax import (
    read_fragment,
    read_integer,
    read_ipv4,
    read_ipv6,
    read_mac,
    read_tcp_flags,
    split_fields,
)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", []),
        ("tcp", [("tcp", "")]),
        ("tcp,tp_dst=80", [("tcp", ""), ("tp_dst", "80")]),
        (" tcp \t tp_src=1 tp_dst(2)", [("tcp", ""), ("tp_src", "1"), ("tp_dst", "2")]),
        ("a(b(c),d),e", [("a", "b(c),d"), ("e", "")]),
        ("a:b", [("a", "b")]),
    ],
)
def test_fields(text: str, fields: list[tuple[str, str]]) -> None:
    assert list(split_fields(text)) == fields


Reader = Callable[[str, int], int]


@pytest.mark.parametrize(
    ("read", "text", "size", "value"),
    [
        (read_integer, "010", 2, 8),
        (read_integer, "0x10", 2, 16),
        (read_integer, "80/0xffff", 2, 80),
        (read_mac, "01:02:03:04:05:06", 6, 0x010203040506),
        (read_ipv4, "10.0.0.1/32", 4, 0x0A000001),
        (read_ipv6, "::1", 16, 1),
        (read_fragment, "No", 1, 0),
        (read_tcp_flags, "syn|ack", 2, 0x12),
    ],
)
def test_values(read: Reader, text: str, size: int, value: int) -> None:
    assert read(text, size) == value


@pytest.mark.parametrize(
    ("read", "text", "size"),
    [
        (read_integer, "65536", 2),
        (read_integer, "80/0xff", 2),
        (read_integer, "-1", 2),
        (read_mac, "01:02:03:04:05", 6),
        (read_ipv4, "10.0.0.0/8", 4),
        (read_ipv6, "::1/64", 16),
        (read_fragment, "yes", 1),
        (read_tcp_flags, "+syn", 2),
    ],
)
def test_what_is_no_value_or_masked(read: Reader, text: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        read(text, size)
