"""Has ovs-vswitchd revalidate its flows, and tells when its revalidators are done.

Its revalidator threads go over all flows in rounds; a change that concerns flows starts one
(`udpif_revalidator` in `ofproto/ofproto-dpif-upcall.c`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Collection
from errno import ECONNREFUSED, EMSGSIZE, EPROTO
from pathlib import Path
from typing import Self

import ovs.poller

from ovs_ebpf_tap.observe import rpc
from ovs_ebpf_tap.observe.openflow_channel import management_socket, may_serve
from ovs_ebpf_tap.observe.revalidation_request import RevalidationRequest
from ovs_ebpf_tap.observe.vswitchd import connect, is_revalidating, read_pid
from ovs_ebpf_tap.util.probes import probe
from ovs_ebpf_tap.util.reserve_fd import ReserveFd
from ovs_ebpf_tap.util.timers import wake_at

_WAIT = "revalidator/wait"
_SHOW = "upcall/show"
_PURGE = "revalidator/purge"

_MAD = (EPROTO, EMSGSIZE)
"""Errors of connections to something other than ovs-vswitchd."""
_WORKING = 0.005
"""Seconds between two looks at whether revalidators work: as long as between two rounds."""
_UNKNOWN = 0.3
"""Seconds to wait where ovs-vswitchd cannot be asked."""
_LIMIT = 5.0
"""Seconds to wait for rounds that do not end."""

_LEAST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5
"""Seconds between two tries to reach the next ovs-vswitchd."""
_PAUSE = 0.1
"""The same, as a fraction of the time for which there has been none."""


class Revalidation:
    """Requests a revalidation of all flows, and waits for the end of a round that began after it.

    Changing a mirror alone does not revalidate running flows (`mirror_set` in
    `ofproto/ofproto-dpif-mirror.c`). So a `RevalidationRequest` is sent to a bridge of each
    datapath. Where a bridge's OpenFlow does not allow that, all flows are purged, which costs an
    upcall for each.

    `revalidator/wait` returns when a round ends, which may have begun before the request. The next
    round began after it, so two are waited for. A round may also end before the wait begins, and
    the next one may start half a second later: while no revalidator works, revalidation is
    requested again. `revalidator/purge` returns when all flows are gone.

    If ovs-vswitchd ends meanwhile, its answers count no more. The next one is waited for, however
    long that takes, and then its rounds.
    """

    def __init__(
        self, run_dir: Path, bridges: Collection[str], spare: ReserveFd | None = None
    ) -> None:
        """`run_dir` is where the Open vSwitch has its pid files and sockets.

        `bridges` are names, one of each datapath whose flows are to be revalidated.
        """
        self._run_dir = run_dir
        self._bridges = [name for name in bridges if may_serve(name)]
        self._purge = len(self._bridges) < len(bridges)
        self._client: rpc.Client | None = None
        self._pid: int | None = None
        self._unanswered = 0
        """Commands that are yet to be answered."""
        self._until = time.monotonic()
        """When it is looked again whether there is something to do."""
        self._limit = math.inf
        """When no more is waited for rounds, or for the next ovs-vswitchd."""
        self._spare = spare
        self.done = not bridges
        self._ended: float | None = None
        """Since when there is no ovs-vswitchd that has its datapaths."""
        self._requests: deque[tuple[str, RevalidationRequest]] = deque()
        self._started = False
        """Whether the first requests have been answered, and rounds are waited for."""

    @classmethod
    def begin(cls, run_dir: Path, bridges: Collection[str], spare: ReserveFd | None = None) -> Self:
        """One that has begun; the arguments are those of the constructor.

        It borrows the spare descriptor: all the while it lasts, copies are doubled.
        """
        made = cls(run_dir, bridges, spare)
        if spare is not None:
            spare.lend()
        if not made.done:
            made._request()
        return made

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
        try:
            self._connect()
        except OSError as error:
            # The socket of one that has just ended refuses connections.
            self._lose(math.inf if error.errno == ECONNREFUSED else _UNKNOWN)
        else:
            if self._purge:
                self._lose()  # It may have no bridge yet.
            else:
                self._await_rounds()
        probe("waiting for revalidators")

    def _connect(self) -> None:
        self._unanswered = 0
        self._pid = read_pid(self._run_dir)
        self._client = connect(self._run_dir, self._pid)

    def _await_rounds(self) -> None:
        self._until = time.monotonic()
        self._limit = self._until + _LIMIT
        # One after the other: ovs-vswitchd answers the second when it has answered the first.
        self._ask(*([_PURGE] if self._purge else []), *(_WAIT, _WAIT) if self._bridges else ())

    def _ask(self, *commands: str) -> None:
        assert self._client is not None, "not connected"
        for command in commands:  # If that fails, `receive` raises.
            self._client.send(command)
        self._unanswered += len(commands)

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
        if self._client is None:
            with contextlib.suppress(OSError):
                self._connect()
                self._ask(_SHOW)

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

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
        self._run_client()
        now = time.monotonic()
        if self.done or not self._started or now < self._until:
            return
        if self._ended is not None and now < self._limit:
            self._seek(now, self._ended)
        elif now >= self._limit or not (self._client or is_revalidating(self._pid)):
            self._finish()
        else:
            self._until = now + _WORKING
            if self._client and not self._requests and not is_revalidating(self._pid):
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

    def _run_client(self) -> None:
        while self._client is not None:
            self._client.run()
            try:
                reply = self._client.receive()
            except OSError as error:
                self._give_up() if error.errno in _MAD else self._lose()
                return
            if reply is None:
                return
            if reply.error is not None and self._ended is not None:
                self._lose()
            elif reply.error is not None or not self._unanswered:
                self._give_up()
            else:
                self._unanswered -= 1
                self._take(str(reply.result))

    def _take(self, answer: str) -> None:
        if self._ended is not None:
            self._greet(has_datapaths=bool(answer.strip()))
        elif not self._unanswered:
            self._finish()

    def _finish(self) -> None:
        self.done = True
        self.close()

    def _greet(self, has_datapaths: bool) -> None:
        """It answers before it has read the database, too, and before it knows the command."""
        if has_datapaths:
            self._ended = None
            self._await_rounds()
        else:
            self._disconnect()

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        if self._requests:
            self._requests[0][1].wait(poller)
        if self._started:
            wake_at(poller, self._until)
        if self._client is not None:
            self._client.wait(poller)
