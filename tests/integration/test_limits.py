"""The limits that `bpf/README.md` names: what Open vSwitch copies, and what hooks copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import Address, udp_frame
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.traffic import Stream, send
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from talking import wait_revalidated

NATIVE, OFFLOADED = "native", "offloaded"
MODES = {NATIVE: "native", OFFLOADED: "offload"}


@dataclass(frozen=True)
class Place:
    """A device, and the namespace that it is in."""

    ns: Netns
    device: str


@dataclass(frozen=True)
class LimitsBench:
    """A mirror of what `a` sends and `b` is sent; `br1` is behind a patch port."""

    switch: Switch
    tap: SidecarProcess
    a: Host
    b: Host
    monitor: Host

    def copies(self, frame: bytes, do: Callable[[], object]) -> dict[str, int]:
        """How many copies of the frame are made while it is done, by who makes them."""
        made = {}
        for state, mode in MODES.items():
            self.tap.set_mode("m", mode)
            self.tap.wait_settled("m", state)
            wait_revalidated(self.switch)
            with Capture.of(self.monitor) as capture:
                do()
                capture.wait_quiet(patience(0.1))
            made[state] = capture.multiset()[frame]
        return made


@pytest.fixture(scope="module")
def bench() -> Iterator[LimitsBench]:
    """For all tests."""
    with Switch() as switch:
        switch.add_bridge()
        switch.add_bridge("br1")
        a, b, monitor = (switch.add_host(name, with_ip=False) for name in "abm")
        for bridge, port, peer in (("br0", "p0", "p1"), ("br1", "p1", "p0")):
            patch = ("set", "Interface", port, "type=patch", f"options:peer={peer}")
            switch.vsctl("add-port", bridge, port, "--", *patch)
        switch.learn(a, b)
        switch.mirror("m", src=[a], dst=[b], output=monitor)
        with SidecarProcess(switch) as tap:
            yield LimitsBench(switch, tap, a, b, monitor)


def test_packet_out_of_a_controller(bench: LimitsBench) -> None:
    """Its `in_port` is a mirrored port, where no such packet has passed a hook."""
    frame = udp_frame(bench.a, bench.b, b"from a controller")
    message = f"in_port={bench.a.port}, packet={frame.hex()}, actions=local"
    made = bench.copies(frame, lambda: bench.switch.ofctl("packet-out", "br0", message))
    assert made == {NATIVE: 1, OFFLOADED: 0}


def test_frames_that_the_host_sends_through_a_port(bench: LimitsBench) -> None:
    """As lldpd does: past Open vSwitch, but not past the hook on the device's egress."""
    frame = udp_frame(Address("02:aa:00:00:00:01", "10.0.0.99"), bench.b, b"from the host")
    device = Place(bench.switch.ns, bench.b.port)
    made = bench.copies(frame, lambda: send(device, [frame]))
    assert made == {NATIVE: 0, OFFLOADED: 1}


def test_packets_that_leave_by_a_patch_port_and_come_back(bench: LimitsBench) -> None:
    """Open vSwitch copies once for each time that they pass the mirror's bridge."""
    flows = [
        ("br0", f"priority=9,in_port={bench.a.port},udp,actions=output:p0"),
        ("br0", f"priority=9,in_port=p0,udp,actions=output:{bench.b.port}"),
        ("br1", "priority=9,in_port=p1,udp,actions=in_port"),
    ]
    try:
        for bridge, flow in flows:
            bench.switch.ofctl("add-flow", bridge, flow)
        frame = udp_frame(bench.a, bench.b, b"there and back")
        made = bench.copies(frame, lambda: bench.a.send([frame]))
    finally:
        for bridge in ("br0", "br1"):
            bench.switch.ofctl("del-flows", bridge, "udp")
    assert made == {NATIVE: 2, OFFLOADED: 1}


def test_cleared_and_created_in_two_transactions(bench: LimitsBench) -> None:
    """In between, Open vSwitch's running flows go on copying; hooks do not."""
    with Stream(bench.a, bench.b, rate=1_000) as stream:
        for state, mode in MODES.items():
            bench.switch.vsctl("clear", "Bridge", "br0", "mirrors")
            ids = {"ebpf-tap-mode": mode}
            bench.switch.mirror("m", src=[bench.a], output=bench.monitor, external_ids=ids)
            bench.tap.wait_settled("m", state)
            bench.switch.appctl("revalidator/purge")
            with Capture.of(bench.monitor) as capture:
                wait_for(lambda c=capture: c.sequences(stream.stream_id), what="copies")  # type: ignore[misc]
            bench.switch.vsctl("clear", "Bridge", "br0", "mirrors")
            wait_for(lambda: not bench.tap.status() and not bench.tap.is_moving(), what="rest")
            time.sleep(patience(0.2))
            with Capture.of(bench.monitor) as between:
                time.sleep(patience(0.2))
            assert bool(between.sequences(stream.stream_id)) is (state == NATIVE)


@dataclass(frozen=True)
class BondCase:
    """Ports that a mirror selects, `bond` among them, and where a frame is sent from."""

    src: Sequence[str]
    dst: Sequence[str]
    sender: str
    native: int


BOND_CASES = [
    BondCase(["a0"], ["bond"], "a", native=2),
    BondCase([], ["bond"], "a", native=2),
    BondCase(["bond"], ["bond"], "a", native=2),
    BondCase(["bond"], [], "b", native=1),
    BondCase(["bond"], ["a0"], "b", native=1),
]


def test_a_bond_whose_flows_recirculate(switch: Switch) -> None:
    """Open vSwitch 3.1.0 copies what leaves by the bond, and again when it has recirculated.

    That is no reason to leave such a mirror native: hooks make the copies due.
    """
    switch.add_bridge("br1")
    for number in (0, 1):
        ends = (f"x{number}", "up", "type", "veth", "peer", "name", f"y{number}")
        switch.ns.run("ip", "link", "add", *ends)
        switch.ns.run("ip", "link", "set", f"y{number}", "up")
    lacp = ("lacp=active", "bond_mode=balance-tcp", "other_config:lacp-time=fast")
    for bridge, name, end in (("br0", "bond", "x"), ("br1", "far", "y")):
        switch.vsctl("add-bond", bridge, name, f"{end}0", f"{end}1", *lacp)
    a = switch.add_host("a", with_ip=False)
    b = switch.add_host("b", bridge="br1", with_ip=False)
    monitor = switch.add_host("m", with_ip=False)
    wait_for(lambda: switch.appctl("lacp/show", "bond").count("current attached") == 2)
    hosts = {"a": (a, b), "b": (b, a)}
    with SidecarProcess(switch) as tap:
        bench = LimitsBench(switch, tap, a, b, monitor)
        for case in BOND_CASES:
            sender, receiver = hosts[case.sender]
            switch.vsctl("clear", "Bridge", "br0", "mirrors")
            switch.mirror("m", src=case.src, dst=case.dst, output=monitor)
            frame = udp_frame(sender, receiver, b"over a bond")
            with Capture.of(receiver) as arrived:
                made = bench.copies(frame, lambda s=sender, f=frame: s.send([f]))  # type: ignore[misc]
                arrived.wait_quiet(patience(0.1))
            assert arrived.multiset()[frame] == len(MODES)
            assert made == {NATIVE: case.native, OFFLOADED: 1}, case
