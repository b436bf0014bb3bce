"""ovs-vswitchd's control socket: whether its revalidators are done, which is in no table.

The only module that talks to it. Its revalidator threads go over all flows in rounds; a change
that concerns flows starts one (`udpif_revalidator` in `ofproto/ofproto-dpif-upcall.c`).
"""

from __future__ import annotations

import contextlib
import re
import time
from errno import EAGAIN
from pathlib import Path
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream

from ovs_ebpf_tap import rpc
from ovs_ebpf_tap.spare import Spare
from ovs_ebpf_tap.timers import wake_at

_WAIT = "revalidator/wait"
_SHOW = "upcall/show"
_DUMP_DURATION = re.compile(r"dump duration\s*:\s*(\d{1,9})ms")

_RUNNABLE = "RD"
"""States in `/proc/PID/task/TID/stat`: it runs or is to, or is in the kernel."""

_CONNECT = 100  # ms
_MAX_ANSWERS = 1 << 20  # bytes
_NEXT_ROUND = 0.02
"""Seconds, and _NEXT_ROUND_DURATIONS times what a round takes, in which a round that is due has
ended: it begins within 5 ms, and takes longer than most since it revalidates all flows."""
_NEXT_ROUND_DURATIONS = 8
_WORKING = 0.005
"""Seconds until it is looked again whether a round is under way that is late."""
_UNKNOWN = 0.3
"""Seconds that are waited where ovs-vswitchd does not answer, or has several datapaths."""
_LIMIT = 5.0
"""Seconds after which no more is waited for a round that does not end."""


class Revalidation:
    """Waits until a round over all flows has ended that began after now.

    ovs-vswitchd tells when the next round ends, and how long it took; not when it began. So the
    first that ends may have begun too early, and the one behind it has not. There is none behind
    it if it has seen all that is to be seen: then it is waited for as long as one would take, and
    for as long as a revalidator has work, which on a busy machine waits for its turn.
    """

    def __init__(self, run_dir: Path, spare: Spare | None = None) -> None:
        """`run_dir` is where the Open vSwitch has its pid files and sockets.

        It borrows the spare descriptor: all the while it lasts, copies are doubled.
        """
        self._limit = self._until = time.monotonic() + _LIMIT
        self._spare = spare
        if spare is not None:
            spare.lend()
        self._pid = read_pid(run_dir)
        self._connection: Any = _connect(run_dir, self._pid)
        self.done = False
        # Answered one after the other, and asked at once: a round may last no longer than a reply.
        self._asked = [_WAIT, _SHOW, _WAIT]
        for command in self._asked:
            self._ask(command)

    def _ask(self, command: str) -> None:
        if self._connection is None or self._connection.send(
            ovs.jsonrpc.Message.create_request(command, [])
        ):
            self._give_up()

    def _give_up(self) -> None:
        # Also where it was nearly done: what was said before an end of ovs-vswitchd counts no more.
        self.close()
        self._until = min(self._limit, time.monotonic() + _UNKNOWN)

    def close(self) -> None:
        """Gives back what it has taken; any number of times."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._spare is not None:
            self._spare.keep()

    def run(self) -> None:
        """Takes in what ovs-vswitchd has said."""
        while self._connection is not None:
            self._connection.run()
            error, reply = self._connection.recv()
            if error == EAGAIN:
                break
            if error or reply.error is not None or not self._asked:
                self._give_up()
            else:
                self._take(self._asked.pop(0), str(reply.result))
        now = time.monotonic()
        if self.done or now < self._until:
            return
        if self._asked and now < self._limit and is_revalidating(self._pid):
            self._until = now + _WORKING
        else:
            self.done = True
            self.close()

    def _take(self, command: str, said: str) -> None:
        now = time.monotonic()
        if command == _SHOW:
            durations = (int(ms) / 1000 for ms in _DUMP_DURATION.findall(said))
            due = _NEXT_ROUND + _NEXT_ROUND_DURATIONS * max(durations, default=0.0)
            self._until = min(self._until, now + due)
        elif not self._asked:
            self._until = now

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        wake_at(poller, self._until)
        if self._connection is not None:
            self._connection.wait(poller)
            self._connection.recv_wait(poller)


def read_pid(run_dir: Path) -> int | None:
    """The process id that ovs-vswitchd has written down, None if there is none."""
    try:
        return int((run_dir / "ovs-vswitchd.pid").read_text())
    except (OSError, ValueError):
        return None


def is_revalidating(pid: int | None) -> bool:
    """Whether a revalidator thread runs, or waits for a CPU."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            name, _, rest = (task / "stat").read_text().rpartition(") ")
            if "(revalidator" in name and rest[0] in _RUNNABLE:
                return True
    return False


def is_running(run_dir: Path) -> bool:
    """Whether ovs-vswitchd takes connections."""
    connection = _connect(run_dir, read_pid(run_dir))
    if connection is None:
        return False
    connection.close()
    return True


def _connect(run_dir: Path, pid: int | None) -> Any:
    """A connection to the control socket of that process, or None."""
    if pid is None:
        return None
    name = f"unix:{run_dir / f'ovs-vswitchd.{pid}.ctl'}"
    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(name), timeout=_CONNECT)
    return None if error else rpc.connection(stream, _MAX_ANSWERS)
