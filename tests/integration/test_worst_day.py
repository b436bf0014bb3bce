"""Mirrors that are parked where no sidecar copies: one command gives them back to Open vSwitch.

`release --all`, where the sidecar can't run, and `scripts/restore`, where it is gone.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

import ovs_ebpf_tap
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.differences import stream_difference
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import wait_for
from talking import Trio, add_trio, copies_of, wait_for_copies

PACKAGE = Path(ovs_ebpf_tap.__path__[0]).parent
RESTORE = PACKAGE / "scripts" / "restore"

# Somebody else's keys, which stay as they are.
OTHERS = {'a "b" $(id) `id`': "'; \\ \n\x01\x7f%s*~é\u2028", "ebpf-tap-of-theirs": ""}

Done = subprocess.CompletedProcess[str]
Undo = Callable[[SidecarProcess], Done]


def release(tap: SidecarProcess) -> Done:
    return tap.release()


def restore(tap: SidecarProcess, *options: str) -> Done:
    places = ("--run-dir", str(tap.run_dir), "--pin-dir", str(tap.pin_dir))
    return tap.switch.ns.run(str(RESTORE), *places, *options, env=tap.switch.env, check=False)


UNDO = pytest.mark.parametrize("undo", [release, restore])


def set_ids(switch: Switch, mirror: str, ids: dict[str, str]) -> None:
    """Writes keys of any letters, past ovs-vsctl's syntax."""
    where = [["name", "==", mirror]]
    change = ["external_ids", "insert", ["map", [list(each) for each in ids.items()]]]
    transact(switch, {"op": "mutate", "table": "Mirror", "where": where, "mutations": [change]})


def transact(switch: Switch, operation: dict[str, object]) -> None:
    request = json.dumps(["Open_vSwitch", operation])
    answer = switch.ns.run("ovsdb-client", "transact", switch.db, request).stdout
    assert "error" not in answer, answer


def ids_of(tap: SidecarProcess, mirror: str) -> dict[str, str]:
    """The keys of a row but for those that `release` sets or leaves."""
    found = tap.external_ids(mirror)
    kept = ("ebpf-tap-mode", "ebpf-tap-counted")
    return {key: value for key, value in found.items() if key not in kept}


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A database with m1 and m2 parked, of a switch that is no more."""
    path = tmp_path / "conf.db"
    with Switch("before") as before:
        before.add_bridge()
        a, _, _ = add_trio(before)
        n = before.add_host("n", with_ip=False)
        before.mirror("m2", src=[a], output=n, select_vlan=[20, 10])
        set_ids(before, "m2", OTHERS)
        with SidecarProcess(before) as tap:
            tap.wait_state("m1", "offloaded")
            tap.wait_state("m2", "offloaded")
            tap.kill()
            before.backup(path)
    return path


@pytest.fixture
def rebooted(backup: Path) -> Iterator[SidecarProcess]:
    """A sidecar that is not started, beside a switch with that database."""
    with Switch("after", database=backup) as after:
        for name in "abmn":
            after.add_host(name, bridge=None, with_ip=False)
        for name in "abmn":
            after.wait_until("Interface", f"{name}0", "ofport>0")
        after.learn(*(after.hosts[name] for name in "ab"))
        tap = SidecarProcess(after)
        try:
            yield tap
        finally:
            tap.close()


def trio(tap: SidecarProcess) -> Trio:
    a, b, m = (tap.switch.hosts[name] for name in "abm")
    return a, b, m


def assert_given_back(tap: SidecarProcess, done: Done) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    switch = tap.switch
    assert switch.get("Mirror", "m1", "select_vlan") == "[]"
    assert switch.get("Mirror", "m2", "select_vlan") == "[10, 20]"
    assert ids_of(tap, "m1") == {}
    assert ids_of(tap, "m2") == OTHERS
    assert switch.get("Port", "m0", "protected") == "false"
    assert hook_count(switch) == 0
    assert not tap.pin_dir.exists()
    assert not tap.run_dir.exists()
    assert copies_of(*trio(tap)) == 1


@pytest.mark.parametrize("undo", [release, pytest.param(restore, marks=pytest.mark.vm)])
def test_after_a_reboot_without_a_sidecar(rebooted: SidecarProcess, undo: Undo) -> None:
    """The same database on another host, from a backup, is the same to us."""
    assert copies_of(*trio(rebooted)) == 0
    assert all(row["reason"].startswith("nobody copies") for row in rebooted.status())
    asked = rebooted.switch.vsctl("get", "Mirror", "m2", "external_ids:ebpf-tap-select-vlan")
    assert asked == '"10,20"'
    assert_given_back(rebooted, undo(rebooted))


def test_after_a_reboot_with_a_sidecar(rebooted: SidecarProcess) -> None:
    rebooted.start()
    rebooted.wait_state("m1", "offloaded")
    assert copies_of(*trio(rebooted)) == 1
    assert rebooted.switch.get("Mirror", "m2", "external_ids:ebpf-tap-select-vlan") == "10,20"
    assert all(row["reason"] is None for row in rebooted.status())
    assert_given_back(rebooted, rebooted.release())


def test_a_backup_that_is_restored_beside_a_sidecar(
    switch: Switch, tap: SidecarProcess, tmp_path: Path
) -> None:
    """The rows of mirrors that were parked, for one that is not, and for one that is no more."""
    a, b, m = add_trio(switch)
    switch.mirror("m2", src=[a], output=m, select_vlan=[10, 20])
    tap.wait_state("m1", "offloaded")
    tap.wait_state("m2", "offloaded")
    switch.backup(tmp_path / "backup")
    tap.native("m1")
    switch.remove_mirror("m2")
    with (tmp_path / "backup").open() as file:
        command = ("ovsdb-client", "restore", switch.db)
        assert switch.ns.popen(*command, stdin=file, env=switch.env).wait() == 0
    tap.wait_state("m1", "offloaded", 30)
    tap.wait_state("m2", "offloaded", 30)
    wait_for_copies(a, b, m, times=1)
    tap.kill()
    assert tap.release().returncode == 0
    assert switch.get("Mirror", "m2", "select_vlan") == "[10, 20]"
    wait_for_copies(a, b, m, times=1)


@UNDO
def test_while_ovs_vswitchd_is_down(rebooted: SidecarProcess, undo: Undo) -> None:
    rebooted.switch.kill_vswitchd()
    done = undo(rebooted)
    assert done.returncode == 0, done.stderr
    rebooted.switch.start_vswitchd()
    a, b, m = trio(rebooted)
    rebooted.switch.learn(a, b)
    wait_for_copies(a, b, m, times=1)
    assert_given_back(rebooted, done)


# What `release` may lack.

_NO_BPFFS = 'while umount -l /sys/fs/bpf 2>/dev/null; do :; done; exec "$@"'

# Has bpf(2) fail: struct seccomp_data begins with the call's number.
_NO_BPF = """
import ctypes, os, struct, sys
number, error = int(sys.argv[1]), int(sys.argv[2])
steps = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | error), (6, 0, 0, 0x7FFF0000))
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
program = struct.pack("@HP", len(steps), ctypes.addressof(code))
if ctypes.CDLL(None, use_errno=True).prctl(22, 2, program, 0, 0):  # PR_SET_SECCOMP
    raise OSError(ctypes.get_errno(), "prctl")
os.execvp(sys.argv[3], sys.argv[3:])
"""


def without_bpf(error: int) -> tuple[str, ...]:
    return (sys.executable, "-c", _NO_BPF, str(bpf._NUMBER), str(error))


@pytest.mark.parametrize(
    "wrapper",
    [
        (),
        without_bpf(errno.EPERM),
        without_bpf(errno.ENOSYS),
        ("unshare", "--mount", "sh", "-euc", _NO_BPFFS, "sh"),
    ],
    ids=["no_bcc", "no_right_to_use_bpf", "no_bpf", "no_bpffs"],
)
def test_release_where_no_sidecar_can_run(
    rebooted: SidecarProcess, tmp_path: Path, wrapper: tuple[str, ...]
) -> None:
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("raise ImportError('no bcc here')\n")
    done = rebooted.switch.ns.run(
        *wrapper,
        *rebooted.command("release", "--all"),
        env={"PYTHONPATH": f"{tmp_path}:{PACKAGE}", "CACHE_DIRECTORY": str(tmp_path / "cache")},
        check=False,
    )
    assert_given_back(rebooted, done)


@pytest.mark.parametrize("attach", attachments())
def test_hooks_of_one_that_may_not_use_bpf_any_more(switch: Switch, attach: str) -> None:
    """Whose the qdisc is, its filters say, too."""
    a, b, m = add_trio(switch)
    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.wait_state("m1", "offloaded")
        tap.kill()
        command = (*without_bpf(errno.EPERM), *tap.command("release", "--all"))
        done = switch.ns.run(*command, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "m1: native\n"
        wait_for(lambda: hook_count(switch) == 0, what="no hooks")
        assert not tap.pin_dir.exists()
        assert copies_of(a, b, m) == 1


# What a row may hold.


@UNDO
@pytest.mark.parametrize(
    ("kept", "vlans"),
    [
        ("", "[]"),
        ("20,10", "[10, 20]"),
        ("0010,10,10", "[10]"),
        (" 7 ,8", "[7, 8]"),
        ("4095", "[]"),
        ("4095,1", "[1, 4095]"),
        ("4096,99999,-1,0x10,1e3,08", "[8]"),
        ('3,$(touch /tmp/x),"; --,é\n\x01\u2028,4', "[3, 4]"),
        ("\\" * 3 + '"', "[]"),
        (",".join(str(number) for number in range(1, 4095)), None),
    ],
)
def test_kept_vlans_of_any_kind(
    switch: Switch, idle: SidecarProcess, undo: Undo, kept: str, vlans: str | None
) -> None:
    switch.add_host("m", with_ip=False)
    switch.mirror("m1", output="m0", select_all=True, select_vlan=4095)
    set_ids(switch, "m1", {**OTHERS, "ebpf-tap-select-vlan": kept})
    done = undo(idle)
    assert done.returncode == 0, done.stderr
    found = switch.get("Mirror", "m1", "select_vlan")
    assert found == (vlans or f"[{kept.replace(',', ', ')}]")
    assert ids_of(idle, "m1") == OTHERS


@UNDO
def test_names_of_any_kind(switch: Switch, idle: SidecarProcess, undo: Undo) -> None:
    name = "-- $(id)\n\x1b[2J\"'\\"
    switch.add_host("m", with_ip=False)
    switch.mirror("m1", output="m0", select_all=True, select_vlan=4095)
    row = {"name": name}
    transact(
        switch, {"op": "update", "table": "Mirror", "where": [["name", "==", "m1"]], "row": row}
    )
    done = undo(idle)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert len([line for line in done.stdout.splitlines() if "id" in line]) == 1
    uuid = switch.vsctl("--bare", "--columns=_uuid", "list", "Mirror")
    assert switch.get("Mirror", uuid, "select_vlan") == "[]"


@UNDO
@pytest.mark.parametrize("own", ["true", "false"])
@pytest.mark.parametrize("where", ["output", "other", "gone", "unsaid"])
def test_a_move_that_was_interrupted(
    switch: Switch, idle: SidecarProcess, undo: Undo, own: str, where: str
) -> None:
    """`protected` of a port is flipped, and what it was is on the Mirror."""
    add_trio(switch)
    port = {"output": "m0", "other": "b0", "gone": "m0", "unsaid": "m0"}[where]
    uuid = str(uuid4()) if where == "gone" else switch.get("Port", port, "_uuid")
    flipped = "false" if own == "true" else "true"
    switch.set_columns("Port", port, protected=flipped)
    note = own if where == "unsaid" else f"{own} {uuid}"
    set_ids(switch, "m1", {"ebpf-tap-protected": note, "ebpf-tap-state": "native"})
    done = undo(idle)
    assert done.returncode == 0, done.stderr
    assert switch.get("Port", port, "protected") == (flipped if where == "gone" else own)
    assert ids_of(idle, "m1") == {}


# The script alone.


@pytest.mark.parametrize("attach", attachments())
def test_restore_removes_hooks_when_ovs_copies(
    switch: Switch, attach: str, figure: Callable[[str], None]
) -> None:
    a, b, m = add_trio(switch)
    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.wait_state("m1", "offloaded")
        tap.kill()
        with Capture.of(m) as copies:
            with Stream(a, b, rate=1000) as stream:
                time.sleep(0.2)
                done = restore(tap)
                time.sleep(0.5)
            copies.wait_quiet()
            result = stream_difference(stream.sent, copies.sequences(stream.stream_id))
        figure(str(result))
        assert done.returncode == 0, done.stderr
        assert not result.missing, str(result)
        wait_for(lambda: hook_count(switch) == 0, what="no hooks")
        assert not tap.pin_dir.exists()
        assert copies_of(a, b, m) == 1


@pytest.mark.parametrize("attach", attachments())
def test_a_dry_run_says_all_and_does_nothing(switch: Switch, attach: str) -> None:
    add_trio(switch)
    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.wait_state("m1", "offloaded")
        tap.kill()

        def found() -> tuple[str, int, list[Path]]:
            return (
                # Open vSwitch writes its own statistics meanwhile.
                switch.vsctl("--columns=select_vlan,external_ids", "list", "Mirror"),
                hook_count(switch),
                sorted(tap.pin_dir.rglob("*")),
            )

        before = found()
        done = restore(tap, "--dry-run")
        assert done.returncode == 0, done.stderr
        assert found() == before
        commands = [line for line in done.stdout.splitlines() if not line.startswith("m1: ")]
        for command in commands:
            switch.ns.run("sh", "-euc", command, env=switch.env)
        assert switch.get("Mirror", "m1", "select_vlan") == "[]"
        wait_for(lambda: hook_count(switch) == 0, what="no hooks")
        assert restore(tap, "--dry-run").stdout.split() == ["ovs-appctl", "revalidator/purge"]


def test_restore_leaves_a_running_sidecar_alone(switch: Switch) -> None:
    add_trio(switch)
    with SidecarProcess(switch) as tap:
        tap.wait_state("m1", "offloaded")
        done = restore(tap)
        assert done.returncode == 1
        assert done.stderr.startswith("restore: ovs-ebpf-tap runs: stop it, or use")
        assert tap.state("m1") == "offloaded"


@pytest.mark.parametrize("arguments", [["--help"], ["--nonsense"], ["--pin-dir"]])
def test_usage_of_restore(switch: Switch, arguments: list[str]) -> None:
    done = switch.ns.run(str(RESTORE), *arguments, check=False, env=switch.env)
    assert done.returncode == (0 if arguments == ["--help"] else 2)
    assert len(done.stderr.splitlines()) == (0 if arguments == ["--help"] else 1)


def test_restore_without_a_database(switch: Switch, idle: SidecarProcess) -> None:
    switch.stop_ovsdb()
    done = restore(idle)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "restore: the database does not answer"
