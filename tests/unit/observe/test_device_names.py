"""Devices by name, and by the names that they had."""

from __future__ import annotations

import pytest

from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.observe.device_names import DeviceNames


def device(ifindex: int, name: str, mtu: int = 1500) -> Device:
    return Device(ifindex, name, mtu, up=True, running=True)


@pytest.fixture
def names() -> DeviceNames:
    made = DeviceNames()
    made.replace([device(1, "lo"), device(2, "a")])
    return made


def known(names: DeviceNames) -> dict[str, int]:
    names.update()
    return {name: each.ifindex for name, each in names.devices.items()}


def test_a_device_is_new_once(names: DeviceNames) -> None:
    assert names.add(device(3, "b"))
    assert not names.add(device(3, "b"))
    assert known(names) == {"lo": 1, "a": 2, "b": 3}


def test_former_names_lead_to_the_device(names: DeviceNames) -> None:
    names.add(device(2, "b"))
    names.add(device(2, "c"))
    assert known(names) == {"lo": 1, "a": 2, "b": 2, "c": 2}
    assert names.devices["a"].name == "c"


def test_a_former_name_is_lost_to_the_device_that_takes_it(names: DeviceNames) -> None:
    names.add(device(2, "b"))
    names.add(device(3, "a"))
    assert known(names) == {"lo": 1, "a": 3, "b": 2}
    names.remove(device(3, "a"))
    assert known(names) == {"lo": 1, "b": 2}


def test_only_the_last_names_are_remembered(names: DeviceNames) -> None:
    for name in "bcdef":
        names.add(device(2, name))
    assert known(names) == {"lo": 1, **dict.fromkeys("bcdef", 2)}


def test_what_is_gone_tells_its_names(names: DeviceNames) -> None:
    names.add(device(2, "b"))
    assert names.remove(device(2, "b")) == ("b", "a")
    assert known(names) == {"lo": 1}


def test_a_list_of_all_devices_tells_of_new_names(names: DeviceNames) -> None:
    names.replace([device(1, "lo"), device(2, "b")])
    assert known(names) == {"lo": 1, "a": 2, "b": 2}


def test_the_version_grows_when_something_changed(names: DeviceNames) -> None:
    assert names.version == 1
    names.add(device(2, "a"))
    names.update()
    assert names.version == 1
    devices = names.devices
    names.add(device(2, "a", mtu=9000))
    assert names.devices is devices  # Until `update`.
    names.update()
    assert names.version == 2
    assert names.devices["a"].mtu == 9000
