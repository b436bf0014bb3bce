"""The kernel's setting, as it was and in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_ebpf_tap.apply import rcu
from ovs_ebpf_tap.ebpf import bpf

FD = 5


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The kernel's file; pins are common files."""
    path = tmp_path / "rcu_expedited"
    monkeypatch.setattr(rcu, "EXPEDITED", path)
    monkeypatch.setattr(bpf, "pin", lambda fd, path: path.write_text(str(fd)))
    yield path
    assert {each.name for each in tmp_path.iterdir()} <= {path.name}


@pytest.mark.parametrize("before", ["0", "1"])
def test_it_is_put_back(setting: Path, tmp_path: Path, before: str) -> None:
    setting.write_text(before)
    with rcu.expedited(tmp_path, FD):
        assert setting.read_text() == "1"
    assert setting.read_text() == before


def test_it_is_put_back_for_one_that_was_killed(setting: Path, tmp_path: Path) -> None:
    setting.write_text("0")
    killed = rcu.expedited(tmp_path, FD)
    killed.__enter__()
    assert setting.read_text() == "1"
    rcu.restore(tmp_path)
    assert setting.read_text() == "0"


def test_what_somebody_else_has_set_stays(setting: Path, tmp_path: Path) -> None:
    setting.write_text("1")
    rcu.restore(tmp_path)
    assert setting.read_text() == "1"


def test_a_kernel_without_it_takes_its_time(setting: Path, tmp_path: Path) -> None:
    with rcu.expedited(tmp_path, FD):
        pass
    assert not setting.exists()
