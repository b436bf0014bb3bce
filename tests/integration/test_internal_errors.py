"""Faults of ours, and odd names of devices: they concern their mirror, and the sidecar goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

import ovs_ebpf_tap
from ovs_ebpf_tap.daemon import control
from ovs_ebpf_tap.lab.kernel import has_tcx
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from talking import Trio, copies_of

PACKAGE = Path(ovs_ebpf_tap.__path__[0]).parent

_FAULTS = """
import pathlib
from ovs_ebpf_tap.daemon import reconciler
from ovs_ebpf_tap.decide import component_planner

def failing(owner, name, fails):
    original = getattr(owner, name)
    def wrapper(self, *given):
        if fails(*given):
            raise KeyError("a fault")
        return original(self, *given)
    setattr(owner, name, wrapper)

failing(reconciler.Reconciler, "run", lambda now: pathlib.Path({path!r}).exists())
failing(component_planner, "check_mirror", lambda mirror: mirror.name == "bad")
"""


def test_faults_of_ours(switch: Switch, trio: Trio, idle: SidecarProcess, tmp_path: Path) -> None:
    a, b, m = trio
    switch.mirror("bad", src=[b], output=switch.add_host("n", with_ip=False))
    every = tmp_path / "every-pass-fails"
    (tmp_path / "sitecustomize.py").write_text(_FAULTS.format(path=str(every)))
    idle.start(env={"PYTHONPATH": f"{tmp_path}:{PACKAGE}"})
    idle.wait_state("m1", "offloaded")
    assert idle.state("bad") == "native"
    assert idle.reason("bad") == "internal error: KeyError: 'a fault'; see the log"
    assert idle.log().count("Traceback (most recent call last)") == 1
    assert copies_of(a, b, m) == 1
    every.touch()
    switch.vsctl("set", "Mirror", "bad", "external_ids:other=1")
    wait_for(lambda: "again_in_seconds=1.0" in idle.log(), 30, "a pass that failed twice")
    assert idle.log().count("Traceback (most recent call last)") <= 2
    assert copies_of(a, b, m) == 1
    assert control.call(idle.run_dir, "status")
    every.unlink()
    idle.set_mode("m1", "native")
    idle.wait_settled("m1", "native", 30)
    idle.offload("m1")
    assert idle.stop() == 0


@pytest.mark.skipif(not has_tcx(), reason="on clsact, hw-offload leaves mirrors to Open vSwitch")
def test_names_of_devices(switch: Switch, trio: Trio, tap: SidecarProcess) -> None:
    """Whatever the kernel takes for a name, with hw-offload, which has all devices looked at."""
    a, b, m = trio
    tap.wait_state("m1", "offloaded")
    for name in ("**", "a**b", "[", "\udcff\udcfe", "\N{SNOWMAN}", "{0}"):
        switch.ns.run("ip", "link", "add", name, "type", "veth")
    switch.vsctl("set", "Open_vSwitch", ".", "other_config:hw-offload=true")
    # It takes a pass with hw-offload to have the row say so.
    tap.native("m1")
    tap.offload("m1")
    assert copies_of(a, b, m) == 1
    assert "internal error" not in tap.log()
    assert "pass failed" not in tap.log()
