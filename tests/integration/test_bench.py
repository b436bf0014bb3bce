"""The benchmarks, at their smallest: they measure, whatever that comes to."""

from __future__ import annotations

import json
import os

import pytest

from ovs_ebpf_tap.bench import control


@pytest.mark.openvswitch
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_control(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--rounds=2", "--starts=1", "--idle=0.5", "--ports=6", "--mirrors=3", "--json")
    assert control.main(small) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["unit"], row["n"]) for row in rows] == [
        ("ms", 2),
        ("ms", 2),
        ("MiB", 1),
        ("% of a core", 1),
        ("s", 1),
        ("s", 1),
        ("% of a core", 1),
        ("ms", 2),
        ("ms", 2),
        ("MiB", 1),
    ]
    assert all(row["limits"] and row["worst"] >= 0 for row in rows)
