"""Hosts that come and go, on a ground that stays."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

from faults.testbed import Testbed
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import sequenced
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.observe.packet_sockets import open_sockets

KERNELS = os.environ.get("OVS_EBPF_TAP_DATAPATH") == "system"

LATE = 5.0
"""Seconds that what is to take less than one may take on a busy machine; tests say how long."""

_PROBE = 7
"""The stream that probes are of."""


@contextlib.contextmanager
def guest(ground: Testbed, name: str) -> Iterator[Host]:
    """A host with a port of its own, removed at the end."""
    host = ground.switch.add_host(name, with_ip=False)
    try:
        yield host
    finally:
        ground.switch.vsctl("--if-exists", "del-port", "br0", host.port)
        ground.switch.ns.run("ip", "link", "del", host.port, check=False)
        del ground.switch.hosts[name]


def index_of(switch: Switch, device: str) -> int:
    """The index of a device of the switch's."""
    return switch.ns.call(lambda: socket.if_nametoindex(device))


def remove_device(switch: Switch, host: Host) -> None:
    """Removes a host's device, and with it the switch's end of it."""
    switch.ns.run("ip", "link", "del", host.port)


def make_device(switch: Switch, host: Host) -> None:
    """Makes them anew: same names, another index."""
    peer = ("peer", "name", host.device, "address", host.mac, "netns", host.ns.name)
    switch.ns.run("ip", "link", "add", host.port, "type", "veth", *peer)
    switch.ns.run("ip", "link", "set", host.port, "up")
    host.ns.run("ip", "link", "set", host.device, "up")


def reopen(switch: Switch, host: Host) -> None:
    """Has Open vSwitch open a device that was made anew.

    A port that is to have another number is made anew (`bridge_delete_or_reconfigure_ports` in
    `vswitchd/bridge.c`). On a busy machine it then may keep its socket on the device that is gone,
    and forwards nothing: it is asked again. The kernel's datapath has let go of the device, and
    opens the new one.
    """
    if KERNELS:
        return
    index = index_of(switch, host.port)

    def is_open() -> bool:
        return index in (switch.ns.call(open_sockets) or {}).values()

    for number in (1000, 2000, 3000):
        switch.vsctl("set", "Interface", host.port, f"ofport_request={number + index}")
        with contextlib.suppress(TimeoutError):
            wait_for(is_open, 2.0)
            return
    raise AssertionError(f"Open vSwitch does not open {host.port}")


def await_copies(ground: Testbed, sender: Host, output: Host, seconds: float = 2 * LATE) -> float:
    """Waits until what is sent is copied; returns how many seconds that took."""
    started = time.monotonic()
    with Capture.of(output) as copies:

        def seen() -> bool:
            sender.send([sequenced(sender, ground.b, _PROBE, 0)])
            return bool(copies.sequences(_PROBE))

        wait_for(seen, seconds, f"copies of what {sender.name} sends")
    return time.monotonic() - started
