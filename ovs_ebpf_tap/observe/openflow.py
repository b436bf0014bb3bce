"""The bridges' OpenFlow: what their flow tables do to packets, and their ports' flags.

The only module that talks to bridges' management sockets. Nothing that it sends changes a flow, a
port or a setting of the bridge. Connections that look are kept, not made for each look: as long as
OVS does not know a connection's version, it sends packets that no flow matches to the controller
instead of dropping them (`update_want_packet_in_on_miss` in `ofproto/connmgr.c`).

Flows are monitored: OVS sends all of them once, and then each change as it is made
(`handle_flow_monitor_request` in `ofproto/ofproto.c`). The other way, to ask for all flows again
and again (`bridge/dump-flows` of the control socket), is late, and costs ovs-vswitchd's main
thread 650 ms each time with 100,000 flows, where the monitor costs 300 ms once, and nothing that
can be measured for each change after. Monitors of OpenFlow 1.0 will not do: they leave out
`push_vlan` and `write_actions`. Those of 1.3 and later need Open vSwitch 3.0 or later; with an
earlier one, or on a bridge whose `protocols` has none of 1.3, 1.4 and 1.5, the traits of the flow
tables stay unknown.

Port flags are asked for every second, on a second connection, in OpenFlow 1.0 where the bridge
speaks that: later versions have no no-receive-stp. To be told of their changes, one would have to
set the connection's miss_send_len, and that message also sets the bridge's fragment handling.

Flows that OVS hides are not told of: those of in-band control, which send to NORMAL only. Groups
are not looked into: a flow that uses one is taken to do anything. What a controller does with a
packet-out is in no flow.
"""

from __future__ import annotations

import math
import os
import secrets
import struct
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Mapping
from errno import EAGAIN
from pathlib import Path
from typing import Any

import ovs.poller
import ovs.stream

from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortFlags
from ovs_ebpf_tap.observe import ofp
from ovs_ebpf_tap.util.timers import next_tick, wake_at

_RUN = 0.02
"""Seconds after which `run` leaves the rest for the next time."""

_CHUNK = 65536
"""Bytes that are taken in at once."""

_ANSWER = 10.0
"""Seconds in which a peer has to say something when it was asked."""

_RECONNECT = 0.5
"""Seconds before the next try where nobody listens, or where a connection that served ended."""

_BACK_OFF = 10.0
"""Seconds before the next try with a peer that does not answer, or with what it should not; most
seconds before it where connections end early."""

_NO_VERSION = 60.0
"""Seconds before the next try with a bridge that speaks no version that would do."""

_POLL = 1.0
"""Least seconds between two looks at a bridge's ports."""

_POLL_PER_PORT = 0.0005
"""Seconds between two looks for each port of the bridge: one costs ovs-vswitchd 5 us for each port,
and shall cost it less than 1 % of a core."""

_MAX_PORTS = 16 * 1024 * 1024
"""Bytes of an answer about ports beyond which it can't be one."""

_LONGEST_NAME = 80
"""Bytes of a bridge's name in the path of a socket, which has room for 107."""

_CONTROLLER_ID = 0xEB7F


class FlowTables:
    """Watches bridges' flow tables and port flags; never blocks; drive it with `run` and `wait`."""

    def __init__(self, run_dir: Path) -> None:
        """`run_dir` is where the Open vSwitch has its bridges' management sockets."""
        self._run_dir = run_dir
        self._flows: dict[str, _Flows] = {}
        self._ports: dict[str, _Ports] = {}
        self._order: deque[_Channel] = deque()
        self.traits: Mapping[str, FlowTraits] = {}
        """By bridge; those of which nothing is known, not yet or no longer, are absent."""
        self.port_flags: Mapping[str, PortFlags] = {}
        """By bridge, as `traits`."""
        self.version = 0
        """Grows when `traits` or `port_flags` changes."""

    def watch(self, bridges: Collection[str]) -> None:
        """Watches these bridges from now on, and no others; any number of times."""
        wanted = {name for name in bridges if may_serve(name)}
        for name in self._flows.keys() - wanted:
            for channel in (self._flows.pop(name), self._ports.pop(name)):
                channel.close()
                self._order.remove(channel)
        for name in sorted(wanted - self._flows.keys()):
            socket = management_socket(self._run_dir, name)
            self._flows[name], self._ports[name] = _Flows(socket), _Ports(socket)
            self._order += (self._flows[name], self._ports[name])

    def close(self) -> None:
        """Drops all connections."""
        self.watch(())

    def run(self) -> bool:
        """Takes in what has arrived; returns whether `traits` or `port_flags` changed."""
        until = time.monotonic() + _RUN
        for _ in range(len(self._order)):
            self._order.rotate(-1)  # Those that time does not reach come first the next time.
            self._order[-1].run(until)
            if time.monotonic() >= until:
                break
        flows = ((name, channel.traits) for name, channel in self._flows.items())
        traits = {name: each for name, each in flows if each is not None}
        ports = ((name, channel.flags) for name, channel in self._ports.items())
        flags = {name: each for name, each in ports if each is not None}
        changed = (traits, flags) != (self.traits, self.port_flags)
        if changed:
            self.traits, self.port_flags = traits, flags
            self.version += 1
        return changed

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        for channel in self._order:
            channel.wait(poller)


def may_serve(bridge: str) -> bool:
    """Whether there can be a socket: not where the name has a slash, or is too long for a path."""
    return "/" not in bridge and len(bridge.encode(errors="replace")) <= _LONGEST_NAME


def management_socket(run_dir: Path, bridge: str) -> Path:
    """Where ovs-vswitchd takes OpenFlow connections for a bridge."""
    return run_dir / f"{bridge}.mgmt"


class _Channel(ABC):
    """A connection to a bridge's management socket, made again when it is lost."""

    def __init__(self, socket: Path) -> None:
        self._name = f"unix:{socket}"
        self._stream: Any = None
        self._input = bytearray()
        self._output = b""
        self._version = 0
        self._next_try = 0.0
        self._delay = _RECONNECT
        self._answer_by: float | None = None

    def close(self) -> None:
        """Drops the connection, and what is known through it."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._input.clear()
        self._output = b""
        self._version = 0
        self._answer_by = None
        self._forget()

    def run(self, until: float) -> None:
        """Takes in what has arrived, until about that time by the monotonic clock."""
        try:
            if self._connected():
                self._receive(until)
                self._run(time.monotonic())
                self._flush()
                if self._answer_by is not None and time.monotonic() >= self._answer_by:
                    raise TimeoutError("no answer")
        except ConnectionError:
            delay = _RECONNECT if self._serves else min(2 * self._delay, _BACK_OFF)
            self._retry(delay)
        except (TimeoutError, ValueError, struct.error):
            self._retry(_BACK_OFF)
        except _NoVersionError:
            self._retry(_NO_VERSION)

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        if self._stream is None:
            wake_at(poller, self._next_try)
            return
        if self._stream.connect() == EAGAIN:
            self._stream.connect_wait(poller)
        else:
            self._stream.recv_wait(poller)
            if self._output:
                self._stream.send_wait(poller)
        if self._answer_by is not None:
            wake_at(poller, self._answer_by)
        due = self._due()
        if due is not None:
            wake_at(poller, due)

    # What differs.

    @property
    @abstractmethod
    def _serves(self) -> bool:
        """Whether what was asked for is known."""

    @abstractmethod
    def _forget(self) -> None:
        """Forgets what is known: it is no longer told when that changes."""

    @abstractmethod
    def _choose(self, offered: frozenset[int]) -> int | None:
        """The version to speak, of those that the bridge offers."""

    @abstractmethod
    def _run(self, now: float) -> None:
        """Asks for what there is to ask for, once the version is agreed on."""

    @abstractmethod
    def _due(self) -> float | None:
        """When there is something to ask for."""

    @abstractmethod
    def _reply(self, stats: int, more: bool, content: bytes) -> None:
        """Takes in a multipart message."""

    @abstractmethod
    def _refused(self) -> None:
        """Takes in that the bridge has refused a request."""

    # The connection.

    def _connected(self) -> bool:
        now = time.monotonic()
        if self._stream is None:
            if now < self._next_try:
                return False
            error, stream = ovs.stream.Stream.open(self._name)
            if error:
                if stream is not None:
                    stream.close()
                self._next_try = now + _RECONNECT
                return False
            self._stream = stream
            self._answer_by = now + _ANSWER
        error = self._stream.connect()
        if error not in (0, EAGAIN):
            raise ConnectionError(os.strerror(error))
        return not error

    def _retry(self, delay: float) -> None:
        self._delay = delay
        self._next_try = time.monotonic() + delay
        self.close()

    def _receive(self, until: float) -> None:
        while True:
            error, data = self._stream.recv(_CHUNK)
            if error == EAGAIN:
                return
            if error or not data:
                raise ConnectionError("the peer has closed")
            if self._answer_by is not None:
                self._answer_by = time.monotonic() + _ANSWER
            self._input += data
            self._take_messages()
            if time.monotonic() >= until:
                return

    def _take_messages(self) -> None:
        at = 0
        while len(self._input) - at >= ofp.HEADER.size:
            version, kind, length, xid = ofp.HEADER.unpack_from(self._input, at)
            if length < ofp.HEADER.size:
                raise ValueError("a message is shorter than its header")
            if len(self._input) - at < length:
                break
            body = bytes(self._input[at + ofp.HEADER.size : at + length])
            at += length
            self._take(version, kind, xid, body)
        del self._input[:at]

    def _take(self, version: int, kind: int, xid: int, body: bytes) -> None:
        if not self._version:
            self._agree(version, kind, body)
        elif version != self._version:
            raise ValueError("a message is of another version than was agreed on")
        elif kind == ofp.ECHO_REQUEST:
            self._send(ofp.message(version, ofp.ECHO_REPLY, xid, body))
        elif kind == ofp.ERROR:
            self._answer_by = None
            self._refused()
        else:
            reply = ofp.multipart_reply(version, kind, body)
            if reply is not None:
                stats, more, start = reply
                self._reply(stats, more, body[start:])

    def _agree(self, version: int, kind: int, body: bytes) -> None:
        if kind != ofp.HELLO:
            raise ValueError("the first message is no HELLO")
        chosen = self._choose(ofp.offered(version, body))
        if chosen is None:
            raise _NoVersionError
        self._version = chosen
        self._send(ofp.hello(chosen))

    def _send(self, data: bytes) -> None:
        self._output += data
        if len(self._output) > ofp.MAX_LENGTH:
            raise ValueError("the peer asks and does not read")

    def _flush(self) -> None:
        if self._output:
            sent = self._stream.send(self._output)
            if sent < 0 and sent != -EAGAIN:
                raise ConnectionError(os.strerror(-sent))
            self._output = self._output[max(sent, 0) :]


class _NoVersionError(Exception):
    """The bridge speaks no version that would do."""


_LATER_VERSIONS = frozenset((ofp.OF13, ofp.OF14, ofp.OF15))


class _Flows(_Channel):
    """Monitors a bridge's flows."""

    _XID = 1

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self._asked = self._complete = False
        # Flows with traits, by a hash of what tells them apart: 64 bits, seeded anew by every
        # process, stand for matches of some hundred bytes.
        self._flows: dict[int, int] = {}
        self._counts: dict[int, int] = {}

    @property
    def traits(self) -> FlowTraits | None:
        """The traits of all flows together; None until all of them were seen."""
        if not self._complete:
            return None
        here = 0
        for traits, count in self._counts.items():
            here |= traits if count else 0
        return FlowTraits(
            modifies=bool(here & ofp.MODIFIES),
            sets_metadata=bool(here & ofp.SETS_METADATA),
            outputs=bool(here & ofp.OUTPUTS),
            repeats=bool(here & ofp.REPEATS),
        )

    @property
    def _serves(self) -> bool:
        return self._complete

    def _forget(self) -> None:
        self._asked = self._complete = False
        self._flows.clear()
        self._counts.clear()

    def _choose(self, offered: frozenset[int]) -> int | None:
        return max(offered & _LATER_VERSIONS, default=None)

    def _run(self, now: float) -> None:
        if self._version and not self._asked:
            self._asked = True
            self._send(ofp.flow_monitor_request(self._version, self._XID))

    def _due(self) -> float | None:
        return None

    def _reply(self, stats: int, more: bool, content: bytes) -> None:
        if stats != ofp.FLOW_MONITOR:
            return
        for update in ofp.flow_updates(self._version, content):
            flow = hash(update.key)
            self._count(self._flows.pop(flow, 0), -1)
            if update.traits:
                self._flows[flow] = update.traits
                self._count(update.traits, 1)
        if not more and not self._complete:
            self._complete = True
            self._answer_by = None

    def _count(self, traits: int, step: int) -> None:
        if traits:
            self._counts[traits] = self._counts.get(traits, 0) + step

    def _refused(self) -> None:
        """Open vSwitch before 3.0: to ask again would only fill its log."""


class _Ports(_Channel):
    """Looks at a bridge's ports again and again."""

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self.flags: PortFlags | None = None
        """None while they are not known."""
        self._asked = False
        self._next_poll = 0.0
        self._xid = 0
        self._content = b""
        self._last = b""
        self._pause = _POLL

    @property
    def _serves(self) -> bool:
        return self.flags is not None

    def _forget(self) -> None:
        self.flags = None
        self._asked = False
        self._next_poll = 0.0
        self._content = b""

    def _choose(self, offered: frozenset[int]) -> int | None:
        return ofp.OF10 if ofp.OF10 in offered else max(offered & _LATER_VERSIONS, default=None)

    def _run(self, now: float) -> None:
        if not self._version or self._asked or now < self._next_poll:
            return
        if self._version == ofp.OF10 and self.flags is None:
            self._send(ofp.set_controller_id(0, _CONTROLLER_ID))
        self._asked = True
        self._answer_by = now + _ANSWER
        self._xid = (self._xid + 1) % 2**32
        self._send(ofp.port_desc_request(self._version, self._xid))

    def _due(self) -> float | None:
        return self._next_poll if self._version and not self._asked else None

    def _reply(self, stats: int, more: bool, content: bytes) -> None:
        if stats != ofp.PORT_DESC or not self._asked:
            return
        self._content += content
        if len(self._content) > _MAX_PORTS:
            raise ValueError("an answer about ports has no end")
        if more:
            return
        if self.flags is None or self._content != self._last:
            ports = dict(ofp.ports(self._version, self._content))
            self.flags = _port_flags(ports)
            self._pause = max(_POLL, math.ceil(_POLL_PER_PORT * len(ports)))
        self._content, self._last = b"", self._content
        self._next_poll = next_tick(time.monotonic(), self._pause)
        self._asked = False
        self._answer_by = None

    def _refused(self) -> None:
        raise ValueError("a request for ports was refused")


class RevalidationRequest(_Channel):
    """Has OVS revalidate all flows of a bridge's datapath, by a flow_mod that deletes no flow.

    OVS begins a new version of the flow tables even so (`handle_flow_mod__` in `ofproto/ofproto.c`
    calls `ofproto_bump_tables_version`), and that sets REV_FLOW_TABLE (`set_tables_version` in
    `ofproto/ofproto-dpif.c`; 2.15.0, 3.1.0 and 3.5.0 were read). No learned address and no flow is
    lost, monitors of flows are told nothing, and nothing is to be put back. The cookie is random,
    so that OVS looks into one bucket of its index of cookies (`collect_rules_strict`) and finds
    nobody's flow there.

    ovs-vswitchd's main loop acts upon that in its next turn (`type_run`), before it deals with
    messages. So it is asked twice, the second time when it has answered to the first.
    """

    _XID = 1

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self.done = False
        """Whether OVS's revalidators have been told."""
        self.failed = False
        """Whether OVS does not answer, or speaks no version that would do."""
        self._asked = self._answered = 0

    def run(self, until: float) -> None:
        """Takes in what has arrived, until about that time by the monotonic clock."""
        super().run(until)
        if self.done:
            self.close()
        elif self._stream is None:
            self.failed = True

    @property
    def _serves(self) -> bool:
        return self.done

    def _forget(self) -> None:
        pass

    def _choose(self, offered: frozenset[int]) -> int | None:
        return max(offered & _LATER_VERSIONS, default=None)

    def _run(self, now: float) -> None:
        if not self._version or self._asked > self._answered:
            return
        if not self._asked:
            self._send(ofp.delete_none(self._version, self._XID, secrets.randbits(63)))
        self._send(ofp.barrier_request(self._version, self._XID))
        self._asked += 1

    def _due(self) -> float | None:
        return None

    def _take(self, version: int, kind: int, xid: int, body: bytes) -> None:
        if self._version and kind == ofp.BARRIER_REPLY:
            self._answered += 1
            self.done = self._answered == 2
        else:
            super()._take(version, kind, xid, body)

    def _reply(self, stats: int, more: bool, content: bytes) -> None:
        pass

    def _refused(self) -> None:
        raise ValueError("the flow_mod was refused")


def _port_flags(configs: Mapping[str, int]) -> PortFlags:
    def having(flag: int) -> frozenset[str]:
        return frozenset(name for name, config in configs.items() if config & flag)

    return PortFlags(
        no_receive=having(ofp.NO_RECEIVE),
        no_receive_stp=having(ofp.NO_RECEIVE_STP),
        no_forward=having(ofp.NO_FORWARD),
    )
