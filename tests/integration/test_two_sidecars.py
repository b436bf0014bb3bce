"""Two sidecars beside one database, and hooks that another one has left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from errno import EPERM
from pathlib import Path

import pytest

import ovs_ebpf_tap
from ovs_ebpf_tap.apply import foreign
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.observe.links import list_devices
from ovs_ebpf_tap.observe.ovsdb import LOCK
from talking import Trio, copies_of, wait_for_copies

RESTORE = Path(ovs_ebpf_tap.__path__[0]).parent / "scripts" / "restore"
ATTACH = attachments()

Done = subprocess.CompletedProcess[str]
Undo = Callable[[SidecarProcess], Done]

has_tcx = pytest.mark.skipif("tcx" not in ATTACH, reason="TCX takes Linux 6.6 or later")


def release(tap: SidecarProcess) -> Done:
    return tap.release()


def restore(tap: SidecarProcess) -> Done:
    places = ("--run-dir", str(tap.run_dir), "--pin-dir", str(tap.pin_dir))
    return tap.switch.ns.run(str(RESTORE), *places, env=tap.switch.env, check=False)


UNDO = pytest.mark.parametrize("undo", [release, restore])


@pytest.fixture
def offloaded(trio: Trio, tap: SidecarProcess) -> SidecarProcess:
    """A running sidecar that copies m1."""
    tap.wait_state("m1", "offloaded")
    return tap


@pytest.fixture
def left(offloaded: SidecarProcess) -> SidecarProcess:
    """One that was killed and copies on."""
    offloaded.kill()
    return offloaded


@pytest.fixture
def second(switch: Switch) -> Iterator[SidecarProcess]:
    """Another, with directories of its own beside the same database; it is not started."""
    made = SidecarProcess(switch)
    try:
        yield made
    finally:
        made.close()


# One at a time.


def test_a_second_one_is_refused(
    switch: Switch, trio: Trio, offloaded: SidecarProcess, second: SidecarProcess
) -> None:
    hooks, row = hook_count(switch), offloaded.external_ids("m1")
    done = second.run("run")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"another ovs-ebpf-tap runs beside the database {switch.db}" in line
    assert not second.pin_dir.exists()
    assert not second.run_dir.exists()
    assert (hook_count(switch), offloaded.external_ids("m1")) == (hooks, row)
    assert copies_of(*trio) == 1


def test_one_mirror_released_with_other_directories(
    switch: Switch, trio: Trio, offloaded: SidecarProcess, second: SidecarProcess
) -> None:
    """The second one's pins are there; it may not be the sidecar, not for a moment."""
    offloaded.stop()
    second.start()
    second.wait_state("m1", "offloaded")
    second.stop()
    offloaded.start()
    done = second.release("m1")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "another ovs-ebpf-tap runs beside the database" in line


def test_it_waits_for_one_that_ends(offloaded: SidecarProcess, second: SidecarProcess) -> None:
    second.start(ready=False)
    wait_for(second.run_dir.exists, what="the second one started")
    time.sleep(patience(0.3))
    offloaded.kill()
    wait_for(lambda: "event=ready" in second.log(), 20, "the second one ready")


def test_a_database_that_restarts(switch: Switch, trio: Trio, offloaded: SidecarProcess) -> None:
    switch.restart_ovsdb()
    offloaded.native("m1")
    offloaded.offload("m1")
    assert copies_of(*trio) == 1
    assert "has the database's lock" not in offloaded.log()


def test_a_lock_that_is_stolen(switch: Switch, trio: Trio, offloaded: SidecarProcess) -> None:
    """Nothing is written until it is back, not what waits in ovsdb-server either."""
    thief = switch.ns.popen("ovsdb-client", "steal", switch.db, LOCK, stdout=subprocess.DEVNULL)
    try:
        said = "another ovs-ebpf-tap has the database's lock"
        wait_for(lambda: said in offloaded.log(), what="the loss noticed")
        hooks = hook_count(switch)
        overwrite_statistics(switch)
        offloaded.set_mode("m1", "native")
        time.sleep(patience(2))
        assert offloaded.external_ids("m1")["ebpf-tap-state"] == "offloaded"
        assert switch.get("Mirror", "m1", "select_vlan") == "[4095]"
        assert "ebpf_tap" not in switch.get("Mirror", "m1", "statistics")
        assert hook_count(switch) == hooks
        assert copies_of(*trio) == 1
        assert offloaded.log().count(said) == 1
    finally:
        thief.kill()
        thief.wait()
    offloaded.wait_settled("m1", "native")
    assert "lock is back" in offloaded.log()
    assert copies_of(*trio) == 1
    offloaded.offload("m1")
    wait_for(lambda: "ebpf_tap" in switch.get("Mirror", "m1", "statistics"), what="statistics")
    assert "Traceback" not in offloaded.log()


def overwrite_statistics(switch: Switch) -> None:
    """As ovs-vswitchd does every 5 seconds."""
    row = {"statistics": ["map", [["tx_packets", 0], ["tx_bytes", 0]]]}
    update = {"op": "update", "table": "Mirror", "where": [], "row": row}
    switch.ns.run("ovsdb-client", "transact", switch.db, json.dumps(["Open_vSwitch", update]))


# What another one has left.


@has_tcx
@UNDO
def test_tcx_hooks_of_another_pin_directory_are_named(
    switch: Switch, trio: Trio, left: SidecarProcess, second: SidecarProcess, undo: Undo
) -> None:
    hooks = hook_count(switch)
    done = undo(second)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "TCX" in line]
    assert "TCX hooks of another ovs-ebpf-tap stay on " in line
    assert "a0 (ingress)" in line
    assert "a0 (egress)" in line
    assert line.endswith(f"--pin-dir {left.pin_dir}")
    assert hook_count(switch) == hooks
    done = undo(left)
    assert done.returncode == 0, done.stderr
    assert "another" not in done.stdout
    wait_for(lambda: hook_count(switch) == 0, what="no hooks")
    assert copies_of(*trio) == 1


@has_tcx
def test_one_that_starts_warns_of_them(
    trio: Trio, left: SidecarProcess, second: SidecarProcess
) -> None:
    """Once for each device of a mirror, and goes on."""
    second.start()
    second.wait_state("m1", "offloaded")
    (line,) = [line for line in second.log().splitlines() if "hooks of another" in line]
    assert "level=warning" in line
    assert "device=a0" in line
    assert 'hooks="ingress,egress"' in line or "hooks=ingress,egress" in line
    assert copies_of(*trio) == 2
    remedy = line.partition("rm -r ")[2].strip('"')
    assert remedy == str(left.pin_dir)
    shutil.rmtree(remedy)
    wait_for_copies(*trio, times=1)
    second.restart()
    assert second.log().count("hooks of another") == 1


def test_none_are_found_beside_another_switch(switch: Switch, offloaded: SidecarProcess) -> None:
    offloaded.restart()
    assert "hooks of another" not in offloaded.log()


@has_tcx
def test_hooks_of_unknown_pins_and_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program's name says whose it is, where we may ask for it; others' programs are not ours."""
    with Netns("foreign") as ns:
        ns.run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")

        def exercise() -> None:
            devices = sorted(list_devices(), key=lambda each: each.name)
            d0 = next(each for each in devices if each.name == "d0")
            opened = []
            try:
                for name, where in (
                    ("tap_specialized", bpf.TCX_EGRESS),
                    ("theirs", bpf.TCX_INGRESS),
                ):
                    opened.append(bpf.load_classifier(bpf.EMPTY, name))
                    opened.append(bpf.create_tcx_link(opened[-1], d0.ifindex, where))
                (found,) = foreign.find(tmp_path, devices)
                assert (str(found), found.pin_dir) == ("d0 (egress)", None)
                (line,) = foreign.told([found])
                assert line.endswith(
                    "release --all --pin-dir DIR (its pin directory, which is in no bpffs "
                    "that is mounted here)"
                )

                def refuse(_identifier: int) -> str:
                    raise OSError(EPERM, os.strerror(EPERM))

                monkeypatch.setattr(bpf, "program_name", refuse)
                assert foreign.find(tmp_path, devices) == []
            finally:
                for fd in opened:
                    os.close(fd)

        ns.call(exercise)


@has_tcx
def test_pins_tell_where_names_may_not_be_asked_for(
    switch: Switch, left: SidecarProcess, second: SidecarProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the capabilities that the unit gives."""

    def refuse(_identifier: int) -> str:
        raise OSError(EPERM, os.strerror(EPERM))

    monkeypatch.setattr(bpf, "program_name", refuse)
    found = switch.ns.call(lambda: foreign.find(second.pin_dir, list_devices()))
    assert {str(each) for each in found} == {"a0 (ingress)", "a0 (egress)"}
    assert {each.pin_dir for each in found} == {left.pin_dir}
    assert switch.ns.call(lambda: foreign.find(left.pin_dir, list_devices())) == []


# What `status` says of them.


@pytest.mark.parametrize("attach", ATTACH)
def test_status_with_another_pin_directory(
    switch: Switch, trio: Trio, second: SidecarProcess, attach: str
) -> None:
    with SidecarProcess(switch, "--attach", attach) as first:
        first.wait_state("m1", "offloaded")
        (row,) = second.status()
        assert row["hooks"] == []
        assert "nobody copies" not in row["reason"]
        assert "hooks of another ovs-ebpf-tap may: on a0 (ingress), a0 (egress)" in row["reason"]
        if attach == "tcx":
            assert row["reason"].endswith(f"--pin-dir {first.pin_dir}")
        first.kill()
    (row,) = second.status()
    assert row["reason"].startswith("nobody copies") or attach == "clsact"


def test_status_in_another_namespace(switch: Switch, trio: Trio, offloaded: SidecarProcess) -> None:
    with Netns("elsewhere") as elsewhere:
        done = elsewhere.run(*offloaded.command("status", "--json"))
        (row,) = json.loads(done.stdout)
        assert "in another network namespace: run this there, with nsenter --net=/" in row["reason"]
    (row,) = offloaded.status()
    assert row["reason"] is None
