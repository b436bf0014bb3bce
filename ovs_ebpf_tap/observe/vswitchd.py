"""Has ovs-vswitchd revalidate its flows, and tells when its revalidators are done.

The only module that talks to its control socket. Its revalidator threads go over all flows in
rounds; a change that concerns flows starts one (`udpif_revalidator` in
`ofproto/ofproto-dpif-upcall.c`).
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Collection
from errno import EAGAIN, ECONNREFUSED, EMSGSIZE, ENOENT, EPROTO
from pathlib import Path
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream

from ovs_ebpf_tap.observe import rpc
from ovs_ebpf_tap.observe.openflow import RevalidationRequest, management_socket, may_serve
from ovs_ebpf_tap.util.reserve_fd import ReserveFd
from ovs_ebpf_tap.util.timers import wake_at

_WAIT = "revalidator/wait"
_SHOW = "upcall/show"
_PURGE = "revalidator/purge"

_AT_WORK = "RDT"
"""States in `/proc/PID/task/TID/stat`: it runs or is to, is in the kernel, or was stopped."""

_STARTED_AT = 19
"""The place of `starttime` in the same file, counted from the state."""

_CONNECT = 100  # ms
_MAX_ANSWERS = 1 << 20  # bytes
_MAD = (EPROTO, EMSGSIZE)
"""Errors of connections to what is no ovs-vswitchd."""
_WORKING = 0.005
"""Seconds until it is looked again whether revalidators work: as long as between two rounds."""
_UNKNOWN = 0.3
"""Seconds that are waited where ovs-vswitchd is not to be found, or has several datapaths."""
_LIMIT = 5.0
"""Seconds after which no more is waited for rounds that do not end."""

_LEAST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5
"""Seconds until it is looked again for the next ovs-vswitchd."""
_PAUSE = 0.1
"""The same as a share of the time for which there has been none."""


class Revalidation:
    """Has all flows revalidated, and waits until a round over them has ended that began after that.

    A change of a mirror alone does not concern flows that are running (`mirror_set` in
    `ofproto/ofproto-dpif-mirror.c`). They are revalidated as for a change of a bridge's flow
    tables; where that bridge's OpenFlow will not do, they are purged, at the price of an upcall for
    each.

    `revalidator/wait` returns when a round ends, which may have begun before the request: the one
    behind it has not, so two are waited for. A round may also be over before it is waited for, and
    the next one half a second away: as long as no revalidator works, another one is requested.
    `revalidator/purge` returns when all flows are gone.

    What an ovs-vswitchd that has ended meanwhile had said counts no more: the next one is waited
    for, however long that takes, and for rounds of its own.
    """

    def __init__(
        self, run_dir: Path, bridges: Collection[str], spare: ReserveFd | None = None
    ) -> None:
        """`run_dir` is where the Open vSwitch has its pid files and sockets.

        `bridges` are names, one of each datapath whose flows are to be revalidated. It borrows the
        spare descriptor: all the while it lasts, copies are doubled.
        """
        self._run_dir = run_dir
        self._bridges = [name for name in bridges if may_serve(name)]
        self._purge = len(self._bridges) < len(bridges)
        self._connection: Any = None
        self._until = time.monotonic()
        self._spare = spare
        if spare is not None:
            spare.lend()
        self.done = not bridges
        self._ended: float | None = None
        """Since when there is no ovs-vswitchd that has its datapaths."""
        self._requests: deque[tuple[str, RevalidationRequest]] = deque()
        self._started = False
        """Whether the first requests have been answered, and rounds are waited for."""
        if not self.done:
            self._request()

    @property
    def lost(self) -> bool:
        """Whether there is no ovs-vswitchd that has its datapaths."""
        return self._ended is not None and not self.done

    def _request(self) -> None:
        self._requests = deque(
            (name, RevalidationRequest(management_socket(self._run_dir, name)))
            for name in self._bridges
        )

    def _start(self) -> None:
        self._started = True
        error = self._connect()
        if error == 0 and not self._purge:
            self._begin()
        elif error == 0:  # It may have no bridge yet.
            self._lose()
        else:  # It is refused by the socket of one that has just ended.
            self._lose(math.inf if error == ECONNREFUSED else _UNKNOWN)

    def _connect(self) -> int:
        self._asked: deque[str] = deque()
        self._pid = read_pid(self._run_dir)
        error, self._connection = _connect(self._run_dir, self._pid)
        return error

    def _begin(self) -> None:
        self._until = time.monotonic()
        self._limit = self._until + _LIMIT
        # One after the other: ovs-vswitchd answers the second when it has answered the first.
        self._ask(*([_PURGE] if self._purge else []), *(_WAIT, _WAIT) if self._bridges else ())

    def _ask(self, *commands: str) -> None:
        self._asked += commands
        for command in commands:  # What fails, the next reply tells.
            self._connection.send(ovs.jsonrpc.Message.create_request(command, []))

    def _give_up(self) -> None:
        self._disconnect()
        self._until = min(self._limit, time.monotonic() + _UNKNOWN)

    def _lose(self, patience: float = math.inf) -> None:
        self._disconnect()
        if self._ended is None:
            self._ended = self._until = time.monotonic()
            self._limit = self._ended + patience

    def _seek(self, now: float, ended: float) -> None:
        """Tries to reach the next ovs-vswitchd."""
        self._until = now + min(max(_LEAST_PAUSE, (now - ended) * _PAUSE), _LONGEST_PAUSE)
        if self._connection is None and self._connect() == 0:
            self._ask(_SHOW)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Gives back what it has taken; any number of times."""
        self._disconnect()
        for _, request in self._requests:
            request.close()
        self._requests.clear()
        if self._spare is not None:
            self._spare.keep()

    def run(self) -> None:
        """Takes in what ovs-vswitchd has said."""
        if self.done:
            return
        self._run_requests()
        self._run_connection()
        now = time.monotonic()
        if self.done or not self._started or now < self._until:
            return
        if self._ended is not None and now < self._limit:
            self._seek(now, self._ended)
        elif now >= self._limit or not (self._connection or is_revalidating(self._pid)):
            self._finish()
        else:
            self._until = now + _WORKING
            if self._connection and not self._requests and not is_revalidating(self._pid):
                self._request()

    def _run_requests(self) -> None:
        first = not self._started
        while self._requests:
            name, request = self._requests[0]
            request.run(math.inf)
            if not request.done and not request.failed:
                return
            self._requests.popleft()[1].close()
            if first and request.failed:
                self._purge = True
                self._bridges.remove(name)
        if first:
            self._start()

    def _run_connection(self) -> None:
        while self._connection is not None:
            self._connection.run()
            error, reply = self._connection.recv()
            if error == EAGAIN:
                break
            if error in _MAD:
                self._give_up()
            elif error or (reply.error is not None and self._ended is not None):
                self._lose()
            elif reply.error is not None or not self._asked:
                self._give_up()
            else:
                self._take(self._asked.popleft(), str(reply.result))

    def _take(self, command: str, said: str) -> None:
        if self._ended is not None:
            self._greet(has_datapaths=bool(said.strip()))
        elif not self._asked:
            self._finish()

    def _finish(self) -> None:
        self.done = True
        self.close()

    def _greet(self, has_datapaths: bool) -> None:
        """It answers before it has read the database, too, and before it knows the command."""
        if has_datapaths:
            self._ended = None
            self._begin()
        else:
            self._disconnect()

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        if self._requests:
            self._requests[0][1].wait(poller)
        if self._started:
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


def seconds_since_start(run_dir: Path) -> float | None:
    """How long ago ovs-vswitchd started, None if it does not run."""
    try:
        stat = Path(f"/proc/{read_pid(run_dir)}/stat").read_text()
    except OSError:
        return None
    ticks = int(stat.rpartition(") ")[2].split()[_STARTED_AT])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def is_revalidating(pid: int | None) -> bool:
    """Whether a revalidator thread runs, waits for a CPU, or was stopped."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            name, _, rest = (task / "stat").read_text().rpartition(") ")
            if "(revalidator" in name and rest[0] in _AT_WORK:
                return True
    return False


def is_running(run_dir: Path) -> bool:
    """Whether ovs-vswitchd takes connections."""
    error, connection = _connect(run_dir, read_pid(run_dir))
    if connection is not None:
        connection.close()
    return error == 0


def _connect(run_dir: Path, pid: int | None) -> tuple[int, Any]:
    """An error, or a connection to the control socket of that process."""
    if pid is None:
        return ENOENT, None
    name = f"unix:{run_dir / f'ovs-vswitchd.{pid}.ctl'}"
    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(name), timeout=_CONNECT)
    return error, None if error else rpc.connection(stream, _MAX_ANSWERS)
