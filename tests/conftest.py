"""Fixtures for tests on a real Open vSwitch, and the figures that tests report."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from deployments import outcome_table as deployments_table
from faults import outcome_table as faults_table
from ovs_ebpf_tap.lab.netns import reap
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, reap_pins
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.systemd import reap_cgroups
from ovs_ebpf_tap.model.desired import TCX
from reported import reported
from talking import Trio, add_trio

_FIGURE = "figure"


_PURE = ("unit", "lab")
"""Directories whose tests need no switch, if they do not say so; all others' do."""

# How long an example takes depends on what else the machine does.
settings.register_profile("whole", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=10)
settings.load_profile("whole")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need, and skip those that need root without it."""
    is_root = os.geteuid() == 0
    for item in items:
        directory = item.path.relative_to(Path(__file__).parent).parts[0]
        if directory not in _PURE or "switch" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.openvswitch)
        if TCX in _parameters(item):
            item.add_marker(pytest.mark.tcx)
        if not is_root and {"openvswitch", "root"} & {each.name for each in item.iter_markers()}:
            item.add_marker(pytest.mark.skip(reason="needs root"))


def _parameters(item: pytest.Item) -> Collection[object]:
    """The values that the test is parametrized with."""
    callspec = getattr(item, "callspec", None)
    return () if callspec is None else callspec.params.values()


@pytest.fixture(scope="session", autouse=True)
def no_leftovers() -> None:
    """Removes what earlier runs left behind that were killed.

    One after the other does, of the processes that run tests side by side: they would remove the
    same.
    """
    if os.geteuid() == 0:
        directory = os.open(tempfile.gettempdir(), os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            reap()
            reap_pins()
            reap_cgroups()
        finally:
            os.close(directory)


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
    """Prints what faults and deployments came to, and what tests measured.

    Here, as workers alone read the conftest of a directory that was not named.
    """
    faults_table.print_table(terminalreporter)
    deployments_table.print_table(terminalreporter)
    lines = dict.fromkeys(reported(terminalreporter, _FIGURE))
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.line(line)
