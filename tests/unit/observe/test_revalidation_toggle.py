"""What ovs-vswitchd is asked for, and what is made of its answers; its bridges have no OpenFlow."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import ovs.poller
import pytest
from fake_database import FakeDatabase, Message, reply

from ovs_ebpf_tap.lab.waiting import patience
from ovs_ebpf_tap.observe import revalidation
from ovs_ebpf_tap.observe.revalidation import Revalidation
from ovs_ebpf_tap.util.reserve_fd import ReserveFd


class FakeVswitchd:
    """Answers to commands at the control socket, as ovs-vswitchd does."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.commands: list[str] = []
        self.datapaths = "system@ovs-system:\n"
        self.refuses = False

    def answer(self, request: Message) -> bytes:
        self.commands.append(request["method"])
        if self.refuses:
            return reply(request, None, "unknown command")
        return reply(request, self.datapaths if request["method"] == "upcall/show" else "")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        (self.run_dir / "ovs-vswitchd.pid").write_text(f"{os.getpid()}\n")
        path = self.run_dir / f"ovs-vswitchd.{os.getpid()}.ctl"
        with FakeDatabase(path, self.answer):
            yield
        path.unlink()


@pytest.fixture
def vswitchd(tmp_path: Path) -> FakeVswitchd:
    return FakeVswitchd(tmp_path)


def turn(made: Revalidation) -> None:
    poller = ovs.poller.Poller()
    made.wait(poller)
    poller.timer_wait(20)
    poller.block()
    made.run()


def finish(made: Revalidation, seconds: float = 5) -> None:
    deadline = time.monotonic() + patience(seconds)
    while not made.done:
        assert time.monotonic() < deadline
        turn(made)


def test_without_bridges_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert Revalidation.begin(tmp_path, []).done


def test_flows_are_purged_where_openflow_does_not_do(vswitchd: FakeVswitchd) -> None:
    with vswitchd.running():
        finish(Revalidation.begin(vswitchd.run_dir, ["br0", "a/b"]))
    assert vswitchd.commands == ["upcall/show", "revalidator/purge"]


def test_one_that_has_no_datapath_yet_is_asked_again(vswitchd: FakeVswitchd) -> None:
    vswitchd.datapaths = "\n"
    with vswitchd.running():
        made = Revalidation.begin(vswitchd.run_dir, ["br0"])
        while vswitchd.commands.count("upcall/show") < 3:
            turn(made)
        assert made.lost
        vswitchd.datapaths = "system@ovs-system:\n"
        finish(made)
    assert not made.lost
    assert vswitchd.commands[-1] == "revalidator/purge"


def test_the_next_one_is_waited_for(
    vswitchd: FakeVswitchd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revalidation, "_UNKNOWN", 60.0)
    made = Revalidation.begin(vswitchd.run_dir, ["br0"])
    for _ in range(3):
        turn(made)
    assert made.lost
    assert not made.done
    with vswitchd.running():
        finish(made)
    assert vswitchd.commands[-1] == "revalidator/purge"


def test_without_any_it_is_given_up(vswitchd: FakeVswitchd) -> None:
    started = time.monotonic()
    finish(Revalidation.begin(vswitchd.run_dir, ["br0"]))
    assert time.monotonic() - started >= revalidation._UNKNOWN


def test_one_that_knows_no_command_is_asked_again(vswitchd: FakeVswitchd) -> None:
    """It answers so before it has read the database."""
    vswitchd.refuses = True
    with vswitchd.running():
        made = Revalidation.begin(vswitchd.run_dir, ["br0"])
        while vswitchd.commands.count("upcall/show") < 2:
            turn(made)
        vswitchd.refuses = False
        finish(made)


def test_the_spare_descriptor_is_lent_for_as_long_as_it_lasts(vswitchd: FakeVswitchd) -> None:
    spare = ReserveFd()
    made = Revalidation.begin(vswitchd.run_dir, ["br0"], spare)
    assert spare._fd is None
    made.close()
    made.close()
    assert spare._fd is not None
    spare.lend()
