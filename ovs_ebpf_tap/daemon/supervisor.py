"""What the supervisor is told: sd_notify(3)'s datagrams, where it asks for them.

`NOTIFY_SOCKET` and `WATCHDOG_USEC` in the environment say where and how often, as
systemd's `Type=notify` and `WatchdogSec=` set them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Self

import ovs.poller

from ovs_ebpf_tap.util.timers import wake_at

_OWN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_SECOND = 1_000_000  # in microseconds


class Supervisor:
    """The supervisor of this process; without one, what it is told goes nowhere."""

    def __init__(self, opened: socket.socket, address: str, period: float) -> None:
        """`address` is where it listens, "" for nowhere; `period` is how often it is to be told
        that we are alive, in seconds, 0 for never.
        """
        self._socket = opened
        self._address = address
        self._period = period
        self._next_alive = 0.0
        self._status = ""

    @classmethod
    def open(cls, environ: MutableMapping[str, str] = os.environ) -> Self:
        """Takes what concerns this process out of the environment: children are not asked."""
        address, period, pid = (environ.pop(name, "") for name in _OWN)
        # An abstract address has a zero byte in the place of its @.
        address = f"\0{address[1:]}" if address.startswith("@") else address
        opened = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        ours = pid in ("", str(os.getpid()))
        return cls(
            opened, address, int(period) / _SECOND / 2 if ours and period.isdecimal() else 0.0
        )

    def ready(self) -> None:
        """It has started."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """It is about to end."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """What it does, in one line; told when it changes."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def starting(self, seconds: float) -> None:
        """It has not started yet, and may need as much longer."""
        self._tell(f"EXTEND_TIMEOUT_USEC={int(seconds * _SECOND)}")

    def alive(self) -> None:
        """It works; told twice in the time after which it would be restarted."""
        now = time.monotonic()
        if self._period and now >= self._next_alive:
            self._next_alive = now + self._period
            self._tell("WATCHDOG=1")

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up in time for `alive`."""
        if self._period:
            wake_at(poller, self._next_alive)

    def _tell(self, message: str) -> None:
        if self._address:
            with contextlib.suppress(OSError):  # It does not listen, which is not ours to mend.
                self._socket.sendto(message.encode(), self._address)
