"""Bridges of tools that are not here, by their flows and rows: copies are those due."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments import neutron, plain_plans
from deployments.comparison import compare
from deployments.planned_bridges import PlannedBridges
from deployments.rows import BridgePlan
from ovs_ebpf_tap.lab.names import unique_name
from ovs_ebpf_tap.lab.ovs_daemons import NEWER_OVS
from ovs_ebpf_tap.lab.sidecar_process import BPFFS, SidecarProcess, remove_pins
from ovs_ebpf_tap.lab.switch import Switch

PLANS = [*neutron.PLANS, *plain_plans.PLANS]
VERSIONS = {"3.1.0": None, "3.5.0": NEWER_OVS}


@pytest.fixture(scope="module")
def pins() -> Iterator[Path]:
    """Where sidecars find the programs that others have compiled."""
    directory = BPFFS / unique_name("planned")
    yield directory
    remove_pins(directory)


@pytest.mark.parametrize("ovs", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_copies_are_those_due(
    plan: BridgePlan, ovs: Path | None, pins: Path, record_property: Callable[[str, object], None]
) -> None:
    with (
        Switch("planned", ovs=ovs) as switch,
        PlannedBridges(plan, switch) as bridges,
        SidecarProcess(switch, pin_dir=pins) as sidecar,
    ):
        problems = compare(bridges, sidecar, plan.mirrors, record_property)
        if plan.later:
            switch.vsctl("clear", "Bridge", plan.bridge, "mirrors")
            problems += compare(
                bridges, sidecar, plan.later, record_property, first=len(plan.mirrors)
            )
    assert not problems, "\n".join(problems)
