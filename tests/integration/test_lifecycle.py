"""Starting, stopping, restarting, upgrading and releasing the sidecar, under traffic."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ovs_ebpf_tap
from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf, pinning
from ovs_ebpf_tap.ebpf.build import build_id
from ovs_ebpf_tap.ebpf.object import COPY_TAG, FORMER, LATER, MAPS, PROGRAMS
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.differences import stream_difference
from ovs_ebpf_tap.lab.frames import sequenced, udp_frame
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from talking import Trio, copies_of

ATTACH = attachments()


@pytest.mark.vm
@pytest.mark.parametrize("attach", ATTACH)
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_copies_go_on_without_the_process_and_are_taken_over(
    switch: Switch,
    trio: Trio,
    attach: str,
    end: signal.Signals,
    figure: Callable[[str], None],
) -> None:
    a, b, m = trio
    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.wait_state("m1", "offloaded")
        hooks = hook_count(switch)
        with Capture.of(m) as copies:
            with Stream(a, b, rate=5000) as stream:
                for _ in range(3):
                    time.sleep(0.2)
                    status = tap.stop(end)
                    assert status == (0 if end == signal.SIGTERM else -end)
                    assert tap.status()[0]["state"] == "offloaded"
                    tap.start()
                    assert hook_count(switch) == hooks
            copies.wait_quiet()
            result = stream_difference(stream.sent, copies.sequences(stream.stream_id))
        figure(f"3 times {end.name}: {result}")
        assert not result, str(result)


def test_a_restart_does_not_compile(switch: Switch, trio: Trio) -> None:
    with SidecarProcess(switch) as tap:
        directory = tap.pin_dir / build_id()
        pins = [directory / name for name in (*PROGRAMS, *MAPS)]
        before = [path.stat().st_ino for path in pins]
        tap.restart()
        assert [path.stat().st_ino for path in pins] == before


def test_the_sidecar_never_loads_llvm(switch: Switch, tap: SidecarProcess) -> None:
    assert tap.process is not None
    maps = Path(f"/proc/{tap.process.pid}/maps").read_text()
    assert "libpython" in maps or "python3" in maps
    assert "LLVM" not in maps
    assert "libbcc" not in maps


@pytest.mark.vm
@pytest.mark.parametrize("attach", ATTACH)
def test_counters_are_kept_and_statistics_follow(switch: Switch, trio: Trio, attach: str) -> None:
    a, b, m = trio
    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.wait_state("m1", "offloaded")
        assert copies_of(a, b, m, 30) == 1
        wait_statistics(switch, 30)
        tap.kill()
        assert copies_of(a, b, m, 12) == 1
        tap.start()
        wait_statistics(switch, 42)
        row = tap.status()[0]
        assert (row["packets"], row["drops"]) == (42, 0)
        assert row["bytes"] == int(switch.get("Mirror", "m1", "statistics:tx_bytes"))


def _counted(tap: SidecarProcess) -> tuple[int, int]:
    """Packets and drops of the only mirror."""
    row = tap.status()[0]
    return row["packets"], row["drops"]


def wait_statistics(switch: Switch, packets: int) -> None:
    def follows() -> bool:
        return switch.get("Mirror", "m1", "statistics:tx_packets") == str(packets)

    # As long as Open vSwitch takes for its own.
    wait_for(follows, 6.0, f"statistics of {packets} packets")


def test_failed_copies_are_counted(switch: Switch) -> None:
    a, b = (switch.add_host(name, with_ip=False) for name in "ab")
    m = switch.add_host("m", mtu=500, with_ip=False)
    switch.learn(a, b)
    switch.mirror("m1", src=[a], output=m)
    with SidecarProcess(switch) as tap:
        tap.wait_state("m1", "offloaded")
        a.send([udp_frame(a, b, b"x" * 1000)] * 9 + [udp_frame(a, b, b"x")] * 4)
        wait_for(lambda: _counted(tap) == (4, 9), what="packets and drops")


@pytest.mark.vm
@pytest.mark.parametrize("attach", ATTACH)
@pytest.mark.parametrize("running", [True, False])
def test_release_leaves_nothing(switch: Switch, trio: Trio, attach: str, running: bool) -> None:
    a, b, m = trio
    loaded = program_count()
    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.wait_state("m1", "offloaded")
        assert hook_count(switch)
        if not running:
            tap.kill()
        with Stream(a, b, rate=200) as stream, Capture.of(m) as copies:
            time.sleep(0.3)
            done = tap.release()
            assert done.returncode == 0, done.stderr
            copies.clear()
            copies.wait_count(20)  # Of the running flow, by OVS.
        assert stream.sent
        if running:
            assert tap.process is not None
            assert tap.process.wait(patience(10)) == 0
        assert hook_count(switch) == 0
        assert not tap.pin_dir.exists()
        assert not tap.run_dir.exists()
        assert tap.external_ids("m1").keys() == {"ebpf-tap-mode", "ebpf-tap-counted"}
        assert switch.get("Mirror", "m1", "select_vlan") == "[]"
        assert switch.get("Port", m.port, "protected") == "false"
        assert copies_of(a, b, m) == 1
    wait_for(lambda: program_count() == loaded, what="programs gone")


def program_count() -> int:
    return sum("tap_" in line for line in os.popen("bpftool prog show").readlines())


@pytest.mark.parametrize("running", [True, False])
def test_release_of_one_mirror_leaves_the_others(switch: Switch, running: bool) -> None:
    a, b, m, n = (switch.add_host(name, with_ip=False) for name in "abmn")
    switch.learn(a, b)
    switch.mirror("m1", src=[a], output=m)
    switch.mirror("m2", src=[a], output=n)
    with SidecarProcess(switch) as tap:
        tap.wait_state("m1", "offloaded")
        tap.wait_state("m2", "offloaded")
        if not running:
            tap.stop()
        assert tap.release("m1").returncode == 0
        assert tap.state("m2") == "offloaded"
        assert switch.get("Mirror", "m1", "select_vlan") == "[]"
        assert copies_of(a, b, m) == 1
        assert copies_of(a, b, n) == 1
        assert tap.release("nobody").returncode == 1


def test_on_exit_restore_gives_everything_back(switch: Switch, trio: Trio) -> None:
    a, b, m = trio
    with SidecarProcess(switch, "--on-exit", "restore") as tap:
        tap.wait_state("m1", "offloaded")
        assert tap.stop() == 0
        assert switch.get("Mirror", "m1", "select_vlan") == "[]"
        assert "ebpf-tap-mode" not in tap.external_ids("m1")
        assert copies_of(a, b, m) == 1
        assert hook_count(switch) == 0
        tap.start()
        tap.wait_state("m1", "offloaded")


@pytest.mark.parametrize("attach", ATTACH)
def test_hooks_of_no_mirror_are_removed_at_start(switch: Switch, trio: Trio, attach: str) -> None:
    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.wait_state("m1", "offloaded")
        tap.kill()
        switch.remove_mirror("m1")
        assert hook_count(switch)
        tap.start()
        wait_for(lambda: hook_count(switch) == 0, what="no hooks")


@pytest.mark.skipif(
    os.environ.get("OVS_EBPF_TAP_DATAPATH") == "system", reason="the userspace datapath's way"
)
def test_a_device_that_left_with_its_hook(switch: Switch, trio: Trio, tap: SidecarProcess) -> None:
    """Its link is pinned, and on a device; but the device is not ours any more.

    Nor is another one of its name and index Open vSwitch's, which still has the one that left.
    """
    tap.wait_state("m1", "offloaded")
    with Netns("elsewhere") as elsewhere:
        index = switch.ns.call(lambda: socket.if_nametoindex("a0"))
        switch.ns.run("ip", "link", "set", "a0", "netns", elsewhere.path.name)
        wait_for(lambda: not tap.status()[0]["hooks"], what="no hooks")
        new = ("a0", "index", str(index), "type", "veth", "peer", "name", "a1")
        switch.ns.run("ip", "link", "add", *new)
        for device in ("a0", "a1"):
            switch.ns.run("ip", "link", "set", device, "up")
        taken = "port a0: device a0 is not in this network namespace: another one has its name"
        wait_for(lambda: tap.status()[0]["reason"] == taken, what="the reason")
        assert not tap.status()[0]["hooks"]
        assert switch.ns.call(lambda: bpf.count_tcx(index)) == 0


def test_the_log_can_be_json(switch: Switch) -> None:
    sidecar = SidecarProcess(switch, "--log-format", "json")
    sidecar.start(ready=False)
    try:
        wait_for(lambda: '"event": "ready"' in sidecar.log(), 30, "a ready sidecar")
        events = [json.loads(line) for line in sidecar.log().splitlines()]
    finally:
        sidecar.close()
    (ready,) = (event for event in events if event["event"] == "ready")
    assert ready["level"] == "info"


def test_a_second_sidecar_refuses(switch: Switch, tap: SidecarProcess) -> None:
    done = tap.run("run")
    assert done.returncode == 1
    assert "another ovs-ebpf-tap runs" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_two_sidecars_beside_two_databases(switch: Switch, trio: Trio, tap: SidecarProcess) -> None:
    a, b, m = trio
    tap.wait_state("m1", "offloaded")
    with Switch("other") as other:
        other.add_bridge()
        c, d, n = (other.add_host(name, with_ip=False) for name in "cdn")
        other.learn(c, d)
        other.mirror("m1", src=[c], output=n)
        with SidecarProcess(other) as second:
            second.wait_state("m1", "offloaded")
            assert copies_of(a, b, m) == 1
            assert copies_of(c, d, n) == 1
            assert second.release().returncode == 0
        assert tap.state("m1") == "offloaded"
        assert copies_of(a, b, m) == 1


def copy_tag_of(build: Path) -> bytes:
    fd = bpf.get(build / COPY_TAG)
    try:
        tag = bpf.Map(fd).get(bpf.u32(0))
    finally:
        os.close(fd)
    assert tag
    assert any(tag)
    return tag


@pytest.mark.parametrize("attach", ATTACH)
def test_an_upgrade_takes_over_without_a_gap(
    switch: Switch, trio: Trio, attach: str, tmp_path: Path
) -> None:
    a, b, m = trio
    newer = tmp_path / "newer"
    package = Path(ovs_ebpf_tap.__path__[0])
    shutil.copytree(package, newer / "ovs_ebpf_tap", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(abi.source_dir(), newer / "bpf")
    with (newer / "bpf" / "tap.c").open("a") as source:
        source.write("/* newer */\n")
    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.wait_state("m1", "offloaded")
        hooks = hook_count(switch)
        tag = copy_tag_of(tap.pin_dir / build_id())
        with Capture.of(m) as copies:
            with Stream(a, b, rate=2000) as stream:
                time.sleep(0.3)
                tap.stop()
                # As an earlier version has it.
                pins = tap.pin_dir / build_id()
                for name in LATER:
                    (pins / name).unlink()
                for name, former in FORMER.items():
                    (pins / name).rename(pins / former)
                tap.start(env={"PYTHONPATH": str(newer), "PYTHONSAFEPATH": "1"})
                time.sleep(0.3)
            copies.wait_quiet()
            result = stream_difference(stream.sent, copies.sequences(stream.stream_id))
        assert not result, str(result)
        assert "replacing an older build" in tap.log()
        (build,) = pinning.builds(tap.pin_dir)
        assert build.name != build_id()
        # Each build's hooks know the copies that the other's make meanwhile.
        assert copy_tag_of(build) == tag
        assert hook_count(switch) == hooks
        wait_statistics(switch, stream.sent)
        tap.stop()
        # And back again, which is a downgrade.
        tap.start()
        assert copies_of(a, b, m) == 1
        assert tap.release().returncode == 0
        assert hook_count(switch) == 0


def test_a_mirror_that_selects_no_port(switch: Switch, trio: Trio, tap: SidecarProcess) -> None:
    """As Open vSwitch has it, a VLAN alone selects nothing."""
    a, b, m = trio
    switch.vsctl("clear", "Mirror", "m1", "select_src_port", "select_dst_port")
    switch.vsctl("set", "Mirror", "m1", "select_vlan=0")
    for mode, state in (("native", "native"), ("offload", "offloaded")):
        tap.set_mode("m1", mode)
        tap.wait_settled("m1", state)
        with Capture.of(m) as capture:
            a.send(sequenced(a, b, 1, n) for n in range(10))
            capture.wait_quiet(0.2)
            assert not capture.sequences(1)
    wait_for(lambda: tap.reason("m1") == "selects no port", what="the reason")
    (row,) = tap.status()
    assert (row["state"], row["reason"]) == ("offloaded", "selects no port")
    assert "selects no port" in tap.log()
    switch.vsctl(
        "--id=@a", "get", "Port", a.port, "--", "add", "Mirror", "m1", "select_src_port", "@a"
    )
    wait_for(lambda: tap.reason("m1") is None, what="no reason")
    assert tap.state("m1") == "offloaded"
    switch.vsctl("del-port", "br0", a.port)
    wait_for(lambda: tap.reason("m1") == "selects no port", what="the reason")
