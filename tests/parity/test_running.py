"""What a list of frames can't show: full rate, and ports that come and go under traffic."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.differences import stream_difference
from ovs_ebpf_tap.lab.frames import udp_frame
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import patience

IDENTICAL = 20_000
CHANGES = 5


@pytest.fixture(params=attachments())
def tap(switch: Switch, request: pytest.FixtureRequest) -> Iterator[SidecarProcess]:
    """A running sidecar beside the switch, with each kind of hooks."""
    with SidecarProcess(switch, "--attach", request.param) as started:
        yield started


def test_identical_frames_at_full_rate(switch: Switch, tap: SidecarProcess) -> None:
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    switch.mirror("m", src=[a], dst=[b], output=m)
    frame = udp_frame(a, b, b"the same")
    counts = {}
    for mode in ("native", "offload"):
        tap.set_mode("m", mode)
        tap.wait_settled("m", "offloaded" if mode == "offload" else mode)
        switch.appctl("revalidator/purge")
        with Capture.of(m) as copies:
            sent = a.send([frame] * IDENTICAL)
            copies.wait_quiet()
            counts[mode] = copies.multiset()
    assert sent == IDENTICAL
    assert counts["offload"] == {frame: IDENTICAL}
    assert counts["native"] == counts["offload"]


def test_ports_come_and_go_where_all_are_selected(switch: Switch, tap: SidecarProcess) -> None:
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    other = switch.add_host("c", bridge=None, with_ip=False)
    switch.learn(a, b)
    switch.mirror("m", select_all=True, output=m)
    tap.wait_state("m", "offloaded")
    with Capture.of(m) as copies:
        with Stream(a, b, rate=5000) as stream:
            for _ in range(CHANGES):
                switch.vsctl("add-port", "br0", other.port)
                time.sleep(patience(0.1))
                switch.vsctl("del-port", "br0", other.port)
                time.sleep(patience(0.1))
        copies.wait_quiet()
        found = stream_difference(stream.sent, copies.sequences(stream.stream_id))
    assert not found, found
    assert tap.state("m") == "offloaded"
