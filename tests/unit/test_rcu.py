"""The kernel's setting, as it was and in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovs_ebpf_tap import rcu


@pytest.mark.parametrize("before", ["0\n", "1\n"])
def test_it_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    setting = tmp_path / "rcu_expedited"
    setting.write_text(before)
    monkeypatch.setattr(rcu, "_EXPEDITED", setting)
    with rcu.expedited():
        assert setting.read_text()[0] == "1"
    assert setting.read_text() == before


def test_a_kernel_without_it_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rcu, "_EXPEDITED", tmp_path / "missing")
    with rcu.expedited():
        pass
    assert not (tmp_path / "missing").exists()
