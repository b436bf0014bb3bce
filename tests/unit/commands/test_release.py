"""Which mirrors `release` means, and how it waits for a running sidecar."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from builders import World, switch

from ovs_ebpf_tap.commands import release
from ovs_ebpf_tap.daemon import control
from ovs_ebpf_tap.daemon.runtime import Options
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.observe.ovsdb import Ovsdb


@pytest.fixture
def world() -> World:
    world = switch().add_bridge("br1").add_port("x", bridge="br1")
    world.add_mirror("m", src="a", out="out").add_mirror("n", src="b", out="out")
    return world.add_mirror("other", bridge="br1", src="x")


def test_mirrors_are_chosen_by_name_or_uuid(world: World) -> None:
    m, n = (world.mirrors[name] for name in "mn")
    assert release._choose(world.db, ("n",)) == [n]
    assert release._choose(world.db, (str(m.uuid), "n")) == [m, n]
    assert len(release._choose(world.db, ())) == 3
    with pytest.raises(TapError, match="no mirror x: see"):
        release._choose(world.db, ("m", "x"))


def test_mirrors_of_one_name_are_told_apart_by_their_bridges(world: World) -> None:
    world.set_mirror("other", name="m")
    told = [release._described(mirror, world.db) for mirror in world.mirrors.values()]
    assert told == ["m of br0", "n", "m of br1"]


@dataclass
class FakeSidecar:
    """Has the lock until it was looked at so often; answers each command so."""

    locked: int = 0
    answers: list[str | None] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    released: int = 0

    def call(self, _run_dir: Path, command: str) -> str | None:
        self.asked.append(command)
        return self.answers.pop(0) if self.answers else None

    def take(self, _run_dir: Path) -> FakeSidecar:
        if self.locked:
            self.locked -= 1
            raise control.LockedError("another ovs-ebpf-tap runs")
        return self

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def sidecar(monkeypatch: pytest.MonkeyPatch) -> FakeSidecar:
    fake = FakeSidecar()
    monkeypatch.setattr(control, "call", fake.call)
    monkeypatch.setattr(control.RunDir, "take", fake.take)
    monkeypatch.setattr("ovs_ebpf_tap.apply.leftovers.others", lambda *_: ["left"])
    monkeypatch.setattr(release, "_release_all_alone", lambda *_: fake.asked.append("alone"))
    return fake


def release_all(tmp_path: Path) -> list[str]:
    options = Options("unix:x", run_dir=tmp_path, pin_dir=tmp_path / "pins")
    return release._release_all(options, cast(Ovsdb, None))


def test_a_running_sidecar_releases_all_and_ends(sidecar: FakeSidecar, tmp_path: Path) -> None:
    sidecar.locked, sidecar.answers = 2, [""]
    assert release_all(tmp_path) == ["left"]
    assert sidecar.asked == ["release"]
    assert sidecar.released == 1


def test_one_that_does_not_listen_yet_is_asked_again(sidecar: FakeSidecar, tmp_path: Path) -> None:
    sidecar.locked, sidecar.answers = 3, [None, None, ""]
    release_all(tmp_path)
    assert sidecar.asked == ["release"] * 3


def test_without_a_sidecar_it_is_done_here(sidecar: FakeSidecar, tmp_path: Path) -> None:
    release_all(tmp_path)
    assert sidecar.asked == ["release", "alone"]


def test_what_a_sidecar_left_is_done_here(sidecar: FakeSidecar, tmp_path: Path) -> None:
    sidecar.answers = [""]
    (tmp_path / "pins").mkdir()
    release_all(tmp_path)
    assert sidecar.asked == ["release", "alone"]


def test_a_sidecar_that_does_not_end_is_an_error(
    sidecar: FakeSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "PATIENCE", 0.05)
    sidecar.locked, sidecar.answers = 10_000, [""]
    with pytest.raises(TapError, match="did not give the mirrors back: see its log"):
        release_all(tmp_path)
    assert sidecar.released == 0
