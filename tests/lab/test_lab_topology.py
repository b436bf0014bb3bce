"""The lab's switch, hosts and captures against a real Open vSwitch."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovs_ebpf_tap.lab.capture import Capture, CaptureLossError, Direction
from ovs_ebpf_tap.lab.differences import difference, stream_difference
from ovs_ebpf_tap.lab.frames import Tag, sequenced, tcp_frame, udp_frame, with_tags
from ovs_ebpf_tap.lab.names import PREFIX
from ovs_ebpf_tap.lab.netns import CommandError, Netns, reap
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.traffic import Stream, iperf, ping, send

pytestmark = pytest.mark.openvswitch


def test_switch_forwards_between_hosts(switch: Switch) -> None:
    a, b = switch.add_host("a"), switch.add_host("b")
    assert ping(a, b) == 3
    assert iperf(a, b, seconds=1).bits_per_second > 0
    assert iperf(a, b, "udp", seconds=1, bandwidth="1M").packets > 0


def test_native_mirror_copies_are_seen_exactly(switch: Switch) -> None:
    a, b, monitor = (switch.add_host(name, with_ip=False) for name in ("a", "b", "m"))
    switch.mirror("m0", src=[a], dst=[a], output=monitor)
    switch.learn(a, b)
    there = [udp_frame(a, b, bytes([i])) for i in range(50)] * 2
    back = [tcp_frame(b, a, bytes([i])) for i in range(50)]
    with monitor.capture() as copies, b.capture() as arrived:
        a.send(there)
        b.send(back)
        arrived.wait_count(len(there))
        copies.wait_count(len(there + back))
        copies.wait_quiet()
    assert not difference(Counter(there), arrived.multiset())
    assert not difference(Counter(there + back), copies.multiset())


def test_mirror_is_the_row_that_an_operator_makes(switch: Switch) -> None:
    a, b, monitor = (switch.add_host(name) for name in ("a", "b", "m"))
    uuid = switch.mirror(
        "m0", src=[a, b], dst=[b], output=monitor, select_vlan=[10, 20], external_ids={"k": "v w"}
    )
    assert switch.get("Mirror", "m0", "_uuid") == uuid
    assert switch.get("Mirror", "m0", "select_vlan") == "[10, 20]"
    assert switch.get("Mirror", "m0", "external_ids:k") == "v w"
    assert switch.get("Mirror", "m0", "select_src_port").count(",") == 1
    assert switch.get("Mirror", "m0", "select_dst_port")[1:-1] == switch.get("Port", "b0", "_uuid")
    switch.remove_mirror("m0")
    assert switch.get("Mirror", "m0", "name") == ""


@pytest.mark.parametrize("tags", [[], [100], [Tag(7, pcp=5)], [Tag(7, tpid=0x88A8), 100]])
def test_capture_restores_vlan_tags(switch: Switch, tags: list[Tag | int]) -> None:
    a, b = switch.add_host("a", with_ip=False), switch.add_host("b", with_ip=False)
    frames = [udp_frame(a, b, b"x", tags=tags)]
    with b.capture() as arrived:
        a.send(frames)
        arrived.wait_count(1)
    assert arrived.frames() == frames


def test_access_ports_tag_towards_a_trunk(switch: Switch) -> None:
    a, b = switch.add_host("a", tag=10), switch.add_host("b", trunks=[10, 20])
    frame = udp_frame(a, b, b"x")
    with b.capture() as arrived:
        a.send([frame])
        arrived.wait_count(1)
    assert arrived.frames() == [with_tags(frame, [10])]


def test_stream_is_counted_exactly(switch: Switch) -> None:
    a, b, monitor = (switch.add_host(name) for name in ("a", "b", "m"))
    switch.mirror("m0", src=[a], output=monitor)
    switch.learn(a, b)
    with monitor.capture() as copies, b.capture() as arrived:
        with Stream(a, b, rate=10_000, stream_id=3) as stream:
            time.sleep(2)
        assert stream.sent > 0
        for capture in (arrived, copies):
            capture.wait_count(stream.sent, seconds=30)
            capture.wait_quiet()
    assert not stream_difference(stream.sent, arrived.sequences(3))
    assert not stream_difference(stream.sent, copies.sequences(3))


def test_stream_of_a_given_count(switch: Switch) -> None:
    a, b = switch.add_host("a"), switch.add_host("b")
    stream = Stream(a, b, rate=0, count=1000, size=1000, vlans=[5])
    with b.capture() as arrived:
        stream.start()
        assert stream.wait() == 1000
        arrived.wait_count(1000)
    expected = [sequenced(a, b, 1, i, 1000, tags=[5]) for i in range(1000)]
    assert not difference(Counter(expected), arrived.multiset())


def test_stream_that_cannot_send_says_why(switch: Switch) -> None:
    a = switch.add_host("a")
    with pytest.raises(CommandError, match="too short"):
        Stream(a, a, size=20).start()


def test_a_burst_is_not_dropped(switch: Switch) -> None:
    a, b = switch.add_host("a"), switch.add_host("b")
    switch.learn(a, b)
    frames = [sequenced(a, b, 1, i) for i in range(5000)]
    with b.capture() as arrived:
        a.send(frames)
        arrived.wait_count(len(frames))
    # In a kernel datapath the frames of a new flow may overtake each other.
    assert not difference(Counter(frames), arrived.multiset())


def test_internal_port_and_tap(switch: Switch) -> None:
    a, internal, tap = switch.add_host("a"), switch.add_internal("int0"), switch.add_tap("tap0")
    switch.learn(a, internal, tap)
    tap.clear()
    with a.capture() as arrived, internal.capture() as inside:
        internal.send([udp_frame(internal, a, b"1")])
        arrived.wait_count(1)
        tap.send([udp_frame(tap, a, b"2")])
        arrived.wait_count(2)
        a.send([udp_frame(a, internal, b"3"), udp_frame(a, tap, b"4")])
        inside.wait_count(1)
        tap.wait_count(1)
    assert arrived.frames() == [udp_frame(internal, a, b"1"), udp_frame(tap, a, b"2")]
    assert inside.frames() == [udp_frame(a, internal, b"3")]
    assert tap.frames() == [udp_frame(a, tap, b"4")]


def test_bond_forwards(switch: Switch) -> None:
    a = switch.add_host("a")
    bond = switch.add_bond("bond0", ["p", "q"], bond_mode="active-backup")
    with bond.members[0].capture() as first, bond.members[1].capture() as second:
        frame = udp_frame(a, bond.members[0], b"x")
        a.send([frame])
        first.wait_quiet()
        second.wait_quiet()
    assert first.frames() + second.frames() == [frame]


def test_capture_tells_directions_apart() -> None:
    with Switch() as switch:
        a, b = switch.add_host("a", bridge=None), switch.add_host("b", bridge=None)
        ours, theirs = [udp_frame(a, b, b"out")], [udp_frame(b, a, b"in")]
        with (
            Capture.of(a, Direction.IN) as inward,
            Capture.of(a, Direction.OUT) as outward,
            Capture.of(a, Direction.BOTH, only=lambda frame: frame in ours) as chosen,
        ):
            send(a, ours)
            send(_Device(switch.ns, "a0"), theirs)
            for capture in (inward, outward, chosen):
                capture.wait_count(1)
                capture.wait_quiet()
    assert inward.frames() == theirs
    assert outward.frames() == chosen.frames() == ours
    assert [record.outgoing for record in chosen.records()] == [True]
    assert abs(chosen.records()[0].time_ns - time.time_ns()) < 3600e9


def test_capture_that_loses_frames_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovs_ebpf_tap.lab.capture._CAPTURE_BUFFER", 2048)
    with Switch() as switch:
        a = switch.add_host("a", bridge=None)
        capture = Capture.of(a, Direction.OUT)
        with pytest.raises(CaptureLossError, match="lost"), capture:
            send(a, [udp_frame(a, a, bytes(1400))] * 3000)
        with pytest.raises(CaptureLossError):
            capture.frames()


def test_daemons_restart(switch: Switch) -> None:
    a, b = switch.add_host("a"), switch.add_host("b")
    first = switch.vswitchd_pid()
    switch.restart_vswitchd()
    second = switch.vswitchd_pid()
    switch.kill_vswitchd()
    assert switch.vswitchd_pid() is None
    switch.vsctl("set", "Bridge", "br0", "external_ids:a=b")
    switch.start_vswitchd()
    assert None not in (first, second)
    assert first != second
    switch.kill_ovsdb()
    switch.start_ovsdb()
    switch.restart_ovsdb()
    switch.wait_until("Bridge", "br0", "external_ids:a=b")
    assert ping(a, b) == 3
    assert "starting" not in switch.vsctl("show")
    assert switch.ofport(a) > 0
    assert "br0" in switch.dpctl("show")
    assert "NORMAL" in switch.ofctl("dump-flows", "br0")
    assert switch.vswitchd_log()


def test_a_port_that_fails_is_an_error(switch: Switch) -> None:
    with pytest.raises(RuntimeError, match="nothing0"):
        switch._add_port("br0", "nothing0", {})
    with pytest.raises(CommandError, match="does not contain a column"):
        switch.set_columns("Bridge", "br0", nonsense=1)


def test_nothing_is_left_behind() -> None:
    with Switch() as switch:
        switch.add_bridge()
        a, b = switch.add_host("a"), switch.add_host("b")
        switch.add_tap("tap0")
        Stream(a, b).start()
        daemon = ("setsid", "--fork", "tail", "-f", f"{switch.rundir}/conf.db")
        a.ns.popen(*daemon, stdout=subprocess.DEVNULL).wait()
        made = (switch.ns, a.ns, b.ns, switch.rundir)
        assert len(_traces(*made)) >= len(made) + 3
    assert _traces(*made) == []
    switch.close()


def test_nothing_is_left_behind_after_an_exception() -> None:
    made: list[Netns | Path] = []

    def fail() -> None:
        with Switch() as switch:
            switch.add_bridge()
            a = switch.add_host("a")
            made.extend([switch.ns, a.ns, switch.rundir])
            with a.capture(), Stream(a, a):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert _traces(*made) == []


def test_a_switch_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    switch = Switch(schema=tmp_path / "none")
    with pytest.raises(CommandError):
        switch.open()
    assert _traces(switch.ns, switch.rundir) == []


def test_reap_removes_what_a_killed_run_left() -> None:
    prefix = f"{PREFIX}-test-reap"
    crash = (
        "import os, signal\n"
        "from ovs_ebpf_tap.lab.switch import Switch\n"
        f"switch = Switch('x', prefix={prefix!r})\n"
        "switch.open()\n"
        "switch.add_host('h', bridge=None)\n"
        "print(switch.rundir, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = os.pathsep.join(sys.path)
    crashed = subprocess.run(
        [sys.executable, "-c", crash],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    rundir = Path(crashed.stdout.strip())
    with Netns("alive", prefix) as alive:
        assert len(_traces(rundir)) == 3
        assert len(reap(prefix)) == 3
        assert alive.path.exists()
        assert reap(prefix) == []
    assert _traces(rundir) == []


def test_namespace_runs_things_inside() -> None:
    with Netns("n") as ns:
        assert "lo" in ns.run("ip", "-br", "link").stdout
        assert ns.run("ip", "-6", "-br", "address").stdout == ""
        assert ns.run("cat", stdin="text").stdout == "text"
        assert ns.run("sh", "-c", "echo $A", env={"A": "b"}).stdout == "b\n"
        assert ns.run("false", check=False).returncode == 1
        with pytest.raises(CommandError, match="exit status 1"):
            ns.run("false")
        with pytest.raises(subprocess.TimeoutExpired):
            ns.run("sleep", "1000", timeout=0.1)
        with pytest.raises(ZeroDivisionError):
            ns.call(lambda: 1 // 0)
        child = ns.popen("sleep", "1000")
    assert child.returncode is not None
    ns.close()


@dataclass(frozen=True)
class _Device:
    ns: Netns
    device: str


def _traces(*made: Netns | Path) -> list[str]:
    """What is still there of these namespaces and directories, and who has a directory open."""
    paths = [thing.path if isinstance(thing, Netns) else thing for thing in made]
    there = [str(path) for path in paths if path.exists()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            command = process.read_text()
            if any(str(path) in command for path in paths):
                there.append(command)
    return there
