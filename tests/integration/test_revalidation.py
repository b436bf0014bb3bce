"""Waiting for ovs-vswitchd's revalidators, when ovs-vswitchd ends meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ovs.poller
import pytest

from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.observe import vswitchd
from ovs_ebpf_tap.observe.revalidation import Revalidation
from talking import Trio, copies_of

AWAY = 1.0  # seconds


@pytest.fixture(params=["asked", "gone"])
def unanswered(switch: Switch, request: pytest.FixtureRequest) -> Iterator[Revalidation]:
    """One whose ovs-vswitchd was killed, before it could answer or before it was asked."""
    pid = switch.vswitchd_pid()
    assert pid is not None
    if request.param == "asked":
        os.kill(pid, signal.SIGSTOP)
        revalidation = Revalidation.begin(switch.rundir, ["br0"])
        switch.kill_vswitchd()
    else:
        switch.kill_vswitchd()
        revalidation = Revalidation.begin(switch.rundir, ["br0"])
    yield revalidation
    revalidation.close()


def is_done(revalidation: Revalidation) -> bool:
    """Whether it is by now."""
    revalidation.run()
    return revalidation.done


def finish(revalidation: Revalidation) -> None:
    """Waits until it is, as the sidecar does."""
    while not is_done(revalidation):
        poller = ovs.poller.Poller()
        revalidation.wait(poller)
        poller.block()


def check_not_done(revalidation: Revalidation) -> None:
    """For a while."""
    until = time.monotonic() + AWAY
    while time.monotonic() < until:
        assert not is_done(revalidation)
        time.sleep(0.01)


def test_the_next_one_is_waited_for(switch: Switch, unanswered: Revalidation) -> None:
    """Until it copies, only hooks do."""
    check_not_done(unanswered)
    switch.start_vswitchd()
    wait_for(lambda: is_done(unanswered), what="a round of the next one")


def test_one_that_waits_for_its_database_is_not_enough(
    switch: Switch, unanswered: Revalidation
) -> None:
    """It answers, and has no datapath."""
    switch.stop_ovsdb()
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(switch.start_vswitchd)
        wait_for(lambda: switch.vswitchd_pid() and switch.appctl("version"))
        check_not_done(unanswered)
        switch.start_ovsdb()
        starting.result()
    wait_for(lambda: is_done(unanswered), what="a round of the next one")


def test_one_that_is_nowhere_to_be_found_is_not_waited_for(tmp_path: Path) -> None:
    """Its files may be elsewhere, and it may well be there."""
    revalidation = Revalidation.begin(tmp_path, ["br0"])
    wait_for(lambda: is_done(revalidation), 5, "an end")


def coverage(switch: Switch, counter: str) -> int:
    return int(switch.appctl("coverage/read-counter", counter))


def test_flows_are_revalidated_without_a_purge(switch: Switch) -> None:
    for _ in range(20):
        before = coverage(switch, "rev_flow_table")
        finish(Revalidation.begin(switch.rundir, ["br0"]))
        assert coverage(switch, "rev_flow_table") > before


@pytest.mark.parametrize("served", [True, False], ids=["by OpenFlow", "by a purge"])
def test_running_flows_get_to_know_of_a_change(switch: Switch, trio: Trio, served: bool) -> None:
    assert copies_of(*trio, 3) == 1
    switch.vsctl("set", "Mirror", "m1", "select_vlan=4095")
    assert copies_of(*trio, 3) == 1, "Open vSwitch revalidates by itself"
    if not served:
        (switch.rundir / "br0.mgmt").unlink()
    finish(Revalidation.begin(switch.rundir, ["br0"]))
    assert copies_of(*trio, 3) == 0


@pytest.mark.parametrize(
    "options",
    [["--unixctl=other.ctl"], ["--unixctl", "{rundir}/other.ctl"], ["--unix={rundir}/other.ctl"]],
    ids=["name", "path", "abbreviated"],
)
def test_another_control_socket_is_found(switch: Switch, options: list[str]) -> None:
    restart(switch, *options)
    assert vswitchd.is_running(switch.rundir)
    revalidation = Revalidation.begin(switch.rundir, ["br0"])
    while not is_done(revalidation):
        assert not revalidation.lost, "it is not asked"
        time.sleep(0.001)


def test_one_without_a_control_socket_runs(switch: Switch) -> None:
    """So a mirror that is given back keeps its hooks until flows may know of it."""
    restart(switch, "--unixctl=none")
    assert vswitchd.is_running(switch.rundir)
    finish(Revalidation.begin(switch.rundir, ["br0"]))
    switch.kill_vswitchd()
    assert not vswitchd.is_running(switch.rundir)


def restart(switch: Switch, *options: str) -> None:
    switch.kill_vswitchd()
    switch.start_vswitchd(*(option.format(rundir=switch.rundir) for option in options))
