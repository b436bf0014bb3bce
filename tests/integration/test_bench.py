"""The benchmarks, at their smallest: they measure, whatever that comes to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_control() -> None:
    small = ("--rounds=2", "--starts=1", "--idle=0.5", "--ports=6", "--mirrors=3", "--json")
    command = (sys.executable, "-m", "bench.control_path", *small)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
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


def test_churn() -> None:
    small = ("--seconds=0.5", "--rounds=1", "--rate=100", "--flows=100", "--json")
    command = (sys.executable, "-m", "bench.flow_churn", *small)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["unit"] for row in rows] == ["% of a core", "s", *4 * ["% of a core", "", "s"]]
    assert all(row["worst"] == 0 for row in rows if not row["unit"])


def test_copy() -> None:
    small = ("--setups=2", "--rounds=1", "--batches=1", "--no-others")
    command = (sys.executable, "-m", "bench.copy_cost", *small)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS)
    assert done.returncode == 0, done.stderr
    assert "64 bytes a frame" in done.stdout
    assert "1400 bytes a frame" in done.stdout
    assert "clsact / u32 mirred: " in done.stdout


def test_forward() -> None:
    command = (sys.executable, "-m", "bench.forward", "--rounds=1", "--seconds=0.2")
    done = subprocess.run(
        (*command, "--json"), capture_output=True, text=True, check=False, cwd=TESTS
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["commands"] == ["scripts/bench forward --rounds=1 --seconds=0.2 --json"]
    assert found["variants"] == ["none", "native", "tc", "offloaded"]
    for load in found["summary"].values():
        copies = {name: load["copies_pps"][name] for name in found["variants"]}
        assert copies.pop("none") is None
        assert all(each["median"] for each in copies.values())
        assert load["missing"]["offloaded"]["maximum"] == 0
