from __future__ import annotations

import re
from pathlib import Path

import pytest

import ovs_ebpf_tap
from faults.points import POINTS, Probe
from ovs_ebpf_tap.util import probes


def test_a_probe_does_nothing_without_a_handler() -> None:
    probes.probe("nobody waits here")


def test_a_handler_is_told_of_each_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[tuple[str, object]] = []
    monkeypatch.setattr(probes, "handlers", [lambda *point: reached.append(point)])
    probes.probe("here")
    probes.probe("there", 5)
    assert reached == [("here", None), ("there", 5)]


def test_the_code_has_the_probes_that_faults_wait_for() -> None:
    sources = Path(ovs_ebpf_tap.__path__[0]).rglob("*.py")
    found = {name for path in sources for name in re.findall(r'probe\("([^"]*)"', path.read_text())}
    wanted = {p.name or point for point, p in POINTS.items() if isinstance(p, Probe)}
    assert wanted == found
