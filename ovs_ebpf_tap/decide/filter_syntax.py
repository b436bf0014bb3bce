"""The text of `Mirror.filter`: its fields, and their values as numbers.

The grammar is that of `ofputil_parse_key_value` in OVS's `lib/ofp-parse.c`, values are read as in
`lib/meta-flow.c` (`mf_parse_value`). A reader takes a value's text and the field's length in bytes,
and returns a number; it raises ValueError for what is none, or masked.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator

from ovs_ebpf_tap import abi

_FRAG_ANY = abi.constant("FRAG_ANY")
_FRAG_LATER = abi.constant("FRAG_LATER")

_SEPARATORS = ", \t\r\n"
_NAME = re.compile(rf"[{_SEPARATORS}]*([^:=({_SEPARATORS}]*)([:=(]?)")


def split_fields(text: str) -> Iterator[tuple[str, str]]:
    """Names and values, the latter empty where there is none: `tcp,tp_src=1 tp_dst(2)`."""
    place = 0
    while found := _NAME.match(text, place):
        name, opened = found.groups()
        place = end = found.end()
        if opened:
            end = _value_end(text, place, ")" if opened == "(" else _SEPARATORS)
        elif not name:
            return
        yield name, text[place:end]
        place = min(end + 1, len(text))


def _value_end(text: str, place: int, delimiters: str) -> int:
    """Where the value that starts at `place` ends: at a delimiter outside of parentheses."""
    level = 0
    while place < len(text) and (level or text[place] not in delimiters):
        if text[place] == "(":
            level += 1
        elif text[place] == ")" and level:
            level -= 1
        place += 1
    return place


# Values.

_SPACE = r"[ \t\n\v\f\r]*"
_NUMBER = re.compile(rf"{_SPACE}([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_HEX = re.compile(r"0[xX]((?:[0-9a-fA-F]|[ \t\r\n])*)")
_DECIMAL_BYTE = rf"{_SPACE}([+-]?[0-9]+)"
_HEX_BYTE = rf"{_SPACE}([+-]?(?:0[xX])?[0-9a-fA-F]+)"
_IPV4 = re.compile(r"\.".join([_DECIMAL_BYTE] * 4))
_MAC = re.compile(":".join([_HEX_BYTE] * 6))
_IPV6 = re.compile(rf"{_SPACE}([0-9a-fA-F:.]{{1,46}})")


def _number(found: re.Match[str]) -> int:
    """What `_NUMBER` found, by C's rules for octal and hexadecimal."""
    sign, digits = found.groups()
    octal = digits[0] == "0" and digits[1:].isdecimal()
    value = int(digits, 8 if octal else 0)
    if sign == "-" and value:
        raise ValueError
    return value


def _scan_integer(text: str, size: int) -> tuple[int, str]:
    """`parse_int_string`: the number that the text starts with, and the rest."""
    if found := _HEX.match(text):
        value = int("".join(found[1].split()) or "0", 16)
    elif found := _NUMBER.match(text):
        value = _number(found)
    else:
        raise ValueError
    if value >> 8 * size:
        raise ValueError
    return value, text[found.end() :]


def read_integer(text: str, size: int) -> int:
    """A number, which may have an exact mask."""
    value, rest = _scan_integer(text, size)
    if rest.startswith("/"):
        mask, rest = _scan_integer(rest[1:], size)
        if mask != ones(size):
            raise ValueError
    if rest:
        raise ValueError
    return value


def _scan_bytes(pattern: re.Pattern[str], text: str, base: int) -> tuple[bytes, str]:
    """Bytes in a notation of `ovs_scan`, and the rest."""
    found = pattern.match(text)
    if not found:
        raise ValueError
    numbers = [int(each, base) for each in found.groups()]
    if not all(0 <= number <= 255 for number in numbers):
        raise ValueError
    return bytes(numbers), text[found.end() :]


def _scan_ipv6(text: str) -> tuple[bytes, str]:
    found = _IPV6.match(text)
    if not found:
        raise ValueError
    try:
        return socket.inet_pton(socket.AF_INET6, found[1]), text[found.end() :]
    except OSError:
        raise ValueError from None


def _address(scan: Callable[[str], tuple[bytes, str]], prefix: bool) -> Callable[[str, int], int]:
    """A reader of addresses, which may have an exact mask (or, if `prefix`, its length) too."""

    def read(text: str, size: int) -> int:
        value, rest = scan(text)
        if rest and not (prefix and rest == f"/{8 * size}"):
            mask, more = scan(rest[1:])
            if rest[0] != "/" or mask != b"\xff" * size or more:
                raise ValueError
        return int.from_bytes(value, "big")

    return read


read_mac = _address(lambda text: _scan_bytes(_MAC, text, 16), prefix=False)
read_ipv4 = _address(lambda text: _scan_bytes(_IPV4, text, 10), prefix=True)
read_ipv6 = _address(_scan_ipv6, prefix=True)

# `mf_from_frag_string`; "yes" and "not_later" are masked.
_FRAGMENTS = {"no": 0, "first": _FRAG_ANY, "later": _FRAG_ANY | _FRAG_LATER}


def read_fragment(text: str, size: int) -> int:
    """A kind of fragment."""
    try:
        return _FRAGMENTS[text.lower()]
    except KeyError:
        raise ValueError from None


# `packet_tcp_flag_to_string`
_TCP_FLAGS = (
    *("fin", "syn", "rst", "psh", "ack", "urg"),
    *("ece", "cwr", "ns", "[200]", "[400]", "[800]"),
)


def read_tcp_flags(text: str, size: int) -> int:
    """Flags as `syn|ack`, numbers among them; `parse_flags` takes none too.

    `+syn-ack` is masked, also where it names every flag.
    """
    flags = 0
    while text:
        if text[0] not in "+-" and (found := _NUMBER.match(text)):
            flags |= _number(found)
            text = text[found.end() :].removeprefix("|")
        else:
            name, _, text = text.partition("|")
            if name not in _TCP_FLAGS:
                raise ValueError
            flags |= 1 << _TCP_FLAGS.index(name)
    if flags >> len(_TCP_FLAGS):
        raise ValueError
    return flags


def ones(size: int) -> int:
    """A number with all bits of so many bytes."""
    return (1 << 8 * size) - 1
