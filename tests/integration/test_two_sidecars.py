"""Two sidecars beside one database."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from ovs_ebpf_tap.lab.sidecar import Tap, hook_count
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.ovsdb import LOCK
from talking import Trio, copies_of


@pytest.fixture
def offloaded(trio: Trio, tap: Tap) -> Tap:
    """A running sidecar that copies m1."""
    tap.wait_state("m1", "offloaded")
    return tap


@pytest.fixture
def second(switch: Switch) -> Iterator[Tap]:
    """Another, with directories of its own beside the same database; it is not started."""
    made = Tap(switch)
    try:
        yield made
    finally:
        made.close()


# One at a time.


def test_a_second_one_is_refused(switch: Switch, trio: Trio, offloaded: Tap, second: Tap) -> None:
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
    switch: Switch, trio: Trio, offloaded: Tap, second: Tap
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


def test_it_waits_for_one_that_ends(offloaded: Tap, second: Tap) -> None:
    second.start(ready=False)
    wait_for(second.run_dir.exists, what="the second one started")
    time.sleep(patience(0.3))
    offloaded.kill()
    wait_for(lambda: "event=ready" in second.log(), 20, "the second one ready")


def test_a_database_that_restarts(switch: Switch, trio: Trio, offloaded: Tap) -> None:
    switch.restart_ovsdb()
    offloaded.native("m1")
    offloaded.offload("m1")
    assert copies_of(*trio) == 1
    assert "has the database's lock" not in offloaded.log()


def test_a_lock_that_is_stolen(switch: Switch, trio: Trio, offloaded: Tap) -> None:
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
