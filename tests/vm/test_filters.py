"""Filters of others beside ours on a clsact qdisc, of several kinds."""

from __future__ import annotations

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import sequenced
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.model.desired import CLSACT

pytestmark = pytest.mark.vm

KINDS = {
    "basic": "",
    "flower": "dst_mac 02:00:00:00:00:01",
    "matchall": "",
    "u32": "match u32 0 0",
}


def test_they_are_left_alone(switch: Switch) -> None:
    """All kinds at once, as the start of a sidecar takes long in an emulated machine."""
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    switch.mirror("m", src=[a], output=m)

    def theirs() -> dict[str, list[str]]:
        shown = switch.ns.run("tc", "filter", "show", "dev", a.port, "ingress").stdout
        lines = shown.splitlines()
        return {kind: [line for line in lines if f" {kind} " in line] for kind in KINDS}

    with SidecarProcess(switch, "--attach", CLSACT) as tap:
        tap.wait_state("m", "offloaded")
        for number, (kind, match) in enumerate(KINDS.items(), 50000):
            behind = ("dev", a.port, "ingress", "protocol", "ip", "pref", str(number), kind)
            switch.ns.run("tc", "filter", "add", *behind, *match.split(), "action", "continue")
        added = theirs()
        assert all(added.values()), added
        tap.native("m")
        tap.offload("m")
        with Capture.of(m) as copies:
            a.send([sequenced(a, b, 1, number) for number in range(10)])
            copies.wait_quiet()
            assert copies.sequences(1) == list(range(10))
        assert theirs() == added
    assert "Traceback" not in tap.log()
    assert tap.run("release", "--all").returncode == 0
    assert theirs() == added
