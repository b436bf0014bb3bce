"""Whose hooks are whose: sidecars in one network namespace, and one that is told in another."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ovs_ebpf_tap
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.ebpf import bpf, pinning
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, cutters, hook_count
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS
from talking import Trio, copies_of

RESTORE = Path(ovs_ebpf_tap.__path__[0]).parent / "scripts" / "restore"

Done = subprocess.CompletedProcess[str]
Undo = Callable[[Netns, SidecarProcess], Done]


def release(ns: Netns, tap: SidecarProcess) -> Done:
    return ns.run(*tap.command("release", "--all"), check=False)


def restore(ns: Netns, tap: SidecarProcess) -> Done:
    places = ("--run-dir", str(tap.run_dir), "--pin-dir", str(tap.pin_dir))
    return ns.run(str(RESTORE), *places, env=tap.switch.env, check=False)


def remove_orphans(ns: Netns, tap: SidecarProcess) -> Done:
    owner = f"{pinning.owner(tap.pin_dir):x}"
    return ns.run(str(RESTORE), "--owner", owner, env=tap.switch.env, check=False)


UNDO = pytest.mark.parametrize("undo", [release, restore])


@pytest.fixture
def killed(switch: Switch, trio: Trio) -> Iterator[SidecarProcess]:
    """A sidecar with clsact hooks and a cutter that copies on without its process."""
    switch.vsctl("set", "Mirror", "m1", "snaplen=1500")
    with SidecarProcess(switch, "--attach", "clsact") as tap:
        tap.wait_state("m1", "offloaded")
        tap.kill()
        assert cutters(switch)
        yield tap


@UNDO
def test_what_other_sidecars_have_stays(trio: Trio, killed: SidecarProcess, undo: Undo) -> None:
    """One of another database and pin directory, in this namespace, is released; it has nothing."""
    a, b, m = trio
    ns = killed.switch.ns
    owner = f"{pinning.owner(killed.pin_dir):x}"
    with Switch("other") as other:
        other.add_bridge()
        idle = SidecarProcess(other)
        try:
            done = undo(ns, idle)
        finally:
            idle.close()
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "a0" in line]
    assert "filters of another ovs-ebpf-tap stay" in line
    assert line.endswith(f"if it is gone for good: restore --owner {owner}")
    (line,) = [line for line in done.stdout.splitlines() if min(cutters(killed.switch)) in line]
    assert "device" in line
    assert "of another ovs-ebpf-tap stays; if it is gone for good" in line
    assert line.endswith(f": restore --owner {owner}")
    assert "qdisc" not in done.stdout
    assert copies_of(a, b, m) == 1


@pytest.mark.parametrize("undo", [release, restore, remove_orphans])
def test_a_lost_pin_directory(trio: Trio, killed: SidecarProcess, undo: Undo) -> None:
    a, b, m = trio
    shutil.rmtree(killed.pin_dir)
    ns = killed.switch.ns
    done = undo(ns, killed)
    assert done.returncode == 0, done.stderr
    assert hook_count(killed.switch) == 0
    assert not cutters(killed.switch)
    assert "stay" not in done.stdout
    if undo != remove_orphans:
        assert copies_of(a, b, m) == 1


def test_a_qdisc_that_others_made_stays(switch: Switch, trio: Trio) -> None:
    switch.ns.run("tc", "qdisc", "add", "dev", "a0", "clsact")
    with SidecarProcess(switch, "--attach", "clsact") as tap:
        tap.wait_state("m1", "offloaded")
        tap.kill()
        assert remove_orphans(switch.ns, tap).returncode == 0
        assert switch.ns.run("tc", "filter", "show", "dev", "a0", "ingress").stdout == ""
        assert switch.ns.run("tc", "qdisc", "show").stdout.count("clsact") == 1


def test_filters_of_two_owners_on_a_device() -> None:
    with Netns("owners") as ns:
        ns.run("ip", "link", "add", "d0", "type", "veth")

        def exercise() -> None:
            first, second = TrafficControl.open(1 << 31 | 1), TrafficControl.open(0xFFFFFFFF)
            program = bpf.load_classifier(bpf.EMPTY, "tap_empty")
            try:
                ifindex = socket.if_nametoindex("d0")
                first.ensure_clsact(ifindex)
                for each in (first, second, first):
                    for direction in (INGRESS, EGRESS):
                        each.replace_filter(ifindex, direction, program, "build", 7, made=True)
                first.ensure_untag(ifindex, EGRESS, program)
                assert [f.untagged for f in first.filters(ifindex)] == [False, True]
                assert [f.untagged for f in second.filters(ifindex)] == [False, False]
                for direction in (INGRESS, EGRESS):
                    second.remove_filter(ifindex, direction)
                assert second.filters(ifindex) == []
                first.remove_filter(ifindex, INGRESS)
                (left,) = first.filters(ifindex)
                assert (left.direction, left.build, left.program) == (EGRESS, "build", 7)
                assert left.made
                assert left.untagged
                first.remove_clsact(ifindex, hw_offload=False)
                assert len(first.filters(ifindex)) == 1
            finally:
                os.close(program)
                first.close()
                second.close()

        ns.call(exercise)


# Another network namespace.


@pytest.mark.parametrize("attach", attachments())
@UNDO
def test_in_another_namespace(switch: Switch, trio: Trio, attach: str, undo: Undo) -> None:
    a, b, m = trio
    with SidecarProcess(switch, "--attach", attach) as tap, Netns("elsewhere") as elsewhere:
        tap.wait_state("m1", "offloaded")
        tap.kill()
        shown = ("--columns=select_vlan,external_ids", "list", "Mirror")
        rows = switch.vsctl(*shown)
        done = undo(elsewhere, tap)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "in another network namespace: run this there, with nsenter --net=/" in line
        assert switch.vsctl(*shown) == rows
        assert copies_of(a, b, m) == 1
        started = elsewhere.run(*tap.command("run"), check=False)
        assert started.returncode == 1
        assert "nsenter --net=" in started.stderr
        entrance = line.rpartition("--net=")[2]
        there = undo(_Entered(elsewhere, entrance), tap)
        assert there.returncode == 0, there.stderr
        wait_for(lambda: hook_count(switch) == 0, what="no hooks")
        assert copies_of(a, b, m) == 1


class _Entered(Netns):
    """Runs commands as an operator in another namespace does who was told where to."""

    def __init__(self, ns: Netns, entrance: str) -> None:
        self._ns, self._entrance = ns, entrance

    def run(self, *command: str, **options: Any) -> Done:
        return self._ns.run("nsenter", f"--net={self._entrance}", *command, **options)


def test_the_namespace_is_gone(switch: Switch, trio: Trio) -> None:
    """What is pinned then is of hooks that went with it."""
    with SidecarProcess(switch) as tap:
        tap.stop()
        note = tap.pin_dir / "netns"
        note.unlink()
        note.symlink_to("net:[1]")
        tap.start()
        tap.wait_state("m1", "offloaded")
        assert os.readlink(note) != "net:[1]"


def test_the_namespace_is_gone_and_another_has_its_number(switch: Switch, trio: Trio) -> None:
    with SidecarProcess(switch) as tap, Netns("elsewhere") as elsewhere:
        tap.stop()
        number = elsewhere.run("readlink", "/proc/self/ns/net").stdout.strip()
        note = tap.pin_dir / "netns"
        note.unlink()
        note.symlink_to(f"{number}@0000000000000001")
        tap.start()
        tap.wait_state("m1", "offloaded")


# Names.


def test_two_mirrors_of_one_name(switch: Switch, trio: Trio, tap: SidecarProcess) -> None:
    switch.add_bridge("br1")
    n = switch.add_host("n", bridge="br1", with_ip=False)
    o = switch.add_host("o", bridge="br1", with_ip=False)
    switch.mirror("m1", bridge="br1", src=[n], output=o)
    wait_for(lambda: tap.status()[1]["state"] == "offloaded", what="both offloaded")
    done = tap.release("m1")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["m1 of br0: native", "m1 of br1: native"]
