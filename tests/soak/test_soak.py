"""A minute of it, and that it finds what it is there to find."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from random import Random

import pytest

from ovs_ebpf_tap.lab.kernel import has_tcx
from parity.case import Case
from soak import loop, replay, steps
from soak.pair import Pair
from soak.readings import SidecarUsage, growth, lives
from soak.replay import Frames

SEED = 1
SECONDS = 60.0


def test_copies_are_those_of_open_vswitch_alone(
    capsys: pytest.CaptureFixture[str], figure: Callable[[str], None]
) -> None:
    status = loop.run(SEED, SECONDS)
    printed = capsys.readouterr().out
    figure(printed.partition("\nsteps ")[2].partition("\n")[0].strip() + " steps")
    assert status == 0, printed


def test_a_missing_copy_ends_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = replay.play
    lost: list[bytes] = []

    def play(pair: Pair, case: Case) -> tuple[Frames, Frames]:
        tested, oracle = real(pair, case)
        if not lost:
            lost.append(next(iter(tested["vb"])))
            tested["vb"][lost[0]] -= 1
        return tested, oracle

    monkeypatch.setattr(loop, "play", play)
    assert loop.run(SEED, SECONDS) == 1
    printed = capsys.readouterr().out
    assert f"failed at seed {SEED}: step 1: " in printed
    assert "behind vb: 1 missing, 0 extra, 0 altered" in printed
    assert f"--seed {SEED} --step 1" in printed


@pytest.mark.skipif(not has_tcx(), reason="no TCX")
def test_what_is_left_over_ends_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []

    def take(rng: Random, pair: Pair, *, may_end: bool) -> tuple[str, str]:
        pair.foreign.attach_link("va")
        # It goes with its device.
        left.append(pair.foreign.links.pop("va"))
        return "leave", "a link left"

    monkeypatch.setattr(steps, "take", take)
    try:
        assert loop.run(SEED, SECONDS) == 1
    finally:
        for link in left:
            os.close(link)
    printed = capsys.readouterr().out
    assert "FailedError: 1 TCX programs on devices, not 0\nports: " in printed


def test_growth_is_told_at_equal_numbers_of_mirrors() -> None:
    assert growth(_life([(1, 100), (2, 200)] * 6), "memory") == 0
    assert growth(_life([(step % 2, 100 + step) for step in range(12)]), "memory") == 8
    assert growth(_life([(step, 100 + step) for step in range(12)]), "memory") == 0


def test_short_lives_tell_nothing() -> None:
    long = _life([(1, 1)] * 12, pid=2)
    assert lives([*_life([(1, 1)] * 11), *long]) == [long]


def _life(readings: Sequence[tuple[int, int]], pid: int = 1) -> list[SidecarUsage]:
    return [
        SidecarUsage(pid, mirrors, memory, descriptors=9, threads=1, hooks=0)
        for mirrors, memory in readings
    ]
