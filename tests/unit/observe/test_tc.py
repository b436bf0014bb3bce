"""What filters do, in netlink's bytes."""

from __future__ import annotations

import struct

import pytest

from ovs_ebpf_tap.model.desired import INGRESS
from ovs_ebpf_tap.model.surroundings import ForeignFilter
from ovs_ebpf_tap.observe.tc import parse_filter

OURS = (0xA7A0, 0xA7A1)
UNSPEC, OK, SHOT, PIPE, GOTO = -1, 0, 2, 3, 2 << 28 | 5
REDIRECT, MIRROR = 1, 2
MBIT = 125_000  # bytes/s


def attribute(kind: int, *values: bytes) -> bytes:
    value = b"".join(values)
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def message(kind: str, *options: bytes, priority: int = 50, chain: int = 0) -> bytes:
    head = struct.pack("=BxxxiIII", 0, 7, 0x800, 0xFFFF0000, priority << 16 | 0x300)
    return head + text(1, kind) + attribute(11, struct.pack("=I", chain)) + attribute(2, *options)


def action(place: int, kind: str, *options: bytes) -> bytes:
    return attribute(place, text(1, kind), attribute(2, *options))


def general(control: int) -> bytes:
    return struct.pack("=IIiII", 1, 0, control, 1, 1)


def gact(control: int, place: int = 1) -> bytes:
    return action(place, "gact", attribute(2, general(control)))


def mirred(how: int, control: int) -> bytes:
    return action(1, "mirred", attribute(2, general(control) + struct.pack("=iI", how, 9)))


def police(exceed: int, *more: bytes) -> bytes:
    rate = struct.pack("=BBHhHI", 0, 0, 0, -1, 0, MBIT)
    return attribute(1, struct.pack("=IiIII", 1, exceed, 0, 1000, 2047) + rate + rate) + b"".join(
        more
    )


def flower(*actions: bytes) -> bytes:
    return message("flower", attribute(3, *actions))


def u32(*more: bytes, **settings: int) -> bytes:
    return message("u32", attribute(5, bytes(16)), *more, **settings)


POLICE = "police 1000000 bit/s"
conform_pipe = attribute(5, struct.pack("=i", PIPE))


@pytest.mark.parametrize(
    ("body", "takes", "ends", "what"),
    [
        # Proxmox's, without an action around it; what conforms is OK, and passes others by.
        (u32(attribute(6, police(SHOT))), True, True, POLICE),
        # Open vSwitch's (`tc_add_matchall_policer` in `lib/netdev-linux.c`).
        (
            message("matchall", attribute(2, action(1, "police", police(SHOT, conform_pipe)))),
            True,
            True,
            POLICE,
        ),
        (message("basic", attribute(4, police(SHOT))), True, True, POLICE),
        (
            message("basic", attribute(3, action(1, "police", police(SHOT)))),
            True,
            True,
            POLICE,
        ),
        (
            flower(action(1, "police", police(SHOT, attribute(8, struct.pack("=Q", 1 << 33))))),
            True,
            True,
            f"police {8 << 33} bit/s",
        ),
        (
            flower(action(1, "police", police(SHOT, attribute(10, struct.pack("=Q", 500))))),
            True,
            True,
            "police 500 packets/s",
        ),
        (u32(attribute(6, police(OK))), False, True, POLICE),
        (flower(gact(SHOT)), True, False, "drop"),
        (flower(gact(OK)), False, True, "gact"),
        (flower(gact(GOTO)), False, True, "gact"),
        (
            flower(
                action(
                    1,
                    "gact",
                    attribute(2, general(OK)),
                    attribute(3, struct.pack("=HHi", 1, 10, SHOT)),
                )
            ),
            True,
            True,
            "drop",
        ),
        (flower(mirred(REDIRECT, 4)), True, False, "redirect"),
        (flower(mirred(MIRROR, PIPE), gact(SHOT, 2)), True, False, "mirror, drop"),
        (flower(mirred(MIRROR, PIPE)), False, True, "mirror"),
        (flower(action(1, "skbedit", attribute(2, general(PIPE))), gact(SHOT, 2)), True, False, ""),
        # Nothing of what comes behind a last word counts.
        (flower(gact(OK), gact(SHOT, 2)), False, True, "gact"),
        # Without actions.
        (u32(), False, True, ""),
        (message("bpf", priority=OURS[0] - 1), False, True, ""),
    ],
)
def test_what_filters_do(body: bytes, takes: bool, ends: bool, what: str) -> None:
    found = parse_filter(body, INGRESS, OURS)
    assert found is not None
    assert (found.takes, found.ends) == (takes, ends)
    assert found.what.startswith(what)


@pytest.mark.parametrize(
    "body",
    [
        flower(gact(UNSPEC)),
        flower(mirred(MIRROR, UNSPEC)),
        message("u32", attribute(3, struct.pack("=I", 256))),  # A hash table.
        message("bpf", attribute(8, struct.pack("=I", 1))),  # What it does is not known.
        message("bpf", priority=OURS[0]),
        message("bpf", priority=OURS[1]),
        message("flower")[: 20 + 12],  # The classifier itself.
    ],
)
def test_what_is_of_no_consequence(body: bytes) -> None:
    assert parse_filter(body, INGRESS, OURS) is None


def test_where_a_filter_is() -> None:
    found = parse_filter(u32(attribute(6, police(SHOT)), priority=60, chain=3), INGRESS, OURS)
    assert found == ForeignFilter(INGRESS, 60, "u32", 3, True, True, POLICE)
    assert str(found) == "filter 60 (u32, police 1000000 bit/s) on ingress"
