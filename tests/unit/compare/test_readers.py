"""What is made of counters, and CPU time."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from ovs_ebpf_tap.compare.counting import Account
from ovs_ebpf_tap.compare.mirror_counters import RX, TX, Meter, MirrorCounters
from ovs_ebpf_tap.compare.readers import (
    Cpu,
    Span,
    counted_between,
    is_vswitchd,
    may_count_otherwise,
    read_cpu,
)
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.observe import ethtool
from ovs_ebpf_tap.observe.links import Statistics

A = Meter("a", 1, RX)
B = Meter("b", 2, TX)
DEVICES = {name: Device(i, name, mtu=1500, up=True, running=True) for i, name in enumerate("ab")}


def span(**devices: Statistics) -> Span:
    counters = MirrorCounters(
        sources=(A,), destinations=(), outputs=(B,), switch=(A, B), due=(A,), doubt=None
    )
    return Span(2.0, counters, devices, Counters(drops=1), Cpu(1, 1, 1), Account(0, 0, 0, 0, 0))


def test_packets_by_their_counters() -> None:
    found = span(
        a=Statistics(rx_packets=7, rx_bytes=700, rx_dropped=2, tx_dropped=9),
        b=Statistics(tx_packets=5, tx_dropped=3),
    )
    assert (found.packets([A]), found.bytes([A]), found.packets([A, B])) == (7, 700, 12)
    assert found.drops == 2 + 3 + 1


def test_devices_that_come_or_go_are_passed_over() -> None:
    before = {"a": Statistics(rx_packets=1), "gone": Statistics()}
    after = {"a": Statistics(rx_packets=5, kind="veth"), "new": Statistics(rx_packets=9)}
    counted = counted_between(before, after)
    assert counted == {"a": Statistics(rx_packets=4, kind="veth")}
    assert span(**counted).packets([A, B]) == 4


def test_a_device_that_was_replaced() -> None:
    with pytest.raises(TapError, match="device a was replaced"):
        counted_between({"a": Statistics(tx_bytes=2)}, {"a": Statistics(tx_bytes=1)})


@pytest.mark.parametrize(
    ("length", "gro", "otherwise"), [(1522, False, False), (1523, False, True), (60, True, True)]
)
def test_super_packets(
    monkeypatch: pytest.MonkeyPatch, length: int, gro: bool, otherwise: bool
) -> None:
    monkeypatch.setattr(ethtool, "has_gro", lambda _: gro)
    found = span(a=Statistics(rx_packets=10, rx_bytes=10 * length))
    assert may_count_otherwise(found, DEVICES) == otherwise


def test_cpu_time_of_a_process_and_of_the_host() -> None:
    begin = read_cpu(os.getpid())
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    used = read_cpu(os.getpid()) - begin
    assert used.vswitchd >= 0.05
    assert used.host >= 0
    assert not is_vswitchd(os.getpid())


def test_a_process_that_is_no_more() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert not is_vswitchd(process.pid)
    with pytest.raises(TapError, match="ovs-vswitchd has ended"):
        read_cpu(process.pid)


def test_what_a_device_that_is_not_there_says() -> None:
    assert ethtool.driver("no-such-device") == ""
    assert not ethtool.has_gro("no-such-device")
    assert ethtool.driver("lo") == ""
