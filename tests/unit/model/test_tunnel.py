"""What the options of tunnel ports say."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ovs_ebpf_tap.model.tunnel import ANY, TunnelOptions

REMOTE = {"remote_ip": "10.0.0.1"}
MAPPED = ip_address("::ffff:10.0.0.1").packed


def parsed(type: str = "vxlan", **options: str) -> TunnelOptions:
    found = TunnelOptions.parse(type, {**REMOTE, **options})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("type", "options", "device"),
    [
        ("vxlan", {}, "vxlan_sys_4789"),
        ("vxlan", {"dst_port": "8472"}, "vxlan_sys_8472"),
        ("geneve", {}, "genev_sys_6081"),
        ("gre", {}, "gre_sys"),
    ],
)
def test_the_device(type: str, options: dict[str, str], device: str) -> None:
    assert parsed(type, **options).device == device


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, (0, 0)),
        ({"key": "7"}, (7, 7)),
        ({"key": "0x10"}, (16, 16)),
        ({"key": "010"}, (8, 8)),
        ({"key": "flow"}, (None, None)),
        ({"key": "flow", "in_key": "3"}, (3, None)),
        ({"out_key": "4"}, (0, 4)),
    ],
)
def test_keys(options: dict[str, str], keys: tuple[int | None, int | None]) -> None:
    found = parsed(**options)
    assert (found.in_key, found.out_key) == keys


def test_addresses() -> None:
    found = parsed(local_ip="fd00::2", remote_ip="fd00::1")
    assert (found.remote, found.local) == (
        ip_address("fd00::1").packed,
        ip_address("fd00::2").packed,
    )
    assert parsed().arriving(1).remote == MAPPED
    assert parsed(remote_ip="flow").arriving(1).remote == ANY


def test_a_local_address_that_is_not_given() -> None:
    """What arrives may have any; what is sent carries none yet."""
    assert parsed().arriving(1).local == ANY
    assert parsed().leaving(1).local == ip_address("::ffff:0.0.0.0").packed
    assert parsed(remote_ip="fd00::1").leaving(1).local == bytes(16)
    assert parsed(remote_ip="flow").leaving(1).local == ANY


@pytest.mark.parametrize(
    ("type", "options"),
    [
        ("vxlan", {"remote_ip": "peer.example"}),
        ("vxlan", {"remote_ip": "fe80::1%eth0"}),
        ("vxlan", {"local_ip": "here"}),
        ("vxlan", {"exts": "gpe"}),
        ("vxlan", {"dst_port": "many"}),
        ("gre", {"packet_type": "legacy_l3"}),
        ("gre", {"key": "0x100000000"}),
        ("gre", {"key": "seven"}),
        ("patch", {"peer": "p1"}),
    ],
)
def test_options_that_do_not_tell(type: str, options: dict[str, str]) -> None:
    assert TunnelOptions.parse(type, {**REMOTE, **options}) is None


def test_a_port_without_a_remote_address() -> None:
    assert TunnelOptions.parse("vxlan", {}) is None


def test_ports_are_found_in_the_order_of_open_vswitch() -> None:
    """`tnl_find` of `ofproto/tunnel.c`: first by key, then by the peer, then by the own address."""
    flow = {"remote_ip": "flow"}
    own = {"local_ip": "10.0.0.9"}
    order = [
        {"key": "1", **own},
        {"key": "1"},
        {"key": "1", **flow, **own},
        {"key": "1", **flow},
        {"key": "1", **flow, "local_ip": "flow"},
        {"key": "flow", **own},
        {"key": "flow"},
        {"key": "flow", **flow, **own},
        {"key": "flow", **flow},
        {"key": "flow", **flow, "local_ip": "flow"},
    ]
    ranks = [parsed(**each).arriving(1).rank for each in order]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)
