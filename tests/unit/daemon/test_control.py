"""The lock of the run directory."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from ovs_ebpf_tap.daemon.control import LOCK, RunDir, Server, call, is_settled
from ovs_ebpf_tap.errors import TapError


def test_a_second_one_is_refused(tmp_path: Path) -> None:
    first = RunDir.take(tmp_path / "run")
    with pytest.raises(TapError, match="another ovs-ebpf-tap runs"):
        RunDir.take(tmp_path / "run")
    first.release()
    assert not (tmp_path / "run").exists()
    RunDir.take(tmp_path / "run").release()


def test_a_lock_that_its_owner_removes_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one that starts as another ends would hold a file that the next does not see."""
    path = tmp_path / "run"
    ending = RunDir.take(path)
    flock = fcntl.flock

    def end_before(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        ending.release()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", end_before)
    starting = RunDir.take(path)
    assert (path / LOCK).read_text() == f"{os.getpid()}\n"
    with pytest.raises(TapError, match="another ovs-ebpf-tap runs"):
        RunDir.take(path)
    starting.release()


def test_a_directory_that_its_owner_removes_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    ending = RunDir.take(path)
    opening = os.open

    def end_before(name: Path, flags: int, mode: int) -> int:
        monkeypatch.undo()
        ending.release()
        return opening(name, flags, mode)

    monkeypatch.setattr(os, "open", end_before)
    RunDir.take(path).release()


def test_an_answer_comes_as_it_was_given(tmp_path: Path) -> None:
    lock = RunDir.take(tmp_path / "run")
    server = Server.listen(tmp_path / "run")
    server.register("settled", lambda: "no")
    answers: list[str | None] = []
    caller = threading.Thread(target=lambda: answers.append(call(tmp_path / "run", "settled")))
    caller.start()
    while caller.is_alive():
        server.run()
        caller.join(0.01)
    server.close()
    lock.release()
    assert answers == ["no"]


@pytest.mark.parametrize(("answer", "settled"), [("yes", True), ("no", False), (None, True)])
def test_a_sidecar_is_settled_if_it_says_so_or_is_not_there(
    answer: str | None, settled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovs_ebpf_tap.daemon.control.call", lambda *_: answer)
    assert is_settled(tmp_path) == settled
