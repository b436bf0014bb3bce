"""`run` waits for the database, and ends when it is told to."""

from __future__ import annotations

import signal
import threading
from typing import cast

import pytest

from ovs_ebpf_tap.commands import run
from ovs_ebpf_tap.daemon.supervisor import Supervisor
from ovs_ebpf_tap.util.signals import EndingSignals, Interrupted


class FakeSupervisor:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def status(self, text: str) -> None:
        self.told.append(text)

    def starting(self, seconds: float) -> None:
        pass


@pytest.fixture
def supervisor() -> FakeSupervisor:
    return FakeSupervisor()


def await_schema(supervisor: FakeSupervisor) -> dict[str, object]:
    with EndingSignals((signal.SIGTERM,), ignored=True) as signals:
        return run._await_schema("unix:x", signals, cast(Supervisor, supervisor))


def test_it_asks_until_the_database_answers(
    supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[dict[str, object] | None] = [None, None, {"name": "Open_vSwitch"}]

    def fetch(_remote: str, _seconds: float) -> dict[str, object]:
        answer = answers.pop(0)
        if answer is None:
            raise ConnectionError("nobody listens")
        return answer

    monkeypatch.setattr(run, "fetch_schema", fetch)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    assert await_schema(supervisor) == {"name": "Open_vSwitch"}
    assert supervisor.told == ["waiting for the database: nobody listens"] * 2


def test_a_signal_ends_the_wait(
    supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(_remote: str, _seconds: float) -> dict[str, object]:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        raise ConnectionError("nobody listens")

    monkeypatch.setattr(run, "fetch_schema", fetch)
    with pytest.raises(Interrupted):
        await_schema(supervisor)


def test_a_request_to_release_is_one_to_stop() -> None:
    requests = run._Requests()
    assert requests.ask_stop() == ""
    assert (requests.stop, requests.release) == (True, False)
    assert requests.ask_release() == ""
    assert requests.release
