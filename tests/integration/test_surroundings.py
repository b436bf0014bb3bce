"""Bad surroundings get one clear line, no traceback, and leave nothing half done."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ovs_ebpf_tap
from faults.guests import index_of, make_device, remove_device
from ovs_ebpf_tap.daemon import control
from ovs_ebpf_tap.ebpf.build import build_id
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import arp_request, sequenced
from ovs_ebpf_tap.lab.ovs_daemons import SCHEMA
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from talking import Trio

PACKAGE = Path(ovs_ebpf_tap.__path__[0]).parent
FRAMES = 20


def assert_refused(
    switch: Switch, tap: SidecarProcess, done: subprocess.CompletedProcess[str], *words: str
) -> None:
    """Asserts exit status 1, one line that says what to do, and that nothing is left behind."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert_one_line(done.stderr, *words)
    assert_nothing_left(switch, tap)


def assert_one_line(said: str, *words: str) -> None:
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1, said
    assert said.startswith("ovs-ebpf-tap: ")
    for word in words:
        assert word in said


def assert_nothing_left(switch: Switch, tap: SidecarProcess) -> None:
    assert not tap.pin_dir.exists(), sorted(tap.pin_dir.rglob("*"))
    assert not tap.run_dir.exists(), sorted(tap.run_dir.rglob("*"))
    assert hook_count(switch) == 0


def under(
    switch: Switch, wrapper: tuple[str, ...], command: list[str], **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command of ours to its end by way of another program."""
    return switch.ns.run(
        *wrapper, *command, check=False, timeout=60, env={"PYTHONPATH": str(PACKAGE), **env}
    )


def times_copied(sender: Host, receiver: Host, output: Host) -> int:
    """How often a frame sent is seen at the output, which has to be the same for all."""
    sender.send([sequenced(sender, receiver, 2, 0)])  # Makes the flow.
    with Capture.of(output) as capture:
        sender.send(sequenced(sender, receiver, 1, number) for number in range(FRAMES))
        capture.wait_quiet(0.2)
        counts = Counter(capture.sequences(1))
    times = {counts[number] for number in range(FRAMES)}
    assert len(times) == 1, counts
    return times.pop()


def wait_passes(sender: Host, receiver: Host) -> None:
    """Waits until frames get through the switch, both ways."""

    def passes(one: Host, other: Host) -> bool:
        with Capture.of(other) as capture:
            one.send([arp_request(one, one.ip), sequenced(one, other, 9, 0)])
            capture.wait_quiet(0.1)
            return bool(capture.sequences(9))

    wait_for(lambda: passes(sender, receiver) and passes(receiver, sender), 30, "forwarding")


# Rights.


@pytest.mark.parametrize("command", [["run"], ["status"], ["release", "--all"]])
def test_not_root(switch: Switch, idle: SidecarProcess, command: list[str]) -> None:
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    done = under(switch, nobody, idle.command(*command))
    words = ("Permission denied",) if command == ["status"] else ("not root",)
    assert_refused(switch, idle, done, *words)


def test_root_without_capabilities(switch: Switch, idle: SidecarProcess) -> None:
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
    done = under(switch, powerless, idle.command("run"))
    assert_refused(switch, idle, done, "not allowed to load BPF programs", "run as root")


# Usage.


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["start"],
        ["run", "--attach", "xdp"],
        ["run", "--on-exit", "burn"],
        ["run", "m1"],
        ["status", "--yaml"],
        ["release", "--all", "m1"],
    ],
)
def test_wrong_usage(switch: Switch, idle: SidecarProcess, arguments: list[str]) -> None:
    done = switch.ns.run(*idle.command("status")[:3], *arguments, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: ovs-ebpf-tap" in done.stderr
    assert "Traceback" not in done.stderr
    assert_nothing_left(switch, idle)


@pytest.mark.parametrize("remote", ["", "nonsense", "unix:", "unix:/nowhere/db.sock", "tcp:::"])
def test_unusable_database_address(switch: Switch, idle: SidecarProcess, remote: str) -> None:
    done = idle.run("status", "--ovsdb", remote)
    assert_refused(switch, idle, done)


# The database.


def waits(tap: SidecarProcess) -> int:
    """How often it has said that it waits."""
    return sum("database not there" in line for line in tap.log().splitlines())


def assert_waits(tap: SidecarProcess, lines: int) -> None:
    """Asserts that it says so, one line each time, and goes on waiting."""
    wait_for(lambda: waits(tap) >= lines or not is_running(tap), 60, "a sidecar that waits")
    assert is_running(tap), tap.log()
    assert "Traceback" not in tap.log()
    assert all("event=" in line for line in tap.log().splitlines()), tap.log()
    assert "event=ready" not in tap.log()


def is_running(tap: SidecarProcess) -> bool:
    return tap.process is not None and tap.process.poll() is None


def test_database_that_comes_later(switch: Switch, trio: Trio, idle: SidecarProcess) -> None:
    a, b, m = trio
    switch.stop_ovsdb()
    assert_refused(switch, idle, idle.run("status"), "cannot connect to", switch.db)
    assert_refused(switch, idle, idle.release(), "cannot connect to", switch.db)
    idle.start(ready=False)
    assert_waits(idle, 4)
    pauses = [
        float(word.partition("=")[2])
        for line in idle.log().splitlines()
        for word in line.split()
        if word.startswith("again_in_seconds=")
    ]
    assert pauses[3] > pauses[0]
    assert_one_line(idle.run("status").stderr, "cannot connect to")
    assert_one_line(idle.release().stderr, "cannot connect to")
    switch.start_ovsdb()
    wait_for(lambda: "event=ready" in idle.log(), 30, "a ready sidecar")
    idle.wait_state("m1", "offloaded", 30)
    assert times_copied(a, b, m) == 1
    assert "Traceback" not in idle.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end_while_waiting(switch: Switch, idle: SidecarProcess, number: signal.Signals) -> None:
    switch.stop_ovsdb()
    idle.start(ready=False)
    assert_waits(idle, 2)
    assert idle.stop(number) == 0
    assert "Traceback" not in idle.log()
    assert not idle.run_dir.exists()
    assert hook_count(switch) == 0


@contextlib.contextmanager
def silent_socket(path: Path) -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen(50)
        yield f"unix:{path}"


def test_database_that_never_answers(switch: Switch, tmp_path: Path) -> None:
    with silent_socket(tmp_path / "db.sock") as remote:
        tap = SidecarProcess(switch, "--ovsdb", remote)
        try:
            for command in (["status"], ["release", "--all"]):
                done = tap.run(*command, "--ovsdb", remote)
                assert_refused(switch, tap, done, remote, "does not answer")
            tap.start(ready=False)
            assert_waits(tap, 1)
            assert tap.stop() == 0
            assert "Traceback" not in tap.log()
            assert not tap.run_dir.exists()
        finally:
            tap.close()


def broken_schema(name: str, without: str | None) -> str:
    """Open vSwitch's schema with another name, or without a table and what refers to it."""
    schema = json.loads(SCHEMA.read_text())
    schema["name"] = name
    if without is not None:
        del schema["tables"][without]
        references = schema["tables"]["Bridge"]["columns"]["mirrors"]["type"]
        references["key"] = "uuid"
    return json.dumps(schema)


@contextlib.contextmanager
def database(switch: Switch, directory: Path, schema: str) -> Iterator[str]:
    """A real ovsdb-server with a schema of ours; gives its address."""
    (directory / "schema").write_text(schema)
    switch.ns.run("ovsdb-tool", "create", str(directory / "db"), str(directory / "schema"))
    path = directory / "db.sock"
    server = switch.ns.popen(
        "ovsdb-server",
        str(directory / "db"),
        f"--remote=punix:{path}",
        f"--unixctl={directory}/ctl",
        "-vconsole:off",
        "-vsyslog:off",
    )
    try:
        wait_for(path.exists, what="the database")
        yield f"unix:{path}"
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("command", [["run"], ["status"], ["release", "--all"]])
@pytest.mark.parametrize(
    ("name", "without", "words"),
    [
        ("Open_vSwitch", "Mirror", ("table Mirror",)),
        ("Other", None, ("no database Open_vSwitch", "is it Open vSwitch's socket?")),
    ],
)
def test_another_database(
    switch: Switch,
    idle: SidecarProcess,
    tmp_path: Path,
    name: str,
    without: str | None,
    words: tuple[str, ...],
    command: list[str],
) -> None:
    with database(switch, tmp_path, broken_schema(name, without)) as remote:
        done = idle.run(*command, "--ovsdb", remote)
        assert_refused(switch, idle, done, remote, *words)


def test_database_without_rows(switch: Switch, idle: SidecarProcess, tmp_path: Path) -> None:
    """Nobody has run `ovs-vsctl init` yet: there are no mirrors, which is no error."""
    with database(switch, tmp_path, SCHEMA.read_text()) as remote:
        done = idle.run("status", "--json", "--ovsdb", remote)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


# The kernel's side.


def test_no_bpffs_is_mounted(switch: Switch, trio: Trio, idle: SidecarProcess) -> None:
    """In a mount namespace of its own, which shows nobody else what is mounted in it."""
    a, b, m = trio
    private = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
    script = 'while umount -l /sys/fs/bpf 2>/dev/null; do :; done; exec "$@"'
    with idle.log_file.open("a") as log:
        idle.process = switch.ns.popen(
            *private,
            script,
            "sh",
            *idle.command("run"),
            stderr=log,
            stdout=log,
            env={"PYTHONPATH": str(PACKAGE)},
        )
    wait_for(lambda: "event=ready" in idle.log() or not is_running(idle), 60, "a ready sidecar")
    assert is_running(idle), idle.log()
    mounts = Path(f"/proc/{idle.process.pid}/mounts").read_text()
    assert " /sys/fs/bpf bpf " in mounts
    assert not idle.pin_dir.exists()
    idle.wait_state("m1", "offloaded")
    assert times_copied(a, b, m) == 1
    there = ("nsenter", "--mount", f"--target={idle.process.pid}")
    done = under(switch, there, idle.command("release", "--all"))
    assert done.returncode == 0, done.stderr
    assert idle.process.wait(patience(20)) == 0
    assert times_copied(a, b, m) == 1
    assert_nothing_left(switch, idle)


def test_bpffs_that_cannot_be_mounted(switch: Switch, idle: SidecarProcess, tmp_path: Path) -> None:
    """/sys is hidden, so there is no directory to mount one on."""
    private = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
    script = (
        'while umount -l /sys/fs/bpf 2>/dev/null; do :; done; mount --bind "$0" /sys/fs && "$@"'
    )
    done = under(switch, (*private, script, str(tmp_path)), idle.command("run"))
    assert_refused(switch, idle, done, "no bpffs at /sys/fs/bpf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exists", [True, False])
def test_pin_directory_that_is_on_no_bpffs(
    switch: Switch, idle: SidecarProcess, tmp_path: Path, exists: bool
) -> None:
    place = tmp_path / "pins"
    if exists:
        place.mkdir()
    done = idle.run("run", "--pin-dir", str(place))
    assert_refused(switch, idle, done, str(place), "is not on a bpffs", "mount -t bpf")
    assert place.exists() == exists


def test_pin_directory_that_is_a_file(switch: Switch, idle: SidecarProcess, tmp_path: Path) -> None:
    place = tmp_path / "pins"
    place.write_text("mine")
    done = idle.run("run", "--pin-dir", str(place))
    assert_refused(switch, idle, done, str(place))
    assert place.read_text() == "mine"


@pytest.mark.parametrize("command", [["run"], ["status"], ["release", "--all"]])
def test_run_directory_that_is_a_file(
    switch: Switch, idle: SidecarProcess, tmp_path: Path, command: list[str]
) -> None:
    place = tmp_path / "run"
    place.write_text("mine")
    done = idle.run(*command, "--run-dir", str(place))
    if command == ["status"]:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert_refused(switch, idle, done, str(place))
    assert place.read_text() == "mine"


def test_bcc_is_missing(switch: Switch, idle: SidecarProcess, tmp_path: Path) -> None:
    stub = tmp_path / "bcc"
    stub.mkdir()
    (stub / "__init__.py").write_text("raise ImportError('no bcc here')\n")
    without = {"PYTHONPATH": f"{tmp_path}:{PACKAGE}", "CACHE_DIRECTORY": str(tmp_path / "cache")}
    done = under(switch, (), idle.command("run"), **without)
    assert_refused(switch, idle, done, "bcc is missing", "install Debian's python3-bpfcc")


@pytest.mark.parametrize("kept", ["", "{", '{"maps": {}, "codes": {}}'])
def test_what_was_compiled_is_kept_or_made_anew(
    switch: Switch, idle: SidecarProcess, tmp_path: Path, kept: str
) -> None:
    """A file that is damaged is of no consequence; with one that is whole, bcc is not needed."""
    name = f"{build_id()}.json"
    for place in (tmp_path / "cache" / "programs", tmp_path / "bcc"):
        place.mkdir(parents=True)
    (tmp_path / "cache" / "programs" / name).write_text(kept)
    idle.start(env={"CACHE_DIRECTORY": str(tmp_path / "cache")})
    idle.stop()
    idle.release()
    (tmp_path / "bcc" / "__init__.py").write_text("raise ImportError('no bcc here')\n")
    without = {"PYTHONPATH": f"{tmp_path}:{PACKAGE}", "CACHE_DIRECTORY": str(tmp_path / "cache")}
    idle.start(env=without)
    assert idle.process is not None


def test_a_second_sidecar_refuses_and_disturbs_nothing(
    switch: Switch, trio: Trio, tap: SidecarProcess
) -> None:
    a, b, m = trio
    tap.wait_state("m1", "offloaded")
    done = tap.run("run")
    assert done.returncode == 1
    assert_one_line(done.stderr, "another ovs-ebpf-tap runs", str(tap.run_dir))
    assert is_running(tap)
    assert tap.status()[0]["state"] == "offloaded"
    assert times_copied(a, b, m) == 1
    assert tap.release().returncode == 0  # The first one's socket is still its own.
    assert_nothing_left(switch, tap)


# What is asked for can't be done.


@pytest.mark.parametrize("mode", ["fast", "Offload", "", "native "])
def test_mode_that_does_not_exist(
    switch: Switch, trio: Trio, tap: SidecarProcess, mode: str
) -> None:
    a, b, m = trio
    tap.wait_state("m1", "offloaded")
    switch.vsctl("set", "Mirror", "m1", f"external_ids:ebpf-tap-mode={json.dumps(mode)}")
    tap.wait_settled("m1", "native")
    reason = tap.reason("m1") or ""
    assert "ebpf-tap-mode" in reason
    assert repr(mode) in reason
    lines = [line for line in tap.log().splitlines() if "mirror not offloaded" in line]
    assert len(lines) == 1
    assert "ebpf-tap-mode" in lines[0]
    assert "m1" in lines[0]
    wait_for(lambda: hook_count(switch) == 0, what="no hooks")
    assert times_copied(a, b, m) == 1
    tap.offload("m1")
    assert times_copied(a, b, m) == 1


@pytest.mark.parametrize("names", [["nobody"], ["m1", "nobody"]])
def test_release_of_a_mirror_that_does_not_exist(
    switch: Switch, trio: Trio, tap: SidecarProcess, names: list[str]
) -> None:
    tap.wait_state("m1", "offloaded")
    done = tap.release(*names)
    assert done.returncode == 1
    assert_one_line(done.stderr, "no mirror nobody")
    assert tap.state("m1") == "offloaded"
    assert "ebpf-tap-mode" not in tap.external_ids("m1")


# Ports and devices that come and go.


def hooks(tap: SidecarProcess) -> set[str]:
    """The devices that mirrors have hooks on."""
    return {hook.partition(":")[0] for row in tap.status() for hook in row["hooks"]}


def wait_hooks(tap: SidecarProcess, *devices: str) -> None:
    wait_for(lambda: hooks(tap) == set(devices), 15, f"hooks on {devices}")


def set_ports(switch: Switch, **columns: Host) -> None:
    """Sets references of mirror m1 to ports."""
    gets = [
        word for c, h in columns.items() for word in (f"--id=@{c}", "get", "Port", h.port, "--")
    ]
    switch.vsctl("--", *gets, "set", "Mirror", "m1", *(f"{c}=@{c}" for c in columns))


def test_source_and_destination_ports_that_are_removed(switch: Switch, tap: SidecarProcess) -> None:
    a, b, c, m = (switch.add_host(name, with_ip=False) for name in "abcm")
    switch.learn(a, b, c)
    switch.mirror("m1", src=[a, c], dst=[b], output=m)
    tap.wait_state("m1", "offloaded")
    wait_hooks(tap, "a0", "b0", "c0")
    switch.vsctl("del-port", "br0", a.port)
    wait_hooks(tap, "b0", "c0")
    assert times_copied(c, b, m) == 1
    switch.vsctl("del-port", "br0", b.port)
    wait_hooks(tap, "c0")
    assert times_copied(c, a, m) == 1
    switch.vsctl("del-port", "br0", c.port)  # The mirror selects nothing now, as OVS sees it.
    wait_hooks(tap)
    wait_for(lambda: hook_count(switch) == 0, what="no hooks")
    for host in (a, b):
        switch.vsctl("add-port", "br0", host.port)
    wait_passes(a, b)
    assert times_copied(a, b, m) == 0
    set_ports(switch, select_src_port=a)
    wait_hooks(tap, "a0")
    tap.wait_state("m1", "offloaded")
    assert times_copied(a, b, m) == 1
    assert "Traceback" not in tap.log()


def test_output_port_that_is_removed(switch: Switch, trio: Trio, tap: SidecarProcess) -> None:
    a, b, m = trio
    tap.wait_state("m1", "offloaded")
    switch.vsctl("del-port", "br0", m.port)
    tap.wait_state("m1", "invalid")
    assert "output_port" in (tap.reason("m1") or "")
    wait_hooks(tap)
    wait_for(lambda: hook_count(switch) == 0, what="no hooks")
    assert switch.get("Mirror", "m1", "select_vlan") == "[]"
    assert times_copied(a, b, m) == 0
    switch.vsctl("add-port", "br0", m.port)
    set_ports(switch, output_port=m)
    tap.wait_state("m1", "offloaded")
    wait_passes(a, b)
    assert times_copied(a, b, m) == 1
    assert switch.get("Port", m.port, "protected") == "false"
    assert "Traceback" not in tap.log()


@pytest.mark.parametrize("column", ["select_src_port", "select_dst_port"])
def test_selected_device_that_comes_later(
    switch: Switch, trio: Trio, tap: SidecarProcess, column: str
) -> None:
    a, b, m = trio
    switch.vsctl("add-port", "br0", "late0")
    late = Host("late", a.ns, "eth0", "late0", a.mac, a.ip)  # Its port alone, for now.
    switch.vsctl("clear", "Mirror", "m1", "select_src_port", "select_dst_port")
    set_ports(switch, **{column: late})
    wait_hooks(tap)
    late = switch.add_host("late", bridge=None, with_ip=False)
    wait_hooks(tap, "late0")
    tap.wait_state("m1", "offloaded")
    wait_passes(late, b)
    ends = (late, b) if column == "select_src_port" else (b, late)
    assert times_copied(*ends, m) == 1
    assert times_copied(ends[1], ends[0], m) == 0
    assert "Traceback" not in tap.log()


def test_output_device_that_comes_later(switch: Switch, trio: Trio, tap: SidecarProcess) -> None:
    a, b, m = trio
    switch.vsctl("add-port", "br0", "late0")
    set_ports(switch, output_port=Host("late", m.ns, "eth0", "late0", m.mac, m.ip))
    tap.wait_settled("m1", "native")
    assert "has no network device late0" in (tap.reason("m1") or "")
    wait_for(lambda: hook_count(switch) == 0, what="no hooks")
    late = switch.add_host("late", bridge=None, with_ip=False)
    tap.wait_state("m1", "offloaded")
    wait_passes(a, b)
    assert times_copied(a, b, late) == 1
    assert times_copied(b, a, late) == 1
    assert "Traceback" not in tap.log()


def reopen(switch: Switch) -> None:
    """Has OVS use a device that was made anew: its userspace datapath keeps the old socket."""
    switch.restart_vswitchd()


@pytest.mark.parametrize("which", ["source", "destination", "output"])
def test_device_that_goes_and_comes_back(switch: Switch, tap: SidecarProcess, which: str) -> None:
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    switch.mirror("m1", src=[a], dst=[b], output=m)
    tap.wait_state("m1", "offloaded")
    assert times_copied(a, b, m) == 1
    moved = {"source": a, "destination": b, "output": m}[which]
    for _ in range(2):
        before = index_of(switch, moved.port)
        remove_device(switch, moved)
        if which == "output":
            tap.wait_settled("m1", "native")
            assert "has no network device m0" in (tap.reason("m1") or "")
            wait_hooks(tap)
        elif os.environ.get("OVS_EBPF_TAP_DATAPATH") == "system":
            wait_hooks(tap, *({"a0", "b0"} - {moved.port}))
        else:
            tap.wait_settled("m1", "native")
            assert "is gone, and Open vSwitch still has it" in (tap.reason("m1") or "")
            wait_hooks(tap)
        make_device(switch, moved)
        assert index_of(switch, moved.port) != before
        reopen(switch)
        wait_hooks(tap, "a0", "b0")
        tap.wait_state("m1", "offloaded")
        wait_passes(a, b)
        assert times_copied(a, b, m) == 1
        assert times_copied(b, a, m) == 0
    assert "Traceback" not in tap.log()


def test_device_that_comes_back_before_anybody_looks(
    switch: Switch, trio: Trio, tap: SidecarProcess
) -> None:
    """Another ifindex from one pass to the next, with no pass in between that saw it gone."""
    a, b, m = trio
    tap.wait_state("m1", "offloaded")
    for host in (a, m):
        before = index_of(switch, host.port)
        assert tap.process is not None
        tap.process.send_signal(signal.SIGSTOP)
        remove_device(switch, host)
        make_device(switch, host)
        tap.process.send_signal(signal.SIGCONT)
        assert index_of(switch, host.port) != before
        reopen(switch)
        wait_passes(a, b)
        wait_for(lambda: copies_seen(a, b, m), 15, "copies")
        tap.wait_state("m1", "offloaded")
        assert times_copied(a, b, m) == 1
        assert times_copied(b, a, m) == 1
    assert "Traceback" not in tap.log()


def copies_seen(sender: Host, receiver: Host, output: Host) -> bool:
    """Whether what is sent is copied at all."""
    with Capture.of(output) as capture:
        sender.send([sequenced(sender, receiver, 3, 0)])
        capture.wait_quiet(0.1)
        return bool(capture.sequences(3))


# Somebody else's noise.


GARBAGE = [
    b"",
    b"\0\xff\xfe garbage",
    b"]",
    b"[]",
    b"{}",
    b'"text"',
    b'{"id":1,"method":"status"',
    b'{"id":1,"method":"nobody","params":[]}',
    b'{"id":1,"method":"status","params":["a","b"]}',
    b'{"id":1,"method":"status","params":[1,{}]}',
    b'{"id":1,"method":"status","params":{}}',
    b'{"id":null,"method":"status","params":[]}',
    b'{"id":1,"result":[],"error":null}',
    b"[" * 5000,
    b'{"a":' * 500,
    b"x" * 300_000,
]


def test_garbage_on_the_control_socket(switch: Switch, trio: Trio, tap: SidecarProcess) -> None:
    a, b, m = trio
    tap.wait_state("m1", "offloaded")
    path = tap.run_dir / "ovs-ebpf-tap.ctl"
    for garbage in GARBAGE:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(patience(0.2))
            client.connect(str(path))
            with contextlib.suppress(OSError):
                client.sendall(garbage)
                client.recv(10_000)
        assert is_running(tap), (garbage[:50], tap.log())
    with contextlib.ExitStack() as stack:  # Many that say nothing and stay.
        for _ in range(20):
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.connect(str(path))
        assert "m1" in switch.appctl("-t", str(path), "status")
    assert "Traceback" not in tap.log()
    assert tap.state("m1") == "offloaded"
    assert times_copied(a, b, m) == 1
    assert tap.release().returncode == 0
    assert_nothing_left(switch, tap)


def test_one_that_does_not_answer(
    switch: Switch, trio: Trio, tap: SidecarProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_ANSWER", 0.5)
    assert tap.process is not None
    tap.process.send_signal(signal.SIGSTOP)
    with pytest.raises(TapError, match="did not answer in"):
        control.call(tap.run_dir, "release")
    tap.kill()
    assert control.call(tap.run_dir, "release") is None
    assert tap.release().returncode == 0
    assert_nothing_left(switch, tap)


# Open vSwitch's own restarts.


def restart_all(switch: Switch) -> None:
    switch.stop_vswitchd()
    switch.restart_ovsdb()
    switch.start_vswitchd()


def crash_all(switch: Switch) -> None:
    switch.kill_vswitchd()
    switch.kill_ovsdb()
    switch.start_ovsdb()
    switch.start_vswitchd()


def crash_vswitchd(switch: Switch) -> None:
    switch.kill_vswitchd()
    switch.start_vswitchd()


RESTARTS: list[Callable[[Switch], None]] = [
    Switch.restart_vswitchd,
    crash_vswitchd,
    Switch.restart_ovsdb,
    restart_all,
    crash_all,
]


@pytest.mark.parametrize("restart", RESTARTS, ids=lambda restart: restart.__name__)
def test_restart_of_open_vswitch(
    switch: Switch, trio: Trio, tap: SidecarProcess, restart: Callable[[Switch], None]
) -> None:
    a, b, m = trio
    tap.wait_state("m1", "offloaded")
    devices = hooks(tap)
    for _ in range(2):
        restart(switch)
        tap.wait_state("m1", "offloaded", 30)
        wait_passes(a, b)
        assert is_running(tap), tap.log()
        assert hooks(tap) == devices
        assert switch.get("Mirror", "m1", "select_vlan").strip("[]") == "4095"
        assert times_copied(a, b, m) == 1
        assert times_copied(b, a, m) == 1
    # It still listens to the database, and OVS to it.
    wait_moves(tap, "native")
    assert times_copied(a, b, m) == 1
    wait_moves(tap, "offload")
    assert times_copied(a, b, m) == 1
    assert switch.get("Port", m.port, "protected") == "false"
    assert "Traceback" not in tap.log()


def wait_moves(tap: SidecarProcess, mode: str) -> None:
    """Flips the mode; after a restart the sidecar may take a while to reconnect."""
    tap.set_mode("m1", mode)
    tap.wait_settled("m1", "offloaded" if mode == "offload" else "native", 30)


def wakes(tap: SidecarProcess) -> int:
    """How often it went to sleep so far."""
    assert tap.process is not None
    status = Path(f"/proc/{tap.process.pid}/status").read_text().split()
    return int(status[status.index("voluntary_ctxt_switches:") + 1])


def test_database_that_goes_while_it_runs(switch: Switch, trio: Trio, tap: SidecarProcess) -> None:
    a, b, m = trio
    tap.wait_state("m1", "offloaded")
    switch.stop_ovsdb()
    before = wakes(tap)
    time.sleep(patience(1))
    assert wakes(tap) - before < patience(100)
    assert is_running(tap)
    assert times_copied(a, b, m) == 1
    assert tap.stop() == 0
    assert "Traceback" not in tap.log()
    assert times_copied(a, b, m) == 1
    switch.start_ovsdb()
    tap.start()
    tap.wait_state("m1", "offloaded", 30)
    assert times_copied(a, b, m) == 1


def test_log_has_one_line_an_event(tap: SidecarProcess) -> None:
    lines = tap.log().splitlines()
    assert all(line.startswith("timestamp=") for line in lines), lines
    assert os.linesep.join(lines).count("event=ready") == 1
