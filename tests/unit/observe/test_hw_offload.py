"""How long hw-offload is in force, and the devices whose hardware it concerns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.rows import Database
from ovs_ebpf_tap.observe import ethtool
from ovs_ebpf_tap.observe.hw_offload import HwOffload

UNSET = Database()
SET = replace(UNSET, hw_offload=True)


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    path = tmp_path / "ovs-vswitchd.pid"
    path.write_text("100\n")
    return path


def test_it_lasts_as_long_as_the_process_that_was_told(pid_file: Path) -> None:
    seen = HwOffload(pid_file.parent)
    assert seen.look(UNSET) is UNSET
    assert seen.look(SET) is SET
    assert seen.look(UNSET) == SET
    pid_file.write_text("101\n")
    assert seen.look(UNSET) is UNSET


def test_nobody_was_told(pid_file: Path) -> None:
    pid_file.unlink()
    seen = HwOffload(pid_file.parent)
    assert seen.look(SET) is SET
    assert seen.look(UNSET) is UNSET


def test_hidden(pid_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = {"nic"}
    monkeypatch.setattr(ethtool, "takes_flows", lambda device: device in takes)
    devices = {
        name: Device(n, name, mtu=1500, up=True, running=True) for n, name in ((7, "nic"), (8, "v"))
    }
    seen = HwOffload(pid_file.parent)
    assert seen.hidden(devices).keys() == {7}
    takes.add("v")
    assert seen.hidden(devices).keys() == {7}
    seen.refresh()
    assert seen.hidden(devices).keys() == {7, 8}
