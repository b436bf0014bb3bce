"""Faults of Open vSwitch's own processes, which copies do not depend on once they are ours."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from faults.fault import Fault
from faults.guests import KERNELS, LATE, await_copies, guest, make_device, remove_device, reopen
from faults.testbed import Testbed
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.ovs_daemons import NEWER_OVS
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import patience, wait_for

AWAY = float(os.environ.get("FAULTS_AWAY", "5"))
"""Seconds for which the database is away."""


# ovs-vswitchd.


def kill_vswitchd(switch: Switch) -> None:
    switch.kill_vswitchd()
    switch.start_vswitchd()


def exit_with_cleanup(switch: Switch) -> None:
    """As to stop it for good: it takes its datapath away."""
    pid = switch.vswitchd_pid()
    switch.appctl("exit", "--cleanup")
    wait_for(lambda: switch.vswitchd_pid() != pid, what="ovs-vswitchd's end")
    switch.start_vswitchd()


def exit_with_flows_kept(switch: Switch) -> None:
    """As `ovs-ctl` restarts it: no packet is looked at before its flows are back."""
    flows = switch.ofctl("--no-names", "dump-flows", "br0", "--no-stats")
    switch.vsctl("set", "Open_vSwitch", ".", "other_config:flow-restore-wait=true")
    switch.restart_vswitchd()
    (switch.rundir / "flows").write_text(flows)
    switch.ofctl("replace-flows", "br0", str(switch.rundir / "flows"))
    switch.vsctl("--no-wait", "remove", "Open_vSwitch", ".", "other_config", "flow-restore-wait")


def stop_vswitchd(switch: Switch) -> None:
    """It hangs for a while."""
    pid = switch.vswitchd_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1)
    os.kill(pid, signal.SIGCONT)


VSWITCHD = [
    Switch.restart_vswitchd,
    kill_vswitchd,
    exit_with_cleanup,
    exit_with_flows_kept,
    stop_vswitchd,
]


@pytest.mark.parametrize("bare_ground", attachments(), indirect=True)
@pytest.mark.parametrize("harm", VSWITCHD, ids=lambda harm: harm.__name__)
def test_vswitchd(ground: Testbed, fault: Fault, harm: Callable[[Switch], None]) -> None:
    with fault(f"ovs-vswitchd: {harm.__name__}, {ground.attach}"):
        harm(ground.switch)


@pytest.mark.parametrize("state", ["native", "offloaded"])
def test_vswitchd_is_killed_in_the_middle_of_a_move(
    ground: Testbed, fault: Fault, state: str
) -> None:
    """Neither has hooks and Open vSwitch both stand still: the move ends when it is back."""
    if state == "offloaded":
        ground.tap.native("m")
    mode = "offload" if state == "offloaded" else "native"
    ground.wanted["m"] = state
    with fault(f"ovs-vswitchd is killed while a mirror gets {state}") as during:
        change = ("set", "Mirror", "m", f"external_ids:ebpf-tap-mode={mode}")
        if state == "native":
            ground.switch.vsctl("--no-wait", *change)
            ground.switch.kill_vswitchd()
        else:
            # While it is away, what is sent is only copied by hooks that are there by then.
            with during.blackout():
                ground.switch.vsctl("--no-wait", *change)
                ground.switch.kill_vswitchd()
                wait_for(lambda: "offloaded" in ground.tap.log(), what="hooks")
        ground.switch.start_vswitchd()


# ovsdb-server.


def kill_ovsdb(switch: Switch) -> None:
    switch.kill_ovsdb()
    switch.start_ovsdb()


def compact(switch: Switch) -> None:
    for _ in range(3):
        switch.appctl("-t", "ovsdb-server", "ovsdb-server/compact")


def replace_socket(switch: Switch) -> None:
    """All connections end, and the name is another socket's."""
    path = switch.rundir / "db.sock"
    for command, exists in (("remove-remote", False), ("add-remote", True)):
        switch.appctl("-t", "ovsdb-server", f"ovsdb-server/{command}", f"p{switch.db}")
        wait_for(lambda: path.exists() == exists, what="another socket")  # noqa: B023 - at once


def both(switch: Switch) -> None:
    switch.kill_vswitchd()
    switch.kill_ovsdb()
    switch.start_ovsdb()
    switch.start_vswitchd()


OVSDB = [Switch.restart_ovsdb, kill_ovsdb, compact, replace_socket, both]


@pytest.mark.parametrize("harm", OVSDB, ids=lambda harm: harm.__name__)
def test_ovsdb(ground: Testbed, fault: Fault, harm: Callable[[Switch], None]) -> None:
    with fault(f"ovsdb-server: {harm.__name__}"):
        harm(ground.switch)
    # It is listened to again.
    started = time.monotonic()
    ground.tap.native("m")
    ground.tap.offload("m")
    assert time.monotonic() - started < patience(5)


def test_database_away(ground: Testbed, fault: Fault, figure: Callable[[str], None]) -> None:
    """The sidecar waits without spinning, and is there again soon after the database is.

    ovs-vswitchd waits up to 8 s; without its database its userspace datapath forwards nothing.
    """
    switch = ground.switch
    assert ground.tap.process is not None
    with fault(f"the database is away for {AWAY:.0f} s"):
        switch.stop_ovsdb()
        before = cpu_seconds(ground.tap.process.pid)
        time.sleep(AWAY)
        used = cpu_seconds(ground.tap.process.pid) - before
        switch.start_ovsdb()
        back = time.monotonic()
        add = ("--", "add", "Bridge", "br0", "mirrors", "@n")
        columns = ("name=n", "external_ids:ebpf-tap-mode=native")
        switch.vsctl("--no-wait", "--id=@n", "create", "Mirror", *columns, *add)
        ground.wanted["n"] = "invalid"
        wait_for(ground.is_right, 5, "a row that was looked at")
        took = time.monotonic() - back
    figure(f"{used / AWAY:.1%} of a CPU meanwhile; a row was looked at {took:.2f} s after")
    assert took < patience(LATE)
    assert used / AWAY < patience(0.05)


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("end", ["stop", "hang"])
def test_a_device_comes_back_while_the_database_is_away(
    ground: Testbed, fault: Fault, figure: Callable[[str], None], end: str
) -> None:
    """Its index is another one, and who is to copy was decided before.

    The userspace datapath opens it only when the database asks for that.
    """
    switch = ground.switch
    server = int((switch.rundir / "ovsdb-server.pid").read_text())
    with guest(ground, "x") as x:
        ground.wanted["n"] = "offloaded"
        switch.mirror("n", src=[x], output=ground.monitor)
        ground.wait_right()
        with fault(f"a source is made anew while the database is away: {end}"):
            if end == "stop":
                switch.stop_ovsdb()
            else:
                os.kill(server, signal.SIGSTOP)
            try:
                time.sleep(2.2)  # Until its silence is noticed.
                remove_device(switch, x)
                make_device(switch, x)
                if KERNELS:
                    await_copies(ground, x, ground.monitor)
            finally:
                if end == "stop":
                    switch.start_ovsdb()
                else:
                    os.kill(server, signal.SIGCONT)
            reopen(switch, x)
            took = await_copies(ground, x, ground.monitor)
    figure(f"copied {took:.2f} s after the database was back")
    assert took < patience(LATE)


def test_the_database_is_put_back_to_an_earlier_state(ground: Testbed, fault: Fault) -> None:
    """Its `next_cfg`, which tells what ovs-vswitchd has taken in, is an earlier one, too."""
    switch = ground.switch
    kept = (switch.rundir / "conf.db").read_bytes()
    ground.tap.native("m")
    ground.tap.offload("m")
    with fault("the database is put back to an earlier state"):
        switch.stop_vswitchd()
        switch.stop_ovsdb()
        (switch.rundir / "conf.db").write_bytes(kept)
        switch.start_ovsdb()
        switch.start_vswitchd()
    with fault("... and a mirror moves after that"):
        ground.tap.native("m")
        ground.tap.offload("m")


# Upgrades.


@pytest.fixture
def fault_on(request: pytest.FixtureRequest) -> Callable[[Testbed], Fault]:
    """A fault on a ground of the test's own."""
    properties = request.node.user_properties
    return lambda ground: Fault(ground, lambda outcome: properties.append(("fault", outcome)))


@pytest.fixture
def old_ground() -> Iterator[Testbed]:
    """A ground that is not used again."""
    ground = Testbed(attachments()[0])
    ground.open()
    try:
        ground.tap.start()
        ground.mirror()
        yield ground
    finally:
        ground.close()


def test_open_vswitch_is_upgraded(
    old_ground: Testbed, fault_on: Callable[[Testbed], Fault]
) -> None:
    """As a distribution's package does it, to a version whose mirrors have a filter."""
    switch = old_ground.switch
    with fault_on(old_ground)("Open vSwitch is upgraded to 3.5"):
        flows = switch.ofctl("--no-names", "dump-flows", "br0", "--no-stats")
        switch.vsctl("set", "Open_vSwitch", ".", "other_config:flow-restore-wait=true")
        switch.stop_vswitchd()
        switch.upgrade(NEWER_OVS)
        switch.start_vswitchd()
        (switch.rundir / "flows").write_text(flows)
        switch.ofctl("replace-flows", "br0", str(switch.rundir / "flows"))
        unset = ("remove", "Open_vSwitch", ".", "other_config", "flow-restore-wait")
        switch.vsctl("--no-wait", *unset)
    # A column that was not there before.
    switch.vsctl("set", "Mirror", "m", "filter=icmp")
    with Capture.of(old_ground.monitor) as copies:
        wait_for(lambda: "icmp" in switch.vsctl("get", "Mirror", "m", "filter"))
        with Stream(old_ground.a, old_ground.b, rate=1000, stream_id=3) as stream:
            time.sleep(0.3)
        assert stream.sent
        copies.wait_quiet(0.1)
        late = [number for number in copies.sequences(3) if number > 200]
    assert not late, "what the filter does not select is copied"
