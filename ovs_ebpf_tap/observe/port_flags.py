"""The flags of a bridge's ports, and what options they take, asked for again and again.

In OpenFlow 1.0 where the bridge speaks that: later versions have no no-receive-stp. To be told of
changes, one would have to set the connection's miss_send_len, and that message also sets the
bridge's fragment handling.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

from ovs_ebpf_tap.model.flow_traits import PortFlags
from ovs_ebpf_tap.model.tunnel import GeneveOption
from ovs_ebpf_tap.observe import ofp
from ovs_ebpf_tap.observe.openflow_channel import LATER_VERSIONS, Channel
from ovs_ebpf_tap.util.timers import next_tick

_POLL = 1.0
"""Least seconds between two looks at a bridge's ports."""

_POLL_PER_PORT = 0.0005
"""Seconds between two looks for each port of the bridge: one costs ovs-vswitchd 5 us for each port,
and shall cost it less than 1 % of a core."""

_MAX_PORTS = 16 * 1024 * 1024
"""Bytes of an answer about ports beyond which it can't be one."""

_CONTROLLER_ID = 0xEB7F


class PortFlagsPoller(Channel):
    """Looks at a bridge's ports again and again."""

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self.flags: PortFlags | None = None
        """None while they are not known."""
        self._asked = False
        self._next_poll = 0.0
        self._xid = 0
        self._content = b""
        self._last: tuple[bytes, frozenset[GeneveOption]] | None = None
        self._options: frozenset[GeneveOption] | None = None
        self._pause = _POLL

    @property
    def _serves(self) -> bool:
        return self.flags is not None

    def _forget(self) -> None:
        self.flags = None
        self._asked = False
        self._next_poll = 0.0
        self._content = b""
        self._options = None

    def _choose(self, offered: frozenset[int]) -> int | None:
        return ofp.OF10 if ofp.OF10 in offered else max(offered & LATER_VERSIONS, default=None)

    def _run(self, now: float) -> None:
        if not self._version or self._asked or now < self._next_poll:
            return
        if self._version == ofp.OF10 and self.flags is None:
            self._send(ofp.set_controller_id(0, _CONTROLLER_ID))
        self._asked = True
        self._await_answer(now)
        self._xid = (self._xid + 1) % 2**32
        self._send(ofp.tlv_table_request(self._version, self._xid))
        self._send(ofp.port_desc_request(self._version, self._xid))

    def _due(self) -> float | None:
        return self._next_poll if self._version and not self._asked else None

    def _take(self, version: int, kind: int, xid: int, body: bytes) -> None:
        options = ofp.tlv_table(body) if kind == ofp.EXPERIMENTER else None
        if options is not None and version == self._version:
            self._options = options
        else:
            super()._take(version, kind, xid, body)

    def _reply(self, stats: int, more: bool, content: bytes) -> None:
        if stats != ofp.PORT_DESC or not self._asked:
            return
        self._content += content
        if len(self._content) > _MAX_PORTS:
            raise ValueError("an answer about ports has no end")
        if more:
            return
        if self._options is None:
            raise ValueError("no answer about options before that about ports")
        found = self._content, self._options
        if self.flags is None or found != self._last:
            ports = dict(ofp.ports(self._version, self._content))
            self.flags = _port_flags(ports, self._options)
            self._pause = max(_POLL, math.ceil(_POLL_PER_PORT * len(ports)))
        self._content, self._options, self._last = b"", None, found
        self._next_poll = next_tick(time.monotonic(), self._pause)
        self._asked = False
        self._answer_by = None

    def _refused(self) -> None:
        raise ValueError("a request for ports was refused")


def _port_flags(configs: Mapping[str, int], options: frozenset[GeneveOption]) -> PortFlags:
    def having(flag: int) -> frozenset[str]:
        return frozenset(name for name, config in configs.items() if config & flag)

    return PortFlags(
        no_receive=having(ofp.NO_RECEIVE),
        no_receive_stp=having(ofp.NO_RECEIVE_STP),
        no_forward=having(ofp.NO_FORWARD),
        geneve_options=options,
    )
