"""Devices in netlink's bytes."""

from __future__ import annotations

import socket
import struct

import pytest

from ovs_ebpf_tap.model.device import Departure, Device
from ovs_ebpf_tap.observe import links, netlink

UP, LOWER_UP = 0x1, 0x10000
ETHER, LOOPBACK = 1, 772
ADDRESS = bytes.fromhex("020000000a01")


def attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def link(
    index: int = 7,
    name: str = "vnet0",
    flags: int = UP | LOWER_UP,
    kind: int = ETHER,
    family: int = socket.AF_UNSPEC,
    more: bytes = b"",
) -> bytes:
    head = struct.pack("=BxHiII", family, kind, index, flags, 0)
    mtu = attribute(4, struct.pack("=I", 1500))
    return head + attribute(3, name.encode() + b"\0") + attribute(1, ADDRESS) + mtu + more


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    head = struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0)
    return head + body + bytes(-len(body) % 4)


def test_a_device() -> None:
    expected = Device(7, "vnet0", 1500, True, True, True, "02:00:00:00:0a:01")
    assert links.device(link()) == expected


@pytest.mark.parametrize(
    ("flags", "up", "running"),
    [(0, False, False), (UP, True, False), (LOWER_UP, False, False), (UP | LOWER_UP, True, True)],
)
def test_up_and_running(flags: int, up: bool, running: bool) -> None:
    found = links.device(link(flags=flags))
    assert found is not None
    assert (found.up, found.running) == (up, running)


def test_only_ethernet_is_ethernet() -> None:
    found = links.device(link(kind=LOOPBACK))
    assert found is not None
    assert not found.ethernet


def test_a_bridges_own_notifications_are_passed_over() -> None:
    assert links.device(link(family=socket.AF_BRIDGE)) is None


def test_nested_attributes_and_odd_lengths_are_no_hindrance() -> None:
    more = attribute(1 << 15 | 18, attribute(1, b"veth")) + attribute(99, b"x")
    found = links.device(link(name="a", more=more))
    assert found is not None
    assert found.name == "a"


def test_the_kind_of_a_device() -> None:
    found = links.device(link(more=attribute(1 << 15 | 18, attribute(1, b"veth\0"))))
    assert found is not None
    assert found.kind == "veth"


def test_a_port_of_the_kernels_datapath() -> None:
    """`rtnl_link_slave_info_fill` in `net/core/rtnetlink.c`; the device may be hardware."""
    found = links.device(link(more=attribute(1 << 15 | 18, attribute(4, b"openvswitch\0"))))
    assert found is not None
    assert (found.kind, found.slave) == ("", "openvswitch")


def test_where_a_device_has_gone() -> None:
    number = struct.Struct("=i")
    moved = link(more=attribute(45, number.pack(3)) + attribute(49, number.pack(12)))
    assert links.departure(moved) == Departure(nsid=3, ifindex=12)
    assert links.departure(link()) is None


def test_nothing_is_in_a_namespace_that_there_is_not() -> None:
    assert not links.is_there(Departure(nsid=1 << 20, ifindex=1))


def test_what_is_not_told_is_empty() -> None:
    found = links.device(struct.pack("=BxHiII", 0, ETHER, 3, 0, 0))
    assert found == Device(3, "", 0, False, False)


def test_several_messages() -> None:
    data = message(links.NEWLINK, link(1, "abc")) + message(links.DELLINK, link(2), flags=0x10)
    found = [(kind, flags, links.device(body)) for kind, flags, body in netlink.messages(data)]
    assert [each[:2] for each in found] == [(links.NEWLINK, 0), (links.DELLINK, 0x10)]
    assert [device.ifindex for _, _, device in found if device] == [1, 2]


@pytest.mark.parametrize("data", [struct.pack("=IHHII", 0, 16, 0, 0, 0), bytes(40)])
def test_a_message_without_length_has_no_end(data: bytes) -> None:
    with pytest.raises(ValueError, match="shorter"):
        list(netlink.messages(data))


def test_the_kernels_own() -> None:
    loopback = next(each for each in links.list_devices() if each.ifindex == 1)
    assert (loopback.name, loopback.ethernet) == ("lo", False)
    names = {device.name for device in links.list_devices()}
    assert names >= {name for _, name in socket.if_nameindex()}
