"""A bridge that learns addresses, with machines in VLANs of their own, as libvirt makes it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from deployments.comparison import compare
from deployments.connections import connect
from deployments.kinds import NumberedFrames
from deployments.mirrors import UserMirror
from deployments.outputs import Output
from deployments.paced import send_paced
from deployments.places import Place, access
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch

MIRRORS = [
    UserMirror("one-in", src=["a0"]),
    UserMirror("one-out", dst=["a0"], output="tap"),
    UserMirror("one-both", src=["a0"], dst=["a0"], output="internal"),
    UserMirror("two-both", src=["a0", "b0"], dst=["a0", "b0"], output="dummy"),
    UserMirror("all", select_all=True),
    UserMirror("all-cut", select_all=True, snaplen=96),
    UserMirror("all-of-a-vlan", select_all=True, select_vlan=[20]),
]


class LearningSwitch:
    """Two machines in VLAN 10, one in VLAN 20, and a trunk."""

    name = "learning switch"
    bridge = "br0"

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self._frames = NumberedFrames()
        switch.add_bridge()
        tags = {"a": 10, "b": 10, "c": 20}
        self._hosts = [switch.add_host(name, tag=tag) for name, tag in tags.items()]
        self.places = [
            Place(host.port, host, access(tag))
            for host, tag in zip(self._hosts, tags.values(), strict=True)
        ]
        self._hosts.append(switch.add_host("t"))
        self.places.append(Place("t0", self._hosts[-1]))

    def add_mirror(self, mirror: UserMirror, output: Output) -> None:
        """Nobody else makes mirrors here."""
        raise NotImplementedError(mirror.name)

    def play(self) -> None:
        """Frames of all kinds between all, and a connection."""
        a, b, *_ = self._hosts
        for src, dst in itertools.permutations(self._hosts, 2):
            send_paced(src.send, self._frames.between(src, dst))
        connect(a.ns, b.ns, b.ip)


@pytest.fixture(scope="module")
def deployment() -> Iterator[LearningSwitch]:
    with Switch("learning") as switch:
        yield LearningSwitch(switch)


def test_copies_are_those_due(
    deployment: LearningSwitch, record_property: Callable[[str, object], None]
) -> None:
    with SidecarProcess(deployment.switch) as sidecar:
        problems = compare(deployment, sidecar, MIRRORS, record_property)
    assert not problems, "\n".join(problems)
