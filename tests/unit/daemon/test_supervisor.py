"""What a supervisor is told, on a socket of the test's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_ebpf_tap.daemon.supervisor import Supervisor


class Listener:
    """What systemd would have been told."""

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self.name = name

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> list[str]:
        told = []
        while True:
            try:
                told.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return told


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    made = Listener(
        f"@tap-lab-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    )
    try:
        yield made
    finally:
        made.close()


def test_it_is_told(listener: Listener) -> None:
    environ = {"NOTIFY_SOCKET": listener.name, "OTHER": "kept"}
    told = Supervisor.open(environ)
    assert environ == {"OTHER": "kept"}
    told.starting(1.5)
    told.status("1 of 2")
    told.status("1 of 2")
    told.ready()
    told.alive()  # It did not ask.
    told.status("2 of 2")
    told.stopping()
    assert listener.heard() == [
        "EXTEND_TIMEOUT_USEC=1500000",
        "STATUS=1 of 2",
        "READY=1",
        "STATUS=2 of 2",
        "STOPPING=1",
    ]


def test_it_hears_twice_a_period(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    told = Supervisor.open(
        {
            "NOTIFY_SOCKET": listener.name,
            "WATCHDOG_USEC": "4000000",
            "WATCHDOG_PID": str(os.getpid()),
        }
    )
    heard = []
    for _ in range(9):
        told.alive()
        heard.append(len(listener.heard()))
        now += 0.5
    assert heard == [1, 0, 0, 0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "4000000"},
        {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "never"},
        {"NOTIFY_SOCKET": "relative", "WATCHDOG_USEC": "-1"},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
    ],
)
def test_nobody_listens(environ: dict[str, str]) -> None:
    told = Supervisor.open(environ)
    told.starting(1)
    told.ready()
    told.status("x")
    told.alive()
    told.stopping()


def test_another_process_is_watched(listener: Listener) -> None:
    told = Supervisor.open(
        {"NOTIFY_SOCKET": listener.name, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    )
    told.alive()
    assert listener.heard() == []
