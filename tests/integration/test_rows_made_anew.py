"""Mirrors whose rows are made anew, as ovn-controller and kube-ovn do, under traffic."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest

from ovn_rows import OvnRows
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import parse_seq
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from talking import Trio, copies_of

RESTARTS = 5
RATE = 5_000
MODE = "external_ids:ebpf-tap-mode"
KEPT = f"{MODE}-m1"


@pytest.fixture
def hosts(switch: Switch) -> Trio:
    """Two that talk, and one that monitors."""
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    return a, b, m


@pytest.fixture
def rows(switch: Switch, hosts: Trio) -> Iterator[OvnRows]:
    """The first of the hosts is mirrored, both ways."""
    a, _, m = hosts
    with OvnRows(switch, "m1", src=[a], dst=[a], output=m) as made:
        made.create()
        yield made


class Copies:
    """The copies of a stream from the first host to the second, and what came of them."""

    def __init__(self, hosts: Trio, *more: Host) -> None:
        a, b, m = hosts
        self._stream = Stream(a, b, rate=RATE)
        self._captures = [Capture.of(each) for each in (m, *more)]
        self.missing: list[int] = []
        self.doubled: list[float] = []
        """When frames were copied once more; in seconds since the epoch."""
        self.most = 0
        """How often a frame was copied at most."""

    def __enter__(self) -> Copies:
        for capture in self._captures:
            capture.start()
        self._stream.start()
        time.sleep(patience(0.3))
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(patience(0.3))
        sent = self._stream.stop()
        times: dict[int, list[float]] = defaultdict(list)
        for capture in self._captures:
            capture.wait_quiet()
            for record in capture.records():
                found = parse_seq(record.frame)
                if found:
                    times[found[1]].append(record.time_ns / 1e9)
            capture.stop()
        self.missing = [number for number in range(sent) if number not in times]
        self.doubled = sorted(when for each in times.values() for when in sorted(each)[1:])
        self.most = max(map(len, times.values()))

    @property
    def told(self) -> str:
        return f"{len(self.missing)} missing, {len(self.doubled)} doubled"


def counted(switch: Switch) -> int:
    """What the row's statistics show; 0 while there is no row."""
    printed = switch.vsctl(
        "--no-heading", "--bare", "--columns=statistics", "find", "Mirror", "name=m1"
    )
    return int(dict(part.split("=") for part in printed.split()).get("tx_packets", 0))


@pytest.mark.parametrize("attach", attachments())
def test_no_copy_is_missing_when_ovn_controller_starts(
    switch: Switch, hosts: Trio, rows: OvnRows, attach: str, figure: Callable[[str], None]
) -> None:
    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.wait_state("m1", "offloaded")
        ends, totals = [], [0]
        with Copies(hosts) as copies:
            for _ in range(RESTARTS):
                rows.delete()
                time.sleep(0.012)
                rows.create()
                made = time.time()
                tap.wait_state("m1", "offloaded")
                totals.append(counted(switch))
                time.sleep(patience(0.1))
                ends.append((made, time.time()))
        last = [
            max((when for when in copies.doubled if made <= when <= end), default=made) - made
            for made, end in ends
        ]
        figure(f"{copies.told}; last doubled {[round(1000 * each) for each in last]} ms after")
        assert copies.missing == []
        assert copies.most <= 2
        assert totals == sorted(totals)
        assert totals[1] > 0
        assert tap.log().count("made anew") == RESTARTS


def test_a_row_that_is_deleted_copies_for_a_moment_only(
    switch: Switch, tap: SidecarProcess, hosts: Trio, rows: OvnRows
) -> None:
    tap.wait_state("m1", "offloaded")
    rows.delete()
    assert hook_count(switch)
    wait_for(lambda: not hook_count(switch), what="no hooks")
    assert copies_of(*hosts) == 0
    rows.create()
    tap.wait_state("m1", "offloaded")
    assert copies_of(*hosts) == 1


@pytest.mark.parametrize("again", ["before", "after"])
def test_a_sidecar_that_is_killed_in_that_moment_leaves_nothing(
    switch: Switch, tap: SidecarProcess, hosts: Trio, rows: OvnRows, again: str
) -> None:
    """`again`: whether the row is there again before the next sidecar starts, or after."""
    tap.wait_state("m1", "offloaded")
    hooks = hook_count(switch)
    with Copies(hosts) as copies:
        rows.delete()
        tap.kill()
        if again == "before":
            rows.create()
        tap.start()
        if again == "after":
            wait_for(lambda: not hook_count(switch), what="no hooks")
            rows.create()
        tap.wait_state("m1", "offloaded")
    if again == "before":
        assert copies.missing == []
    assert hook_count(switch) == hooks
    assert copies_of(*hosts) == 1


def test_an_opt_out_outlives_the_row(
    switch: Switch, tap: SidecarProcess, hosts: Trio, rows: OvnRows
) -> None:
    tap.wait_state("m1", "offloaded")
    tap.native("m1")
    rows.restart()
    tap.wait_state("m1", "native")
    assert switch.get("Mirror", "m1", MODE) == switch.get("Bridge", "br0", KEPT) == "native"
    tap.stop()
    rows.restart()
    tap.start()
    assert tap.state("m1") == "native"
    switch.vsctl("remove", "Mirror", "m1", "external_ids", "ebpf-tap-mode")
    tap.wait_state("m1", "offloaded")
    assert "mode-m1" not in switch.get("Bridge", "br0", "external_ids")
    rows.restart()
    tap.wait_state("m1", "offloaded")


@pytest.mark.parametrize("running", [True, False])
def test_a_release_outlives_the_row(
    switch: Switch, tap: SidecarProcess, hosts: Trio, rows: OvnRows, running: bool
) -> None:
    tap.wait_state("m1", "offloaded")
    if not running:
        tap.stop(signal.SIGTERM)
    assert tap.release("m1").returncode == 0
    rows.restart()
    if not running:
        tap.start()
    tap.wait_state("m1", "native")
    tap.offload("m1")
    rows.restart()
    tap.wait_state("m1", "offloaded")


def test_no_copy_is_missing_when_the_sink_changes(
    switch: Switch, tap: SidecarProcess, hosts: Trio, rows: OvnRows
) -> None:
    other = switch.add_host("n", with_ip=False)
    tap.wait_state("m1", "offloaded")
    with Copies(hosts, other) as copies:
        for output in (other, hosts[2]) * 3:
            rows.redirect(output)
            time.sleep(patience(0.1))
    assert copies.missing == []


def test_no_copy_is_missing_when_kube_ovn_starts(
    switch: Switch, tap: SidecarProcess, hosts: Trio
) -> None:
    """It clears the bridge's mirrors and makes one in the same transaction (`pkg/daemon/ovs.go`):
    there is no moment without a row."""
    create = (
        *("clear", "Bridge", "br0", "mirrors", "--", "--id=@out", "get", "Port", hosts[2].port),
        *("--", "--id=@m", "create", "Mirror", "name=m0", "select_all=true", "output_port=@out"),
        *("--", "add", "Bridge", "br0", "mirrors", "@m"),
    )
    switch.vsctl(*create)
    tap.wait_state("m0", "offloaded")
    with Copies(hosts) as copies:
        for _ in range(3):
            switch.vsctl(*create)
            tap.wait_state("m0", "offloaded")
            time.sleep(patience(0.1))
    assert copies.missing == []
    assert copies.most <= 2
