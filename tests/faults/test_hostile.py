"""What others name, write and send, without any manners: it is seen through, and does no harm."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults.controller import Controller, update
from faults.fault import RATE
from faults.peer import Peer
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.differences import StreamDifference, stream_difference
from ovs_ebpf_tap.lab.frames import udp_frame
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.util.text import LONGEST

MEBIBYTE = 1 << 20

NAMES = [
    "a\nb",
    "\r\n timestamp=2026 level=info event=ready",
    "\x1b[2J\x1b[31m red \x07",
    "\"quotes\" 'and' \\backslashes\\ \t",
    "\u202eright to left\u2066",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "line\u2028paragraph\u2029\x85",
    "\U0001f600" * 20,
    "x" * 100_000,
    "\u6f22" * 40_000,
    "'; DROP TABLE Mirror; --",
    "",
    " ",
]


@dataclass
class Counted:
    """What became of the copies of frames."""

    difference: StreamDifference | None = None

    def assert_none_missing(self) -> None:
        assert self.difference is not None
        assert self.difference.sent
        assert not self.difference.missing, str(self.difference)

    def assert_each_once(self) -> None:
        self.assert_none_missing()
        assert not self.difference, str(self.difference)


@dataclass
class HostileBench:
    """m1 copies what a sends to m."""

    switch: Switch
    tap: SidecarProcess
    a: Host
    b: Host
    m: Host

    @contextlib.contextmanager
    def counted(self) -> Iterator[Counted]:
        """Numbered frames from a to b; what became of their copies is known at the end."""
        result = Counted()
        with Capture.of(self.m) as copies:
            with Stream(self.a, self.b, rate=RATE) as stream:
                yield result
            copies.wait_quiet()
            result.difference = stream_difference(stream.sent, copies.sequences(stream.stream_id))

    def assert_well(self) -> None:
        """Asserts that it still does what it is told, and copies once."""
        self.tap.native("m1")
        self.tap.offload("m1")
        frames = [udp_frame(self.a, self.b, b"%d" % n) for n in range(20)]
        with Capture.of(self.m) as capture:
            self.a.send(frames)
            capture.wait_quiet(0.2)
            assert Counter(capture.frames()) == Counter(frames)

    def memory(self) -> int:
        """Bytes of the sidecar that are in memory."""
        assert self.tap.process is not None
        status = Path(f"/proc/{self.tap.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def seconds(self) -> float:
        """CPU time of the sidecar."""
        assert self.tap.process is not None
        stat = Path(f"/proc/{self.tap.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def log_since(self, before: str) -> list[str]:
        return self.tap.log()[len(before) :].splitlines()


@pytest.fixture(scope="module")
def bench() -> Iterator[HostileBench]:
    """For many tests."""
    with Switch() as switch:
        switch.add_bridge()
        a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
        switch.learn(a, b)
        switch.mirror("m1", src=[a], output=m)
        with SidecarProcess(switch) as tap:
            tap.wait_state("m1", "offloaded")
            yield HostileBench(switch, tap, a, b, m)
            assert_readable(tap.log().splitlines())


def assert_readable(lines: list[str]) -> None:
    """One line an event, and nothing in it that a terminal takes for more than text."""
    for line in lines:
        assert line.startswith("timestamp="), line
        assert line.isprintable(), ascii(line)
        assert len(line) < 20 * LONGEST


# Names.


def test_names_of_any_characters(bench: HostileBench) -> None:
    """Log, status and reasons stay a line each, whatever mirrors and values are called."""
    switch, tap = bench.switch, bench.tap
    with Controller(switch.db) as controller, bench.counted() as result:
        mutations = []
        inserts = []
        for number, name in enumerate(NAMES):
            ids = [["ebpf-tap-mode", name], [name, name], ["ebpf-tap-select-vlan", name]]
            row = {"name": name, "external_ids": ["map", ids], "output_vlan": 7}
            inserts.append(
                {"op": "insert", "table": "Mirror", "row": row, "uuid-name": f"r{number}"}
            )
            mutations.append(["mirrors", "insert", ["named-uuid", f"r{number}"]])
        where: list[object] = [["name", "==", "br0"]]
        change = {"op": "mutate", "table": "Bridge", "where": where, "mutations": mutations}
        controller.write(*inserts, change)
        wait_for(lambda: len(tap.status()) == len(NAMES) + 1, what="all mirrors")

        def judged() -> bool:
            return all(row["reason"] for row in tap.status() if row["name"] != "m1")

        wait_for(judged, what="a reason for each")
        rows = {row["name"]: row for row in tap.status()}
        for name in NAMES:
            assert rows[name]["state"] == "native"
            assert rows[name]["reason"].isprintable()
            assert "neither offload nor native" in rows[name]["reason"]
        table = tap.run("status").stdout
        asked = switch.appctl("-t", str(tap.run_dir / "ovs-ebpf-tap.ctl"), "status")
        for shown in (table, asked):
            lines = shown.splitlines()
            assert len(lines) == len(NAMES) + 2
            assert all(line.isprintable() for line in lines)
            assert max(map(len, lines)) < 40 * LONGEST
        done = switch.ns.run(
            *tap.command("status"), check=False, timeout=60, env={"PYTHONIOENCODING": "ascii"}
        )
        assert (done.returncode, done.stderr) == (0, "")
        for name in NAMES[:4]:
            done = tap.run("release", name + "?")
            assert done.returncode == 1
            assert done.stderr.removesuffix("\n").isprintable()
        delete = [
            [mutation[0], "delete", ["uuid", rows[name]["uuid"]]]
            for mutation, name in zip(mutations, NAMES, strict=True)
        ]
        controller.write({**change, "mutations": delete})
        wait_for(lambda: len(tap.status()) == 1, what="one mirror")
    result.assert_each_once()
    assert_readable(tap.log().splitlines())
    bench.assert_well()


def test_a_bridge_whose_name_is_too_long_for_a_path(bench: HostileBench) -> None:
    """There is no socket to be found for it, nor is one looked for."""
    with Controller(bench.switch.db) as controller:
        for name in ("b" * 150, "b" * 100_000, "a\nb", "..", "\u6f22" * 60):
            mirror = {"name": "x", "output_vlan": 7, "select_all": True}
            bridge = {"name": name, "mirrors": ["named-uuid", "mirror"], "datapath_type": "dummy"}
            root = [["bridges", "insert", ["named-uuid", "bridge"]]]
            controller.write(
                {"op": "insert", "table": "Mirror", "row": mirror, "uuid-name": "mirror"},
                {"op": "insert", "table": "Bridge", "row": bridge, "uuid-name": "bridge"},
                {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": root},
            )
            wait_for(lambda: len(bench.tap.status()) == 2, what="another mirror")
            time.sleep(patience(0.3))
            delete = [["bridges", "delete", ["uuid", _other_bridge(bench.switch)]]]
            controller.write(
                {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": delete}
            )
    assert "pass failed" not in bench.tap.log()
    bench.assert_well()


def _other_bridge(switch: Switch) -> str:
    """The UUID of the bridge that is not br0."""
    found = switch.vsctl("--bare", "--columns=_uuid", "find", "Bridge", "name!=br0")
    return found.strip()


# Very many.


def test_ten_thousand_mirrors_on_another_bridge(
    bench: HostileBench, figure: Callable[[str], None]
) -> None:
    """They take a while, but no copy and no memory without end."""
    count = 10_000
    switch, tap = bench.switch, bench.tap
    memory, seconds, logged = bench.memory(), bench.seconds(), tap.log()
    with Controller(switch.db) as controller, bench.counted() as result:
        mirror = {"select_all": True, "output_vlan": 7}
        inserts = [
            {
                "op": "insert",
                "table": "Mirror",
                "row": {"name": f"many{n}", **mirror},
                "uuid-name": f"r{n}",
            }
            for n in range(count)
        ]
        references = [["named-uuid", f"r{n}"] for n in range(count)]
        bridge = {"name": "many", "datapath_type": "dummy", "mirrors": ["set", references]}
        controller.write(
            *inserts,
            {"op": "insert", "table": "Bridge", "row": bridge, "uuid-name": "bridge"},
            {
                "op": "mutate",
                "table": "Open_vSwitch",
                "where": [],
                "mutations": [["bridges", "insert", ["named-uuid", "bridge"]]],
            },
        )
        wait_for(lambda: tap.log().count("mirror=many") == count, 60, "all judged")
        # It still sees to the others.
        tap.set_mode("m1", "native")
        tap.wait_state("m1", "native", 60)
        delete = [["bridges", "delete", ["uuid", _other_bridge(switch)]]]
        controller.write(
            {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": delete}
        )
        tap.set_mode("m1", "offload")
        tap.wait_state("m1", "offloaded", 60)
    result.assert_none_missing()
    assert "database lost" not in tap.log()[len(logged) :]
    assert bench.memory() - memory < 300 * MEBIBYTE
    assert bench.seconds() - seconds < 60
    assert tap.log().count("mirrors on a bridge, and not this") == count
    figure(f"{bench.seconds() - seconds:.1f} s of CPU, {bench.memory() - memory >> 20} MiB more")
    bench.assert_well()


def test_a_mirror_of_all_vlans_one_by_one(bench: HostileBench) -> None:
    every = ["set", list(range(4096))]
    with Controller(bench.switch.db) as controller, bench.counted() as result:
        controller.write(update("Mirror", "m1", select_vlan=every))
        wait_for(
            lambda: bench.tap.external_ids("m1").get("ebpf-tap-select-vlan", "").count(",") == 4095,
            what="all VLANs",
        )
        bench.tap.wait_state("m1", "offloaded")
        bench.tap.native("m1")
        assert bench.switch.get("Mirror", "m1", "select_vlan").count(",") == 4095
        bench.tap.offload("m1")
        controller.write(update("Mirror", "m1", select_vlan=["set", []]))
        bench.tap.wait_state("m1", "offloaded")
    result.assert_none_missing()


# Peers.


PEERS = {
    "nothing": {"answer": b""},
    "garbage": {"answer": b"\0\xff\xfe garbage \xc3\xa9"},
    "wrong id": {"answer": b'{"id":"another","result":{},"error":null}' * 9},
    "endless text": {"answer": b'{"id":1,"result":"' + b"x" * 60_000, "endless": True},
    "endless objects": {"answer": b'{"method":"x","params":[],"id":null}' * 500, "endless": True},
}


def test_mad_peers_in_the_place_of_the_database(bench: HostileBench) -> None:
    """Hooks stay and copy on; what is wrong is said once each; the right one is taken back."""
    switch, tap = bench.switch, bench.tap
    hooks = hook_count(switch)
    memory = bench.memory()
    path = Path(switch.db.removeprefix("unix:"))
    before = tap.log()
    with bench.counted() as result:
        switch.stop_ovsdb()
        for peer in PEERS.values():
            with Peer(path, **peer) as mad:  # type: ignore[arg-type]
                wait_for(lambda mad=mad: mad.connections, 20, "a try")  # type: ignore[misc]
                time.sleep(patience(0.5))
                assert hook_count(switch) == hooks
        switch.start_ovsdb()
        wait_for(lambda: "database is back" in tap.log()[len(before) :], 30, "the database")
    result.assert_each_once()
    lines = bench.log_since(before)
    assert_readable(lines)
    assert 2 <= len(lines) <= 3 * len(PEERS)
    assert bench.memory() - memory < 300 * MEBIBYTE
    bench.assert_well()


@pytest.mark.parametrize("what", PEERS)
def test_mad_peers_in_the_place_of_ovs_vswitchd(bench: HostileBench, what: str) -> None:
    """Its control socket: moves end, and miss no copy."""
    switch, tap = bench.switch, bench.tap
    path = switch.rundir / f"ovs-vswitchd.{switch.vswitchd_pid()}.ctl"
    with bench.counted() as result, Peer(path, **PEERS[what]) as mad:  # type: ignore[arg-type]
        tap.native("m1")
        tap.offload("m1")
    assert mad.connections
    result.assert_none_missing()
    assert tap.process is not None
    assert tap.process.poll() is None


# The control socket.


def test_callers_without_manners(bench: HostileBench) -> None:
    """They are cut off, or wait; others are served, and copies are made."""
    tap = bench.tap
    path = tap.run_dir / "ovs-ebpf-tap.ctl"
    memory = bench.memory()
    request = json.dumps({"id": 0, "method": "status", "params": []}).encode()
    with contextlib.ExitStack() as stack, bench.counted() as result:

        def connect() -> socket.socket:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(patience(0.5))
            client.connect(str(path))
            return client

        for data in (
            "\u00e9 garbage }".encode(),
            b'{"id":1,"method":"\xff","params":[]}',
            b'{"id":1,"method":"' + b"x" * (4 << 20) + b'","params":[]}',
            request * 5000,
            b'{"id":[[1]],"method":"status","params":[]}',
            b'{"id":1,"method":"\\u001b[2J\\n","params":["\\n"]}',
        ):
            with contextlib.suppress(OSError):
                connect().sendall(data)
        with contextlib.suppress(OSError):
            for _ in range(200):
                connect()
        asked = bench.switch.appctl("-t", str(path), "status")
        assert "m1" in asked
    result.assert_each_once()
    assert bench.memory() - memory < 100 * MEBIBYTE
    assert tap.process is not None
    assert len(list(Path(f"/proc/{tap.process.pid}/fd").iterdir())) < 200
    bench.assert_well()
