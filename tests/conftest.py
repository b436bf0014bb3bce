"""Fixtures for tests on a real Open vSwitch, and the figures that tests report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from faults.table import print_table
from ovs_ebpf_tap.lab.netns import reap
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, reap_pins
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.systemd import reap_cgroups
from talking import Trio, add_trio
from told import told

_FIGURE = "figure"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use a switch need a real one: say so, and leave them out without root."""
    for item in items:
        if "switch" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.openvswitch)


@pytest.fixture(scope="session", autouse=True)
def no_leftovers() -> None:
    """Removes what earlier runs left behind that were killed."""
    if os.geteuid() == 0:
        reap()
        reap_pins()
        reap_cgroups()


@pytest.fixture
def switch() -> Iterator[Switch]:
    """A real Open vSwitch with the bridge br0."""
    with Switch() as made:
        made.add_bridge()
        yield made


@pytest.fixture
def tap(switch: Switch) -> Iterator[SidecarProcess]:
    """A running sidecar beside the switch."""
    with SidecarProcess(switch) as started:
        yield started


@pytest.fixture
def idle(switch: Switch) -> Iterator[SidecarProcess]:
    """A sidecar that is not started; its files are removed at the end."""
    made = SidecarProcess(switch)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def trio(switch: Switch) -> Trio:
    """Two hosts that talk, and one that monitors; m1 mirrors the first both ways."""
    return add_trio(switch)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Any:
    """Call it with a line to be printed at the end of the run."""
    properties = request.node.user_properties
    return lambda text: properties.append((_FIGURE, f"{request.node.name}: {text}"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints what faults came to, and what tests measured.

    Here, as workers alone read the conftest of a directory that was not named.
    """
    print_table(terminalreporter)
    lines = dict.fromkeys(told(terminalreporter, _FIGURE))
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.line(line)
