"""What arrives at every port is the same whether Open vSwitch copies or we do.

A scenario is a topology with mirrors, and frames to send. Its native run is the oracle for its
offloaded run; both the copies and the production traffic are compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from played import Sent, play

from ovs_ebpf_tap.lab.differences import difference
from ovs_ebpf_tap.lab.frames import arp_request, ethernet, icmp_frame, udp_frame
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.names import unique_name
from ovs_ebpf_tap.lab.sidecar_process import BPFFS, SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.tap import TapDevice


@dataclass
class Scenario:
    """What to send, in order, and who shall get it besides the switch's hosts."""

    sent: Sent
    others: list[Host | TapDevice] = field(default_factory=list)


SCENARIOS: dict[str, Callable[[Switch], Scenario]] = {}
IN_VM: set[str] = set()


def scenario(build: Callable[[Switch], Scenario]) -> Callable[[Switch], Scenario]:
    SCENARIOS[build.__name__] = build
    return build


def in_vm(build: Callable[[Switch], Scenario]) -> Callable[[Switch], Scenario]:
    """A scenario that is played in an emulated machine, too."""
    IN_VM.add(build.__name__)
    return build


def hosts(switch: Switch, names: str = "abcm", **values: object) -> list[Host]:
    """Silent hosts, so that only what is sent is on the wire."""
    return [switch.add_host(name, with_ip=False) for name in names]


def talk(a: Host | TapDevice, b: Host | TapDevice, count: int = 20) -> list[bytes]:
    """Frames of many lengths, some of them identical."""
    different = [udp_frame(a, b, bytes([n]) * (n * 37 % 1400)) for n in range(count)]
    return [*different, *[udp_frame(a, b, b"again")] * 10, icmp_frame(a, b)]


def flood(a: Host | TapDevice, count: int = 5) -> list[bytes]:
    """Broadcast, multicast and unknown unicast."""
    multicast = ethernet("01:00:5e:00:00:09", a.mac, 0x88B5, b"multicast" * 6)
    unknown = ethernet("02:ff:00:00:00:01", a.mac, 0x88B5, b"unknown" * 9)
    return [arp_request(a, "10.0.0.250"), multicast, unknown] * count


def both_ways(
    a: Host | TapDevice, b: Host | TapDevice
) -> list[tuple[Host | TapDevice, list[bytes]]]:
    return [(a, talk(a, b)), (b, talk(b, a)), (a, flood(a)), (b, flood(b))]


@scenario
def source(switch: Switch) -> Scenario:
    a, b, c, m = hosts(switch)
    switch.learn(a, b, c)
    switch.mirror("m1", src=[a], output=m)
    return Scenario([*both_ways(a, b), *both_ways(b, c)])


@scenario
def destination(switch: Switch) -> Scenario:
    a, b, c, m = hosts(switch)
    switch.learn(a, b, c)
    switch.mirror("m1", dst=[a], output=m)
    return Scenario([*both_ways(a, b), *both_ways(b, c)])


@scenario
def both_directions_of_a_port(switch: Switch) -> Scenario:
    a, b, c, m = hosts(switch)
    switch.learn(a, b, c)
    switch.mirror("m1", src=[a], dst=[a], output=m)
    return Scenario([*both_ways(a, b), *both_ways(c, a)])


@scenario
def source_and_destination_of_one_packet(switch: Switch) -> Scenario:
    a, b, c, m = hosts(switch)
    switch.learn(a, b, c)
    switch.mirror("m1", src=[a], dst=[b], output=m)
    return Scenario([*both_ways(a, b), *both_ways(c, b)])


@scenario
def several_destinations_of_a_flood(switch: Switch) -> Scenario:
    a, b, c, m = hosts(switch)
    d = switch.add_host("d", with_ip=False)
    switch.learn(a)
    switch.mirror("m1", dst=[b, c, d], output=m)
    return Scenario([(a, flood(a, 10)), (a, talk(a, b)), (b, flood(b, 10))])


@scenario
def select_all(switch: Switch) -> Scenario:
    a, b, c, m = hosts(switch)
    switch.learn(a, b, c)
    switch.mirror("m1", select_all=True, output=m)
    return Scenario([*both_ways(a, b), *both_ways(b, c)])


@scenario
def several_mirrors_with_one_output(switch: Switch) -> Scenario:
    a, b, c, m = hosts(switch)
    switch.learn(a, b, c)
    switch.mirror("m1", src=[a], output=m)
    switch.mirror("m2", dst=[b], output=m)
    switch.mirror("m3", src=[a, c], dst=[c], output=m)
    return Scenario([*both_ways(a, b), *both_ways(b, c), *both_ways(c, a)])


@scenario
def several_mirrors_of_one_port(switch: Switch) -> Scenario:
    a, b, _, m = hosts(switch)
    n = switch.add_host("n", with_ip=False)
    switch.learn(a, b)
    switch.mirror("m1", src=[a], dst=[a], output=m)
    switch.mirror("m2", src=[a], dst=[b], output=n)
    return Scenario(both_ways(a, b))


@scenario
def chain(switch: Switch) -> Scenario:
    a, b, _, m = hosts(switch)
    n = switch.add_host("n", with_ip=False)
    switch.learn(a, b)
    switch.mirror("m1", src=[a], output=m)
    switch.mirror("m2", dst=[m], output=n)
    return Scenario(both_ways(a, b))


@in_vm
@scenario
def ring(switch: Switch) -> Scenario:
    a, b, _, m = hosts(switch)
    n = switch.add_host("n", with_ip=False)
    switch.learn(a, b)
    switch.mirror("m1", src=[a], dst=[n], output=m)
    switch.mirror("m2", src=[b], dst=[m], output=n)
    return Scenario(both_ways(a, b))


@scenario
def two_that_select_all(switch: Switch) -> Scenario:
    a, b, _, m = hosts(switch)
    n = switch.add_host("n", with_ip=False)
    switch.learn(a, b)
    switch.mirror("m1", select_all=True, output=m)
    switch.mirror("m2", select_all=True, output=n)
    return Scenario(both_ways(a, b))


@in_vm
@scenario
def flow_that_sends_to_a_ring(switch: Switch) -> Scenario:
    a, b, _, m = hosts(switch)
    n = switch.add_host("n", with_ip=False)
    switch.learn(a, b)
    switch.mirror("m1", dst=[n], output=m)
    switch.mirror("m2", dst=[m], output=n)
    port = switch.ofport(n)
    switch.ofctl("add-flow", "br0", f"priority=10,udp,actions=output:{port}")
    return Scenario([(a, talk(a, b)), (b, talk(b, a))])


@scenario
def arrivals_on_the_output_port(switch: Switch) -> Scenario:
    a, b, _, m = hosts(switch)
    switch.learn(a, b)
    switch.mirror("m1", select_all=True, output=m)
    return Scenario([(m, talk(m, b)), (m, flood(m)), *both_ways(a, b)])


@scenario
def internal_source(switch: Switch) -> Scenario:
    a, _, _, m = hosts(switch)
    i = switch.add_internal("int0")
    switch.learn(a, i)
    switch.mirror("m1", src=[i], output=m)
    return Scenario([*both_ways(a, i)], [i])


@scenario
def internal_destination(switch: Switch) -> Scenario:
    a, _, _, m = hosts(switch)
    i = switch.add_internal("int0")
    switch.learn(a, i)
    switch.mirror("m1", dst=[i], output=m)
    return Scenario([*both_ways(a, i)], [i])


@scenario
def internal_destinations(switch: Switch) -> Scenario:
    a, _, _, m = hosts(switch)
    i = switch.add_internal("int0")
    j = switch.add_internal("int1")
    switch.learn(a, i, j)
    switch.mirror("m1", dst=[i, j], output=m)
    return Scenario([*both_ways(a, i), *both_ways(i, j)], [i, j])


@in_vm
@scenario
def internal_output(switch: Switch) -> Scenario:
    a, b, _, _ = hosts(switch)
    i = switch.add_internal("int0")
    switch.learn(a, b)
    switch.mirror("m1", src=[a], dst=[a], output=i)
    return Scenario([*both_ways(a, b)], [i])


@in_vm
@scenario
def select_all_to_an_internal_output(switch: Switch) -> Scenario:
    a, b, _, _ = hosts(switch)
    i = switch.add_internal("int0")
    switch.learn(a, b)
    switch.mirror("m1", select_all=True, output=i)
    return Scenario([*both_ways(a, b)], [i])


@scenario
def virtual_machine_with_a_tap(switch: Switch) -> Scenario:
    a, _, _, m = hosts(switch)
    t = switch.add_tap("tap0")
    switch.learn(a, t)
    switch.mirror("m1", src=[t], dst=[t], output=m)
    return Scenario([*both_ways(a, t)], [t])


@scenario
def bond_as_source_and_destination(switch: Switch) -> Scenario:
    a, _, _, m = hosts(switch)
    bond = switch.add_bond("bond0", ["p", "q"], with_ip=False, bond_mode="active-backup")
    switch.learn(a)
    switch.mirror("m1", src=[bond], dst=[bond], output=m)
    return Scenario(
        [
            (a, flood(a)),
            (a, talk(a, bond.members[0])),
            (bond.members[0], talk(bond.members[0], a)),
            (bond.members[1], talk(bond.members[1], a)),
        ]
    )


@scenario
def packets_that_the_flow_table_drops(switch: Switch) -> Scenario:
    a, b, _, m = hosts(switch)
    switch.learn(a, b)
    switch.ofctl("add-flow", "br0", "priority=10,udp,actions=drop")
    switch.mirror("m1", src=[a], dst=[b], output=m)
    return Scenario(both_ways(a, b))


@scenario
def packets_sent_back_where_they_came_from(switch: Switch) -> Scenario:
    a, b, _, m = hosts(switch)
    switch.learn(a, b)
    switch.ofctl("add-flow", "br0", "priority=10,udp,actions=in_port,normal")
    switch.mirror("m1", src=[a], dst=[a], output=m)
    return Scenario([(a, talk(a, b)), (b, talk(b, a))])


@scenario
def packet_out_of_a_controller(switch: Switch) -> Scenario:
    a, b, _, m = hosts(switch)
    switch.learn(a, b)
    switch.mirror("m1", src=[a], dst=[b], output=m)
    frame = udp_frame(a, b, b"from nowhere").hex()
    port = switch.ofport(b)

    class Controller:
        def send(self, frames: Iterable[bytes]) -> int:
            sent = list(frames)
            for _ in sent:
                switch.ofctl("packet-out", "br0", f"in_port=NONE packet={frame} actions={port}")
            return len(sent)

    return Scenario([(Controller(), [b""] * 3), *both_ways(a, b)])


@scenario
def tagged_frames_through_trunks(switch: Switch) -> Scenario:
    a, b, _, m = hosts(switch)
    switch.learn(a, b)
    switch.mirror("m1", src=[a], dst=[b], output=m)
    tags = [[10], [4094], [7, 8], [4095], [4095, 5]]
    frames = [udp_frame(a, b, b"tagged", tags=tag) for tag in tags for _ in range(3)]
    back = [udp_frame(b, a, b"tagged", tags=tag) for tag in tags for _ in range(3)]
    return Scenario([(a, frames), (b, back), (a, talk(a, b))])


@in_vm
@scenario
def frames_longer_than_the_output_takes(switch: Switch) -> Scenario:
    a, b, _ = hosts(switch, "abc")
    m = switch.add_host("m", mtu=1000, with_ip=False)
    switch.learn(a, b)
    switch.mirror("m1", src=[a], dst=[b], output=m)
    lengths = [900, 957, 958, 959, 962, 963, 1400]
    frames = [udp_frame(a, b, b"x" * length) for length in lengths]
    tagged = [udp_frame(a, b, b"x" * length, tags=[10]) for length in lengths]
    return Scenario([(a, frames), (a, tagged)])


@pytest.fixture(scope="module")
def pins() -> Iterator[Path]:
    """One pin directory for all: what a test leaves there, the next sidecar clears away."""
    path = BPFFS / unique_name("copies")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("attach", attachments())
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.vm] if name in IN_VM else []) for name in SCENARIOS],
)
def test_offloaded_is_as_native(switch: Switch, pins: Path, name: str, attach: str) -> None:
    built = SCENARIOS[name](switch)
    everyone = [*switch.hosts.values(), *built.others]
    mirrors = switch.vsctl("--bare", "--columns=name", "find", "Mirror").split()
    with SidecarProcess(switch, "--attach", attach, pin_dir=pins) as sidecar:
        sidecar.native(*mirrors)
        play(everyone, built.sent)  # Learns addresses, so that both runs find the same.
        native = play(everyone, built.sent)
        sidecar.offload(*mirrors)
        switch.appctl("revalidator/wait")  # On a busy machine, flows are behind the rows.
        offloaded = play(everyone, built.sent)
        assert {each["state"] for each in sidecar.status()} == {"offloaded"}
    assert any(native[place] for place in native), "nothing was seen"
    for place, expected in native.items():
        found = difference(expected, offloaded[place])
        assert not found, f"at {place}: {found}"
