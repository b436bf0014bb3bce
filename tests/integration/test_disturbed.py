"""What is removed by hand comes back within a second, though the kernel tells nobody."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

from ovs_ebpf_tap.ebpf import bpf, pinning
from ovs_ebpf_tap.lab.kernel import has_tcx
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.observe.devices import DeviceMonitor


@contextlib.contextmanager
def stopped(switch: Switch) -> Iterator[None]:
    """ovs-vswitchd does nothing."""
    pid = switch.vswitchd_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def unpin_links(tap: SidecarProcess) -> None:
    shutil.rmtree(tap.pin_dir / "links")


def unpin_maps(tap: SidecarProcess) -> None:
    (build,) = pinning.builds(tap.pin_dir)
    (build / "rules").unlink()
    (build / "counters").unlink()


def unpin_all(tap: SidecarProcess) -> None:
    shutil.rmtree(tap.pin_dir)


def detach(tap: SidecarProcess) -> None:
    for pin in (tap.pin_dir / "links").iterdir():
        bpf.detach_link(bpf.get(pin))


only_tcx = pytest.mark.skipif(not has_tcx(), reason="no TCX hooks on this kernel")


@only_tcx
@pytest.mark.parametrize("disturb", [unpin_links, unpin_maps, unpin_all, detach])
def test_hooks_and_pins_come_back(
    switch: Switch, tap: SidecarProcess, disturb: Callable[[SidecarProcess], None]
) -> None:
    a, monitor = (switch.add_host(name) for name in "am")
    switch.mirror("m", src=[a], dst=[a], output=monitor)
    tap.wait_state("m", "offloaded")
    hooks = hook_count(switch)
    pins = {str(path.relative_to(tap.pin_dir)) for path in tap.pin_dir.rglob("*")}
    disturb(tap)
    wait_for(
        lambda: (
            {str(path.relative_to(tap.pin_dir)) for path in tap.pin_dir.rglob("*")} == pins
            and hook_count(switch) == hooks
        ),
        5,
        "hooks and pins as they were",
    )
    tap.restart()
    assert tap.state("m") == "offloaded"
    assert hook_count(switch) == hooks


@only_tcx
def test_hooks_of_a_mirror_that_is_given_back(switch: Switch, tap: SidecarProcess) -> None:
    """They come back for as long as Open vSwitch has not taken it in."""
    a, monitor = (switch.add_host(name) for name in "am")
    switch.mirror("m", src=[a], dst=[a], output=monitor)
    tap.wait_state("m", "offloaded")
    hooks = hook_count(switch)
    with stopped(switch):
        switch.vsctl("--no-wait", "set", "Mirror", "m", "external_ids:ebpf-tap-mode=native")
        wait_for(lambda: tap.state("m") == "native", 5, "a mirror on its way")
        detach(tap)
        wait_for(lambda: hook_count(switch) == hooks, 5, "hooks as they were")
    wait_for(lambda: not hook_count(switch), 5, "no hooks")


def test_what_others_remove_is_told_apart() -> None:
    with Netns("netlink") as ns:
        ns.run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "p0")
        monitor = ns.call(DeviceMonitor.open)
        index = monitor.devices["d0"].ifindex

        def told(*commands: str) -> tuple[bool, set[int]]:
            for command in commands:
                ns.run("tc", *command.split())
            changes = ns.call(monitor.run)
            return changes.hooks, set(changes.freed)

        try:
            assert told("qdisc add dev d0 ingress", "qdisc del dev d0 ingress") == (False, {index})
            assert told(
                "qdisc add dev d0 clsact",
                "filter add dev d0 ingress u32 match u32 0 0",
                "filter del dev d0 ingress",
            ) == (False, set())
            assert told("qdisc del dev d0 clsact") == (True, set())
        finally:
            monitor.close()
