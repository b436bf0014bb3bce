"""Others at our hooks: somebody removes what is ours, or has programs of their own there."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ovs_ebpf_tap
from faults.fault import RATE, During, Fault
from faults.guests import index_of
from faults.testbed import Testbed
from ovs_ebpf_tap.ebpf import bpf, pinning
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.names import unique_name
from ovs_ebpf_tap.lab.sidecar_process import BPFFS
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.model.desired import CLSACT, TCX
from parity.case import datapath_type

only_tcx = pytest.mark.skipif(TCX not in attachments(), reason="this kernel has no TCX hooks")
with_clsact = pytest.mark.parametrize("bare_ground", [CLSACT], indirect=True)
with_both = pytest.mark.parametrize("bare_ground", attachments(), indirect=True)

_AGAIN = 10.0  # seconds until a test waits no more for hooks


# What is ours is removed by hand.


@contextlib.contextmanager
def hooks_lost(ground: Testbed, fault: Fault, name: str) -> Iterator[None]:
    """A fault in which links are removed; nobody copies until there are others."""
    before = link_ids(ground.switch)

    def are_back() -> bool:
        there = link_ids(ground.switch)
        # Those that were removed may be there for a moment.
        return len(there) == len(before) and not there & before

    with fault(name) as during, during.blackout():
        yield
        during.ended()
        wait_for(are_back, _AGAIN, "hooks that are back")
        time.sleep(0.02)


def link_ids(switch: Switch) -> set[int]:
    """The TCX links on the switch's devices."""

    def query() -> set[int]:
        return {
            link
            for index, _ in socket.if_nameindex()
            for where in (bpf.TCX_INGRESS, bpf.TCX_EGRESS)
            for _, link in bpf.attached_tcx(index, where)
        }

    return switch.ns.call(query)


def links(ground: Testbed) -> list[Path]:
    found = list((ground.tap.pin_dir / pinning.LINKS).iterdir())
    assert found
    return found


@only_tcx
def test_links_are_unpinned(ground: Testbed, fault: Fault) -> None:
    with hooks_lost(ground, fault, "the links' pins are removed"):
        for pin in links(ground):
            pin.unlink()


@only_tcx
def test_links_are_detached(ground: Testbed, fault: Fault) -> None:
    with hooks_lost(ground, fault, "the links are detached"):
        for pin in links(ground):
            fd = bpf.get(pin)
            bpf.detach_link(fd)
            os.close(fd)


@only_tcx
def test_the_directory_of_links_is_removed(ground: Testbed, fault: Fault) -> None:
    with hooks_lost(ground, fault, "the links' directory is removed"):
        shutil.rmtree(ground.tap.pin_dir / pinning.LINKS)


@with_both
def test_all_pins_are_removed(ground: Testbed, fault: Fault) -> None:
    """Programs and maps live on where they are used; the next start is to find them."""
    if ground.attach == TCX:
        with hooks_lost(ground, fault, "all pins are removed"):
            shutil.rmtree(ground.tap.pin_dir)
    else:
        with fault(f"all pins are removed, {ground.attach}"):
            shutil.rmtree(ground.tap.pin_dir)
    with fault(f"... and a restart after that, {ground.attach}") as during:
        ground.tap.kill()
        during.unattended()
        ground.tap.start()


def tc(ground: Testbed, *words: str) -> None:
    ground.switch.ns.run("tc", *words)


@with_clsact
def test_filters_are_removed(ground: Testbed, fault: Fault) -> None:
    before = filters(ground)
    with fault("the filter is removed") as during, during.blackout():
        tc(ground, "filter", "del", "dev", "a0", "ingress")
        during.ended()
        wait_for(lambda: filters(ground) == before, _AGAIN, "a filter that is back")
        time.sleep(0.02)


def filters(ground: Testbed) -> int:
    shown = ground.switch.ns.run("tc", "filter", "show", "dev", "a0", "ingress").stdout
    return shown.count(" bpf ")


@with_clsact
def test_the_qdisc_is_removed(ground: Testbed, fault: Fault) -> None:
    before = filters(ground)
    with fault("the qdisc is removed") as during, during.blackout():
        tc(ground, "qdisc", "del", "dev", "a0", "clsact")
        during.ended()
        wait_for(lambda: filters(ground) == before, _AGAIN, "a filter that is back")
        time.sleep(0.02)


@with_clsact
def test_the_qdisc_is_replaced(ground: Testbed, fault: Fault) -> None:
    """Somebody clears the device and begins anew, as agents do at their start."""
    before = filters(ground)
    with fault("the qdisc is removed and made by somebody else") as during, during.blackout():
        tc(ground, "qdisc", "del", "dev", "a0", "clsact")
        with contextlib.suppress(RuntimeError):  # We may have been faster.
            tc(ground, "qdisc", "add", "dev", "a0", "clsact")
        during.ended()
        wait_for(lambda: filters(ground) == before, _AGAIN, "a filter that is back")
        time.sleep(0.02)


@only_tcx
def test_the_bpffs_is_unmounted(bare_ground: Testbed, fault: Fault) -> None:
    """In a mount namespace of the sidecar's own, whose mounts nobody else sees."""
    tap = bare_ground.tap
    own = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
    unmount = "while umount -l /sys/fs/bpf 2>/dev/null; do :; done"
    package = Path(ovs_ebpf_tap.__path__[0]).parent
    command = [*own, f'{unmount}; exec "$@"', "sh", *tap.command("run", *tap.options)]
    with tap.log_file.open("a") as log:
        tap.process = bare_ground.switch.ns.popen(
            *command, stderr=log, stdout=log, env={"PYTHONPATH": str(package)}
        )
    wait_for(lambda: "event=ready" in tap.log(), 60, "a ready sidecar")
    bare_ground.mirror()
    there = ("nsenter", "--mount", f"--target={tap.process.pid}", "sh", "-c")
    with hooks_lost(bare_ground, fault, "the bpffs is unmounted"):
        subprocess.run([*there, unmount], check=True)


# Others' programs.

_ARRAY = 2  # BPF_MAP_TYPE_ARRAY
_BEFORE = 1 << 3  # BPF_F_BEFORE
NEXT, PASS = -1, 0


class Counting:
    """A program that counts packets and returns a decision, on the ingress of a device."""

    def __init__(self, decision: int) -> None:
        self._map = bpf.Map(bpf.create_map(bpf.MapLayout(_ARRAY, 4, 8, 1, 0), "counting"))
        self._fds = [bpf.load_classifier(_counting(self._map.fd, decision), "counting")]

    def on_tcx(self, ground: Testbed, device: str, *, first: bool) -> None:
        """Before all programs that are there, or behind."""
        index = index_of(ground.switch, device)
        flags = _BEFORE if first else 0
        attributes = struct.pack("=IIII", self._fds[0], index, bpf.TCX_INGRESS, flags)
        self._fds += ground.switch.ns.call(
            lambda: bpf._bpf(bpf._LINK_CREATE, attributes, size=64)[:1]
        )

    def on_clsact(self, ground: Testbed, device: str, priority: int) -> None:
        """As a filter, which stays after `close`."""
        pin = BPFFS / unique_name("counting")
        bpf.pin(self._fds[0], pin)
        try:
            how = ("bpf", "direct-action", "object-pinned", str(pin))
            where = ("dev", device, "ingress", "pref", str(priority), "protocol", "all")
            tc(ground, "filter", "add", *where, *how)
        finally:
            pin.unlink()

    @property
    def packets(self) -> int:
        """How many it has seen."""
        return int.from_bytes(self._map.get(bpf.u32(0)) or b"", sys.byteorder)

    def close(self) -> None:
        """Takes it off a TCX hook."""
        for fd in self._fds:
            os.close(fd)
        self._map.close()


def _counting(fd: int, decision: int) -> bytes:
    instruction = struct.Struct("=BBhi")
    return b"".join(
        instruction.pack(*each)
        for each in (
            (0x18, 2 << 4 | 1, 0, fd),  # r1 = the map's value
            (0, 0, 0, 0),
            (0xB7, 2, 0, 1),  # r2 = 1
            (0xDB, 2 << 4 | 1, 0, 0),  # lock *(u64 *)r1 += r2
            (0xB7, 0, 0, decision),  # r0 = decision
            (0x95, 0, 0, 0),  # exit
        )
    )


@contextlib.contextmanager
def others() -> Iterator[tuple[Counting, Counting]]:
    """One that lets the programs behind it see the packet, and one that is the last to see it."""
    with contextlib.closing(Counting(NEXT)) as first, contextlib.closing(Counting(PASS)) as last:
        yield first, last


def assert_counting(*programs: Counting) -> None:
    before = [each.packets for each in programs]
    least = RATE / 50
    wait_for(
        lambda: all(each.packets - b > least for each, b in zip(programs, before, strict=True)),
        what="packets for each program",
    )


@only_tcx
@pytest.mark.parametrize("order", ["around", "before"])
def test_others_on_a_tcx_hook(ground: Testbed, fault: Fault, order: str) -> None:
    """Around ours; or both there before ours, where nobody behind the last sees a packet."""
    with others() as (first, last), fault(f"others' programs on TCX: {order} ours"):
        if order == "before":
            ground.tap.native("m")
        first.on_tcx(ground, "a0", first=True)
        last.on_tcx(ground, "a0", first=False)
        if order == "before":
            ground.tap.offload("m")
        assert_counting(first, last)


@with_both
def test_others_on_a_clsact_qdisc(ground: Testbed, fault: Fault) -> None:
    """Around ours, on the same qdisc where that is ours, too; they come, stay, and go."""
    with others() as (first, last), fault(f"others' filters on clsact, {ground.attach}"):
        ground.switch.ns.run("tc", "qdisc", "add", "dev", "a0", "clsact", check=False)
        first.on_clsact(ground, "a0", 1)
        last.on_clsact(ground, "a0", 60_000)
        assert_counting(first, last)
        ground.tap.native("m")
        assert_counting(first, last)
        ground.tap.offload("m")
        for priority in ("1", "60000"):
            tc(ground, "filter", "del", "dev", "a0", "ingress", "pref", priority)


# What Open vSwitch itself puts on devices.


@with_both
def test_policing(ground: Testbed, fault: Fault) -> None:
    """On clsact, a port that is policed has its mirrors copied by Open vSwitch.

    On TCX with the kernel's datapath, too: it gets what passes.
    """
    policed = "offloaded" if ground.attach == TCX and datapath_type() == "netdev" else "native"
    with restored(ground.switch), fault(f"policing on and off, {ground.attach}"):
        for _ in range(2):
            set_rate(ground.switch, 10_000_000)
            ground.tap.wait_state("m", policed)
            wait_for(lambda: "qdisc ingress" in qdiscs(ground), what="policing")
            set_rate(ground.switch, 0)
            ground.tap.wait_state("m", "offloaded")


def qdiscs(ground: Testbed) -> str:
    return ground.switch.ns.run("tc", "qdisc", "show", "dev", "a0").stdout


def set_rate(switch: Switch, rate: int) -> None:
    """In kbit/s: 0 is none."""
    rates = (f"ingress_policing_{name}={rate}" for name in ("rate", "burst"))
    switch.vsctl("set", "Interface", "a0", *rates)


@contextlib.contextmanager
def restored(switch: Switch) -> Iterator[None]:
    """Takes back what these tests set."""
    try:
        yield
    finally:
        set_rate(switch, 0)
        unset_hw_offload(switch)
        switch.vsctl("clear", "Port", "a0", "qos", "--", "clear", "Port", "b0", "qos")
        switch.vsctl("--", "--all", "destroy", "QoS")
        remove_internal_qdiscs(switch)


def remove_internal_qdiscs(switch: Switch) -> None:
    """With hw-offload, Open vSwitch makes them on the kernel datapath's own devices, for good."""
    for device in ("br0", "ovs-system"):
        switch.ns.run("tc", "qdisc", "del", "dev", device, "clsact", check=False)


@with_both
def test_qos(ground: Testbed, fault: Fault) -> None:
    """On the source's and the destination's ports."""
    switch = ground.switch
    queue = ("--id=@q", "create", "QoS", "type=linux-htb", "other-config:max-rate=10000000000")
    with restored(switch), fault(f"QoS on and off, {ground.attach}"):
        for port in ("a0", "b0"):
            switch.vsctl("set", "Port", port, "qos=@q", "--", *queue)
            time.sleep(0.1)
            switch.vsctl("clear", "Port", port, "qos")


@with_both
def test_hw_offload(ground: Testbed, fault: Fault) -> None:
    """It lasts from when it is set until an ovs-vswitchd starts without it."""
    switch = ground.switch
    hardware = "offloaded" if ground.attach == TCX else "native"
    with restored(switch), fault(f"hw-offload on and off, {ground.attach}") as during:
        set_hw_offload(switch, during)
        ground.tap.wait_state("m", hardware)
        restart(switch, during)
        ground.tap.wait_state("m", hardware)
        unset_hw_offload(switch)
        time.sleep(0.2)
        # New devices' ingress would be held for as long as the one runs that was told to.
        restart(switch, during)
        ground.tap.wait_state("m", "offloaded")


@with_clsact
def test_hw_offload_between_two_starts(ground: Testbed, fault: Fault) -> None:
    """It is set and unset, and nothing of it is on record but what Open vSwitch does."""
    switch = ground.switch
    with restored(switch), fault("hw-offload on and off in between") as during:
        set_hw_offload(switch, during)
        ground.tap.wait_settled("m", "native")
        unset_hw_offload(switch)
        time.sleep(0.5)
        assert "hw-offload" in (ground.tap.reason("m") or "")
        ground.tap.kill()
        ground.tap.start()
        wait_for(
            lambda: "an ingress qdisc" in (ground.tap.reason("m") or ""), what="the other reason"
        )
        assert ground.tap.state("m") == "native"
        restart(switch, during)
        ground.tap.wait_state("m", "offloaded")
    assert "ingress" not in qdiscs(ground)


@with_clsact
def test_hw_offload_and_release(ground: Testbed, fault: Fault) -> None:
    """The sidecar was killed before it was set."""
    switch = ground.switch
    with restored(switch), fault("hw-offload on, and released") as during:
        ground.tap.kill()
        set_hw_offload(switch, during)
        ground.tap.release()
        ground.wanted["m"] = None
        assert "ingress" in qdiscs(ground)
        assert "clsact" not in qdiscs(ground)
        unset_hw_offload(switch)
        restart(switch, during)
        remove_internal_qdiscs(switch)
    assert "ingress" not in qdiscs(ground)


def unset_hw_offload(switch: Switch) -> None:
    switch.vsctl("remove", "Open_vSwitch", ".", "other_config", "hw-offload")


def set_hw_offload(switch: Switch, during: During) -> None:
    """At once, it adds qdiscs to all devices: the output sends nothing for a moment."""
    with during.blackout():
        switch.vsctl("set", "Open_vSwitch", ".", "other_config:hw-offload=True")


def restart(switch: Switch, during: During) -> None:
    """With hw-offload it adds and removes qdiscs of all devices: the output sends nothing then."""
    with during.blackout():
        switch.restart_vswitchd()
        time.sleep(0.5)
