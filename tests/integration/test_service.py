"""The unit, run by a systemd as it is written: what it may do, and what becomes of it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.differences import stream_difference
from ovs_ebpf_tap.lab.kernel import attachments, has_tcx
from ovs_ebpf_tap.lab.netns import CommandError
from ovs_ebpf_tap.lab.sidecar_process import hook_count
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.systemd import PREFIX, Systemd
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from talking import Trio, copies_of

UNIT = Path(__file__).resolve().parents[2] / "scripts" / "ovs-ebpf-tap.service"
NAME = UNIT.stem
COMMAND = str(PREFIX / "bin" / "ovs-ebpf-tap")
LOG = "/run/sidecar.log"
PINS = "/sys/fs/bpf/ovs-ebpf-tap"
CONTROL = "/run/ovs-ebpf-tap/ovs-ebpf-tap.ctl"


class Service:
    """The sidecar as a service."""

    def __init__(self, systemd: Systemd) -> None:
        self.systemd = systemd
        self.set(f"StandardError=append:{LOG}")

    def set(self, *settings: str, run: str = "") -> None:
        """Adds to the unit's settings, as an operator does; `run` are options of that command."""
        lines = [*settings]
        if run:
            lines += ["ExecStart=", f"ExecStart={COMMAND} run {run}"]
        directory = f"/etc/systemd/system/{NAME}.service.d"
        script = 'mkdir -p "$1"; printf "%s\\n" [Service] "$2" >"$1/$(ls "$1" | wc -l).conf"'
        self.systemd.run("sh", "-euc", script, "sh", directory, "\n".join(lines))
        self.systemd.systemctl("daemon-reload")

    def start(self, *options: str) -> None:
        self.systemd.systemctl("start", *options, NAME)

    def stop(self) -> None:
        self.systemd.systemctl("stop", NAME)

    def show(self, name: str) -> str:
        return self.systemd.show(NAME, name)

    def wait(self, name: str, value: str, seconds: float = 10.0) -> None:
        try:
            wait_for(lambda: self.show(name) == value, seconds, f"{name} {value}", every=0.05)
        except TimeoutError as error:
            shown = self.systemd.run("systemctl", "status", NAME, check=False).stdout
            raise AssertionError(f"{error}\n{self.log()}\n{shown}") from None

    def wait_offloaded(self, switch: Switch) -> None:
        """Waits until m1 is offloaded, and Open vSwitch's running flows know."""
        wait_for(lambda: state(switch) == "offloaded", what="m1 offloaded")
        ask = ("ovs-appctl", "--target", CONTROL, "settled")
        wait_for(lambda: self.systemd.run(*ask, check=False).stdout != "no\n", what="rest")

    def log(self) -> str:
        return self.systemd.run("cat", LOG, check=False).stdout

    def run(self, *arguments: str) -> str:
        """What a command of ours prints that an operator calls."""
        return self.systemd.run(COMMAND, *arguments).stdout

    def inside(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Runs a program in the service's own mount namespace."""
        pid = self.show("MainPID")
        return self.systemd.run("nsenter", "--mount", f"--target={pid}", *argv, check=False)

    def status_of_process(self) -> dict[str, str]:
        text = self.systemd.run("cat", f"/proc/{self.show('MainPID')}/status").stdout
        return {
            name: value.strip() for name, _, value in (x.partition(":") for x in text.splitlines())
        }


@pytest.fixture
def service(switch: Switch) -> Iterator[Service]:
    with Systemd(switch, [UNIT]) as systemd:
        yield Service(systemd)


def state(switch: Switch) -> str:
    return switch.get("Mirror", "m1", "external_ids:ebpf-tap-state")


def test_exposure() -> None:
    """Of 10 at most 3, as systemd counts it."""
    command = ("systemd-analyze", "security", "--offline=true", "--threshold=30", str(UNIT))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.vm
@pytest.mark.parametrize("attach", attachments())
def test_it_works_within_its_limits(
    switch: Switch, trio: Trio, service: Service, attach: str
) -> None:
    a, b, m = trio
    service.set(run=f"--attach {attach}")
    service.systemd.systemctl("enable", NAME)
    service.systemd.systemctl("start", "openvswitch-switch")  # Which wants it.
    service.wait("ActiveState", "active", 60)
    assert "Unknown" not in service.systemd.log()
    service.wait_offloaded(switch)
    service.wait("StatusText", "1 of 1 mirrors offloaded")
    assert "level=warning" not in service.log(), service.log()
    assert_limited(switch, service)
    assert copies_of(a, b, m) == 1
    switch.vsctl("set", "Mirror", "m1", "external_ids:ebpf-tap-mode=native")
    wait_for(lambda: not hook_count(switch), what="no hooks")
    assert copies_of(a, b, m) == 1
    switch.vsctl("set", "Mirror", "m1", "external_ids:ebpf-tap-mode=offload")
    service.wait_offloaded(switch)
    assert copies_of(a, b, m) == 1
    assert f':{attach}"' in service.run("status", "--json")
    assert_ours_alone(service)
    service.run("release", "--all")
    service.wait("ActiveState", "inactive")
    assert service.show("Result") == "success"
    assert hook_count(switch) == 0
    assert copies_of(a, b, m) == 1
    assert service.systemd.run("ls", PINS, check=False).returncode


def assert_limited(switch: Switch, service: Service) -> None:
    """What the unit says is so, and what is bound to be refused is refused."""
    status = service.status_of_process()
    # CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF in include/uapi/linux/capability.h
    mask = f"{1 << 12 | 1 << 38 | 1 << 39:016x}"
    assert (status["CapEff"], status["CapBnd"]) == (mask, mask)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    pid = service.show("MainPID")
    network = service.systemd.run("stat", "-Lc", "%i", f"/proc/{pid}/ns/net").stdout
    assert int(network) == os.stat(switch.ns.path).st_ino
    for place in ("/etc", "/usr", "/opt", "/proc/sys/net/ipv4/ip_forward", "/sys/kernel/mm"):
        done = service.inside("sh", "-c", f"test -d {place} && touch {place}/x || echo 1 >{place}")
        assert "Read-only file system" in done.stderr, done
    assert not service.inside("ls", "/home").stdout


def assert_ours_alone(service: Service) -> None:
    """What is pinned is seen from outside, and all of it is root's alone, as run files are."""
    command = (
        "find",
        PINS,
        "/run/ovs-ebpf-tap",
        "/var/cache/ovs-ebpf-tap",
        "-not",
        "-type",
        "l",
        "-printf",
        "%M %u %p\n",
    )
    found = service.systemd.run(*command).stdout.splitlines()
    assert any(f"{PINS}/" in line for line in found)
    assert any(line.startswith("s") for line in found)
    for line in found:
        assert line.split()[0][4:] == "------", line
        assert line.split()[1] == "root", line
    # Links, if there are any, and maps.
    assert service.systemd.run("test", "-d", PINS).returncode == 0


def test_programs_are_compiled_within_the_limits(switch: Switch, trio: Trio) -> None:
    with Systemd(switch, [UNIT], compiled=False) as systemd:
        service = Service(systemd)
        service.start()
        service.wait_offloaded(switch)
        assert copies_of(*trio) == 1
        kept = systemd.run("ls", "/var/cache/ovs-ebpf-tap/programs").stdout
        assert len(kept.split()) == 1


def test_copies_go_on_over_restarts(
    switch: Switch, trio: Trio, service: Service, figure: Callable[[str], None]
) -> None:
    a, b, m = trio
    service.start()
    service.wait_offloaded(switch)
    with Capture.of(m) as copies:
        with Stream(a, b, rate=1000) as stream:
            time.sleep(0.2)
            service.systemd.systemctl("restart", NAME)
            first = service.show("MainPID")
            service.systemd.systemctl("kill", "--signal=KILL", NAME)
            wait_for(lambda: service.show("MainPID") not in (first, "0"), what="another")
            service.wait("ActiveState", "active", 20)
            service.stop()
            assert service.show("Result") == "success"
            time.sleep(0.2)
        copies.wait_quiet()
        result = stream_difference(stream.sent, copies.sequences(stream.stream_id))
    figure(str(result))
    assert not result, str(result)
    assert state(switch) == "offloaded"
    service.start()
    assert copies_of(a, b, m) == 1


@pytest.mark.vm
def test_a_stop_with_on_exit_restore_gives_everything_back(
    switch: Switch, trio: Trio, service: Service
) -> None:
    service.set(run="--on-exit restore")
    service.start()
    service.wait_offloaded(switch)
    service.stop()
    assert service.show("Result") == "success", service.log()
    assert switch.get("Mirror", "m1", "select_vlan") == "[]"
    assert hook_count(switch) == 0
    assert copies_of(*trio) == 1


def test_it_starts_before_the_database_and_outlasts_it(
    switch: Switch, trio: Trio, service: Service
) -> None:
    """A database that is away is no failure of ours: no restart mends it."""
    service.set(f"TimeoutStartSec={patience(5):g}", f"WatchdogSec={patience(5):g}")
    switch.stop_ovsdb()
    service.start("--no-block")
    waiting = "waiting for the database: cannot connect"
    wait_for(lambda: service.show("StatusText").startswith(waiting), 30, waiting)
    first = service.show("MainPID")
    time.sleep(patience(6))
    assert service.show("ActiveState") == "activating"
    switch.start_ovsdb()
    service.wait("ActiveState", "active", 30)
    service.wait_offloaded(switch)
    switch.stop_ovsdb()
    service.wait("StatusText", "waiting for the database")
    time.sleep(patience(7))
    assert copies_of(*trio) == 1
    switch.start_ovsdb()
    service.wait("StatusText", "1 of 1 mirrors offloaded", 20)
    assert service.show("MainPID") == first


def test_one_that_hangs_is_restarted(switch: Switch, trio: Trio, service: Service) -> None:
    service.set(f"WatchdogSec={patience(4):g}", f"TimeoutAbortSec={patience(1):g}")
    service.start()
    service.wait_offloaded(switch)
    first = service.show("MainPID")
    service.systemd.systemctl("kill", "--signal=STOP", NAME)
    wait_for(lambda: service.show("MainPID") not in (first, "0"), 30, "another")
    service.wait("ActiveState", "active", 20)
    service.wait("StatusText", "1 of 1 mirrors offloaded")
    assert copies_of(*trio) == 1


def let_passes_fail(service: Service) -> str:
    """It can't open files, as if it had leaked them, and is to look for its links in a directory.

    Returns the limit that it had.
    """
    limit = ("prlimit", f"--pid={service.show('MainPID')}")
    had = service.systemd.run(*limit, "--nofile", "--output=SOFT", "--noheadings").stdout
    service.systemd.run(*limit, "--nofile=3:")
    service.systemd.run("mkdir", f"{PINS}/links/some")
    service.systemd.run("rmdir", f"{PINS}/links/some")
    service.wait("StatusText", "the last pass failed: see the log")
    assert "pass failed" in service.log()
    return had.strip()


@pytest.mark.skipif(not has_tcx(), reason="there are links to look for with TCX alone")
def test_one_whose_passes_all_fail_is_restarted(
    switch: Switch, trio: Trio, service: Service
) -> None:
    service.set(f"WatchdogSec={patience(5):g}")
    service.start()
    service.wait_offloaded(switch)
    first = service.show("MainPID")
    let_passes_fail(service)
    wait_for(lambda: service.show("MainPID") not in (first, "0"), 30, "another")
    service.wait("StatusText", "1 of 1 mirrors offloaded", 20)
    assert "Fatal Python error: Aborted" in service.log()
    assert copies_of(*trio) == 1


@pytest.mark.skipif(not has_tcx(), reason="there are links to look for with TCX alone")
def test_failures_that_pass_are_left_to_it(switch: Switch, trio: Trio, service: Service) -> None:
    service.set(f"WatchdogSec={patience(20):g}")
    service.start()
    service.wait_offloaded(switch)
    had = let_passes_fail(service)
    service.systemd.run("prlimit", f"--pid={service.show('MainPID')}", f"--nofile={had}:")
    service.wait("StatusText", "1 of 1 mirrors offloaded")
    assert service.show("NRestarts") == "0"
    assert copies_of(*trio) == 1


# What it may lack.


@pytest.mark.parametrize("missing", ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"])
def test_a_missing_capability_is_said(service: Service, missing: str) -> None:
    service.set(f"CapabilityBoundingSet=~{missing}")
    with pytest.raises(CommandError):
        service.start()
    said = {line for line in service.log().splitlines() if "event=verifier" not in line}
    (line,) = said
    assert line.startswith("ovs-ebpf-tap: ")
    assert missing in line


@pytest.mark.skipif(not has_tcx(), reason="on clsact, hw-offload leaves mirrors to Open vSwitch")
def test_features_of_devices_are_to_be_seen(switch: Switch, trio: Trio, service: Service) -> None:
    """Else the hardware of any may take packets past hooks."""
    service.start()
    service.wait_offloaded(switch)
    switch.vsctl("set", "Open_vSwitch", ".", "other_config:hw-offload=true")
    switch.restart_vswitchd()
    assert copies_of(*trio) == 1
    assert state(switch) == "offloaded"


@pytest.mark.skipif(not has_tcx(), reason="clsact filters wait for no grace period")
def test_a_setting_that_cannot_be_written_is_said(
    switch: Switch, trio: Trio, service: Service
) -> None:
    service.set(run="--fast-attach")
    service.start()
    assert "--fast-attach has no effect" in service.log()
    service.wait_offloaded(switch)
    assert copies_of(*trio) == 1


def test_a_missing_bpffs_is_said(switch: Switch, trio: Trio, service: Service) -> None:
    service.systemd.run("umount", "/sys/fs/bpf")
    service.systemd.run("sh", "-c", "while umount /sys/fs/bpf; do :; done", check=False)
    with pytest.raises(CommandError):
        service.start()
    assert "no bpffs at /sys/fs/bpf, and mounting one failed" in service.log()
    service.systemd.run("mount", "-t", "bpf", "-o", "mode=700", "bpf", "/sys/fs/bpf")
    service.wait_offloaded(switch)


def test_an_open_vswitch_of_another_user(switch: Switch, trio: Trio, service: Service) -> None:
    for path in switch.rundir.glob("*.sock"):
        os.chown(path, 12345, 12345)
    for path in (*switch.rundir.glob("*.ctl"), *switch.rundir.glob("*.mgmt")):
        os.chown(path, 12345, 12345)
    service.start("--no-block")
    wait_for(lambda: "Permission denied" in service.show("StatusText"), what="a refusal")
    service.set("CapabilityBoundingSet=CAP_DAC_OVERRIDE")
    service.systemd.systemctl("restart", NAME)
    service.wait_offloaded(switch)
    assert copies_of(*trio) == 1
