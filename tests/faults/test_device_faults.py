"""Faults of devices and ports, and of the kernel's word on them."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable

import pytest

from faults.fault import Fault
from faults.guests import (
    LATE,
    await_copies,
    guest,
    index_of,
    make_device,
    remove_device,
    reopen,
)
from faults.testbed import Testbed
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.waiting import patience
from ovs_ebpf_tap.observe.devices import DeviceMonitor

EVENTS = 8_000
"""Notifications that a receive buffer of 4 MiB does not hold."""

Figure = Callable[[str], None]


def make_events(ns: Netns, device: str, count: int) -> None:
    """Has the kernel notify of a device again and again."""
    lines = "".join(f"link set {device} mtu {1400 + number % 2}\n" for number in range(count))
    ns.run("ip", "-batch", "-", stdin=lines, timeout=60)


def test_what_was_told_before_the_loss_counts_no_more() -> None:
    """The kernel tells of the loss first, and then what it still had."""
    with Netns("netlink") as ns:
        ns.run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "p0")
        monitor = ns.call(DeviceMonitor.open)
        try:
            make_events(ns, "d0", EVENTS)
            ns.run("ip", "link", "del", "d0")
            ns.run("ip", "link", "add", "d0", "index", "77", "type", "veth", "peer", "name", "d1")
            told = ns.call(monitor.run)
            assert told.devices
            assert told.hooks
            assert monitor.devices["d0"].ifindex == 77
            assert "d1" in monitor.devices
        finally:
            monitor.close()


def test_netlink_overrun(ground: Testbed, fault: Fault, figure: Figure) -> None:
    """Among what was lost: a source's device is another one, a mirror of another is new."""
    switch = ground.switch
    with guest(ground, "x") as x:
        ground.wanted["n"] = "offloaded"
        switch.mirror("n", src=[x], output=ground.monitor)
        ground.wait_right()
        assert ground.tap.process is not None
        with fault("thousands of notifications are lost"):
            ground.tap.process.send_signal(signal.SIGSTOP)
            switch.ns.run("ip", "link", "add", "noise", "type", "veth")
            make_events(switch.ns, "x0", 100)
            make_events(switch.ns, "noise", EVENTS)
            remove_device(switch, x)
            make_device(switch, x)
            reopen(switch, x)
            switch.ns.run("ip", "link", "del", "noise")
            ground.tap.process.send_signal(signal.SIGCONT)
            took = await_copies(ground, x, ground.monitor)
        figure(f"copied {took:.2f} s after it went on")
        assert took < patience(LATE)


# Devices that are other ones, elsewhere, or called otherwise.


@pytest.mark.parametrize("pause", [0.1, 0.0], ids=["later", "at_once"])
@pytest.mark.parametrize("bare_ground", attachments(), indirect=True)
def test_a_source_is_made_anew(ground: Testbed, fault: Fault, figure: Figure, pause: float) -> None:
    """What others send is copied meanwhile, with the same mirror.

    In the userspace datapath, it is Open vSwitch's for as long as the device is gone.
    """
    switch = ground.switch
    with guest(ground, "x") as x:
        switch.vsctl(
            "--id=@c", "get", "Port", "x0", "--", "add", "Mirror", "m", "select_src_port", "@c"
        )
        await_copies(ground, x, ground.monitor)
        when = "later" if pause else "at once"
        with fault(f"a source is made anew {when}, {ground.attach}", moves=1 if pause else 2):
            for _ in range(2):
                before = index_of(switch, "x0")
                remove_device(switch, x)
                time.sleep(pause)
                make_device(switch, x)
                reopen(switch, x)
                assert index_of(switch, "x0") != before
                took = await_copies(ground, x, ground.monitor)
                figure(f"copied {took * 1e3:.0f} ms after it was made")
                assert took < patience(LATE)
                time.sleep(0.1)


@pytest.mark.parametrize("bare_ground", attachments(), indirect=True)
def test_an_output_is_made_anew(ground: Testbed, fault: Fault, figure: Figure) -> None:
    """Another mirror of the same source, to another output, goes on."""
    switch = ground.switch
    with guest(ground, "y") as y:
        ground.wanted["n"] = "offloaded"
        switch.mirror("n", src=[ground.a], output=y)
        ground.wait_right()
        with fault(f"an output is made anew, {ground.attach}"):
            before = index_of(switch, "y0")
            remove_device(switch, y)
            make_device(switch, y)
            assert index_of(switch, "y0") != before
            # Open vSwitch's userspace datapath keeps its socket on the device that is gone.
            switch.restart_vswitchd()
        took = await_copies(ground, ground.a, y)
        figure(f"copied {took * 1e3:.0f} ms after all was right")


PORTS = ["a0", "b0", "m0"]


@pytest.mark.parametrize("device", PORTS)
def test_a_device_is_elsewhere_for_a_while(ground: Testbed, fault: Fault, device: str) -> None:
    switch = ground.switch
    with (
        Netns("elsewhere") as elsewhere,
        fault(f"{device} is in another namespace") as during,
        during.blackout(),
    ):
        switch.ns.run("ip", "link", "set", device, "netns", elsewhere.path.name)
        time.sleep(0.2)
        elsewhere.run("ip", "link", "set", device, "netns", switch.ns.path.name)
        switch.ns.run("ip", "link", "set", device, "up")
        switch.restart_vswitchd()  # The userspace datapath's socket on it is dead.
        during.ended()
        await_copies(ground, ground.a, ground.monitor)


@pytest.mark.parametrize("device", PORTS)
def test_a_device_has_another_name_for_a_while(ground: Testbed, fault: Fault, device: str) -> None:
    """Open vSwitch goes on with it, also where it looks at its ports again."""
    switch = ground.switch
    with fault(f"{device} is called otherwise") as during, contextlib.ExitStack() as stack:
        if not is_renamed_while_up(switch):  # Then it is no port of Open vSwitch's any more.
            stack.enter_context(during.blackout())
        rename(switch, device, "other0")
        time.sleep(0.2)
        switch.vsctl("set", "Port", "b0", "external_ids:a=b")
        time.sleep(0.2)
        rename(switch, "other0", device)


def is_renamed_while_up(switch: Switch) -> bool:
    """Whether the kernel renames devices that are up: since Linux 6.2."""
    switch.ns.run("ip", "link", "add", "some0", "up", "type", "veth", "peer", "name", "peer0")
    done = switch.ns.run("ip", "link", "set", "some0", "name", "some1", check=False)
    switch.ns.run("ip", "link", "del", "peer0")
    return done.returncode == 0


def rename(switch: Switch, device: str, name: str) -> None:
    if switch.ns.run("ip", "link", "set", device, "name", name, check=False).returncode:
        switch.ns.run("ip", "link", "set", device, "down")
        switch.ns.run("ip", "link", "set", device, "name", name)
        switch.ns.run("ip", "link", "set", name, "up")


def test_former_names() -> None:
    """They lead to a device for as long as no other has them, and it is there."""
    with Netns("names") as ns:
        ns.run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "p0")
        monitor = ns.call(DeviceMonitor.open)
        try:

            def named(*words: str) -> dict[str, str]:
                ns.run("ip", "link", *words)
                ns.call(monitor.run)
                assert monitor.devices == {**ns.call(DeviceMonitor.open).devices} | {
                    name: device for name, device in monitor.devices.items() if device.name != name
                }
                return {
                    name: device.name for name, device in monitor.devices.items() if name[0] == "d"
                }

            assert named("set", "d0", "name", "d1") == {"d0": "d1", "d1": "d1"}
            assert named("set", "d1", "name", "d2") == {"d0": "d2", "d1": "d2", "d2": "d2"}
            assert named("set", "p0", "name", "d1") == {"d0": "d2", "d1": "d1", "d2": "d2"}
            assert named("set", "d2", "name", "d0") == {"d0": "d0", "d1": "d1", "d2": "d0"}
            assert named("del", "d0") == {}
        finally:
            monitor.close()


# Ports.


def test_a_source_port_is_removed_and_added(ground: Testbed, fault: Fault) -> None:
    """Mirrors refer to it no more, and then again, while others are sources all the time."""
    switch = ground.switch
    with guest(ground, "x") as x:
        add = ("--id=@c", "get", "Port", "x0", "--", "add", "Mirror", "m", "select_src_port", "@c")
        switch.vsctl(*add)
        await_copies(ground, x, ground.monitor)
        with fault("a source port is removed and added, three times"):
            for _ in range(3):
                switch.vsctl("del-port", "br0", "x0")
                switch.vsctl("add-port", "br0", "x0", "--", *add)
                assert await_copies(ground, x, ground.monitor) < patience(LATE)


def test_the_only_source_port_is_removed_and_added(ground: Testbed, fault: Fault) -> None:
    """A mirror without sources selects nothing, and is offloaded as such."""
    switch = ground.switch
    with fault("the only source port is removed and added") as during, during.blackout():
        switch.vsctl("del-port", "br0", "a0")
        time.sleep(0.1)
        set_port(switch, "select_src_port", ground.a)
        during.ended()
        await_copies(ground, ground.a, ground.monitor)


def test_the_output_port_is_removed_and_added(ground: Testbed, fault: Fault) -> None:
    switch = ground.switch
    with fault("the output port is removed and added") as during, during.blackout():
        switch.vsctl("del-port", "br0", "m0")
        ground.tap.wait_state("m", "invalid")
        set_port(switch, "output_port", ground.monitor)
        during.ended()
        await_copies(ground, ground.a, ground.monitor)


def set_port(switch: Switch, column: str, host: Host) -> None:
    """Adds a host's port to the bridge, and has mirror m refer to it."""
    refer = ("--id=@p", "get", "Port", host.port, "--", "set", "Mirror", "m", f"{column}=@p")
    switch.vsctl("add-port", "br0", host.port, "--", *refer)
