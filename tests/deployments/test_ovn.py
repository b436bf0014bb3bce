"""OVN on two chassis, whose mirrors users make by ovn-nbctl, or by hand on br-int."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from deployments.comparison import compare
from deployments.connections import connect
from deployments.kinds import NumberedFrames
from deployments.mirrors import UserMirror
from deployments.outputs import Output
from deployments.ovn_daemons import restart_controller
from deployments.ovn_network import (
    BALANCED_IP,
    BALANCED_PORT,
    BALANCED_TO_ONE_IP,
    FAR_IP,
    FLOATING_IP,
    OUTSIDE_IP,
    SERVER_PORT,
    WIRE,
    Machine,
    OvnNetwork,
)
from deployments.paced import send_paced
from deployments.places import Device, Place, within_geneve
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.differences import stream_difference
from ovs_ebpf_tap.lab.frames import Station
from ovs_ebpf_tap.lab.ovs_daemons import DEBIAN_12_OVS, NEWER_OVS
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.traffic import Stream, send
from ovs_ebpf_tap.lab.waiting import wait_for

TENANT = ("vm10", "vm20", "vm40")
"""The ports of both logical switches on the first chassis."""

TUNNEL = "ovn-chassi-0"

WITH_TUNNEL = [
    UserMirror("all", select_all=True, offloaded=False),
    UserMirror("tunnel-in", src=[TUNNEL], offloaded=False),
]
"""Apart from the others: as a native mirror, the first would select their output ports."""
BY_HAND = [
    UserMirror("one-in", src=["vm10"]),
    UserMirror("one-out", dst=["vm10"], output="tap"),
    UserMirror("one-both", src=["vm10"], dst=["vm10"], output="internal"),
    UserMirror("one-both-cut", src=["vm20"], dst=["vm20"], snaplen=96),
    UserMirror("two-both", src=["vm10", "vm40"], dst=["vm10", "vm40"], output="dummy"),
    UserMirror("conversation", src=["vm10"], dst=["vm20"]),
    UserMirror("tenant-in", src=TENANT, output="tap"),
    UserMirror("tenant-out", dst=TENANT, output="dummy"),
    UserMirror("tenant-both", src=TENANT, dst=TENANT),
    UserMirror("tenant-untagged", src=TENANT, dst=TENANT, select_vlan=[0], output="tap"),
]
BY_OVN = [
    UserMirror("ovn-in", src=["vm10"], by_others=True),
    UserMirror("ovn-out", dst=["vm10"], output="tap", by_others=True),
    UserMirror("ovn-both", src=["vm10"], dst=["vm10"], output="internal", by_others=True),
    UserMirror("ovn-tenant", src=TENANT, dst=TENANT, output="dummy", by_others=True),
]
_FILTERS = {(True, False): "from-lport", (False, True): "to-lport", (True, True): "both"}


class OvnDeployment:
    """The first chassis; its port of a machine is called by the machine's name and a 0."""

    bridge = "br-int"

    def __init__(self, name: str, network: OvnNetwork) -> None:
        self.name = name
        self._network = network
        self._frames = NumberedFrames()

    @property
    def switch(self) -> Switch:
        """The first chassis."""
        return self._network.chassis[0]

    @property
    def places(self) -> Sequence[Place]:
        """The machines on it."""
        machines, switch = self._network.machines, self.switch
        return [
            *(Place(port, machines[port.removesuffix("0")]) for port in TENANT),
            Place(TUNNEL, Device(switch.ns, WIRE), of_switch=True, inner=within_geneve),
        ]

    def add_mirror(self, mirror: UserMirror, output: Output) -> None:
        """Has OVN make it."""
        sink = f"sink-{mirror.name}"
        self.switch.set_columns("Interface", output.port, external_ids={"mirror-id": sink})
        selection = _FILTERS[bool(mirror.src), bool(mirror.dst)]
        nbctl = self._network.ovn.nbctl
        nbctl("mirror-add", mirror.name, "local", selection, sink)
        for port in mirror.src or mirror.dst:
            nbctl("lsp-attach-mirror", port.removesuffix("0"), mirror.name)
        self._network.ovn.sync()
        self.switch.wait_until("Mirror", mirror.name, "external_ids:ovn-owned=true")

    def play(self) -> None:
        """Frames of all kinds within a network, by the router and to services; connections."""
        vm1, vm2, vm3, vm4, vm5 = self._network.machines.values()
        outside = self._network.outside
        pairs: list[tuple[Machine, Station]] = [
            (vm1, vm2),
            (vm2, vm1),
            (vm1, vm3),
            (vm3, vm1),
            (vm1, vm1.via_router(vm4.ip)),
            (vm4, vm4.via_router(vm1.ip)),
            (vm2, vm2.via_router(vm5.ip)),
            (vm5, vm5.via_router(vm2.ip)),
            (vm1, vm1.via_router(BALANCED_IP)),
            (vm2, vm2.via_router(OUTSIDE_IP)),
            (vm1, vm1.via_router(FAR_IP)),
            (outside, outside.via_router(FLOATING_IP)),
        ]
        for source, to in pairs:
            send_paced(partial(send, source), self._frames.between(source, to))
        for client, server, address in [
            (vm1, vm2, vm2.ip),
            (vm1, vm4, vm4.ip),
            (vm4, vm3, vm3.ip),
            (vm2, outside, OUTSIDE_IP),
            (outside, vm1, FLOATING_IP),
        ]:
            connect(client.ns, server.ns, address, SERVER_PORT)
        connect(vm1.ns, vm4.ns, BALANCED_TO_ONE_IP, BALANCED_PORT, SERVER_PORT)


@pytest.fixture(scope="module", params=[DEBIAN_12_OVS, NEWER_OVS], ids=["ovn 23.03", "ovn 25.03"])
def network(request: pytest.FixtureRequest) -> Iterator[tuple[Path, OvnNetwork]]:
    """OVN of a release."""
    with OvnNetwork(request.param) as made:
        yield request.param, made


def test_copies_are_those_due(
    network: tuple[Path, OvnNetwork], record_property: Callable[[str, object], None]
) -> None:
    release, running = network
    newer = release == NEWER_OVS
    deployment = OvnDeployment(f"ovn {'25.03' if newer else '23.03'}", running)
    mirrors = BY_HAND + (BY_OVN if newer else [])
    with SidecarProcess(deployment.switch) as sidecar:
        problems = compare(deployment, sidecar, WITH_TUNNEL, record_property)
        for mirror in WITH_TUNNEL:
            deployment.switch.remove_mirror(mirror.name, deployment.bridge)
        first = len(WITH_TUNNEL)
        problems += compare(deployment, sidecar, mirrors, record_property, first)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("network", [NEWER_OVS], indirect=True, ids=["ovn 25.03"])
def test_no_copy_is_missing_when_ovn_controller_starts(network: tuple[Path, OvnNetwork]) -> None:
    """It makes its rows anew."""
    _, running = network
    switch, nbctl = running.chassis[0], running.ovn.nbctl
    vm1, vm2 = running.machines["vm1"], running.machines["vm2"]
    output = switch.add_host("anew", "br-int", with_ip=False)
    switch.set_columns("Interface", output.port, external_ids={"mirror-id": "anew"})
    nbctl("mirror-add", "anew", "local", "from-lport", "anew")
    nbctl("lsp-attach-mirror", "vm1", "anew")
    running.ovn.sync()
    switch.wait_until("Mirror", "anew", "external_ids:ovn-owned=true")
    with SidecarProcess(switch) as sidecar:
        sidecar.wait_state("anew", "offloaded", 30)
        rows = {switch.get("Mirror", "anew", "_uuid")}
        with Capture.of(output) as copies:
            with Stream(vm1, vm2, rate=1000) as stream:
                for _ in range(2):
                    restart_controller(switch)
                    wait_for(lambda: switch.get("Mirror", "anew", "_uuid") not in {"", *rows}, 30)
                    sidecar.wait_state("anew", "offloaded", 30)
                    rows.add(switch.get("Mirror", "anew", "_uuid"))
            copies.wait_quiet()
            missing = stream_difference(stream.sent, copies.sequences(stream.stream_id)).missing
    nbctl("mirror-del", "anew")
    running.ovn.sync()
    assert missing == []
    assert len(rows) == 3
