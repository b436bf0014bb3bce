"""A request to ovs-vswitchd that it revalidate the flows of a datapath."""

from __future__ import annotations

import secrets
from pathlib import Path

from ovs_ebpf_tap.observe import ofp
from ovs_ebpf_tap.observe.openflow_channel import LATER_VERSIONS, Channel
from ovs_ebpf_tap.util.probes import probe


class RevalidationRequest(Channel):
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
        return max(offered & LATER_VERSIONS, default=None)

    def _run(self, now: float) -> None:
        if not self._version or self._asked > self._answered:
            return
        if not self._asked:
            probe("flow_mod about to be sent")
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
