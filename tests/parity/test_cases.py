"""Every case of this directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from ovs_ebpf_tap.lab.kernel import attachments
from parity import cases_flows
from parity.case import Case, datapath_type
from parity.case_bridge import ParityBench
from parity.runner import check


def _parameters() -> Sequence[object]:
    """All cases with hooks as usual, those marked `all_hooks` with the others as well."""
    found = []
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        cases: list[Case] = import_module(f"parity.{path.stem}").CASES
        for case in cases:
            if datapath_type() not in case.datapaths:
                continue
            for attach in attachments() if case.all_hooks else attachments()[:1]:
                name = f"{path.stem.removeprefix('cases_')}-{case.name}-{attach}"
                marks = [pytest.mark.vm] if case.in_vm else []
                found.append(pytest.param(attach, case, id=name, marks=marks))
    return found


def _modifying() -> Sequence[Case]:
    """The cases whose flows change packets, with each change once."""
    one_way = ("_source", "_destination")
    return [c for c in cases_flows.CASES if c.modifies and not c.name.endswith(one_way)]


@pytest.mark.parametrize(("bench", "case"), _parameters(), indirect=["bench"], scope="session")
def test_offloaded_is_as_native(bench: ParityBench, case: Case) -> None:
    check(bench, case)


@pytest.mark.parametrize("case", _modifying(), ids=lambda case: case.name)
def test_beside_a_newer_ovs(
    newer_bench: ParityBench, case: Case, figure: Callable[[str], None]
) -> None:
    """It copies second forms, and makes surplus copies."""
    native, wanted = check(newer_bench, case)
    if native != wanted:
        figure(f"Open vSwitch made {native} copies of {wanted}")
