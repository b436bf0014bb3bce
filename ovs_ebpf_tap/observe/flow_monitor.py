"""A bridge's flows, as Open vSwitch tells of them and of each change.

OVS sends all flows once, and then each change as it is made (`handle_flow_monitor_request` in
`ofproto/ofproto.c`). The other way, to ask for all flows again and again (`bridge/dump-flows` of
the control socket), is late, and costs ovs-vswitchd's main thread 650 ms each time with 100,000
flows, where the monitor costs 300 ms once, and nothing that can be measured for each change after.
Monitors of OpenFlow 1.0 will not do: they leave out `push_vlan` and `write_actions`. Those of 1.3
and later need Open vSwitch 3.0 or later; with an earlier one, or on a bridge whose `protocols` has
none of 1.3, 1.4 and 1.5, the traits of the flow tables stay unknown.

Flows that OVS hides are not told of: those of in-band control, which send to NORMAL only. Groups
are not looked into: a flow that uses one is taken to do anything. What a controller does with a
packet-out is in no flow.
"""

from __future__ import annotations

from pathlib import Path

from ovs_ebpf_tap.model.flow_traits import FlowTraits
from ovs_ebpf_tap.observe import ofp, ofp_actions
from ovs_ebpf_tap.observe.openflow_channel import LATER_VERSIONS, Channel


class FlowMonitor(Channel):
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
            modifies=bool(here & ofp_actions.MODIFIES),
            outputs=bool(here & ofp_actions.OUTPUTS),
            repeats=bool(here & ofp_actions.REPEATS),
        )

    @property
    def _serves(self) -> bool:
        return self._complete

    def _forget(self) -> None:
        self._asked = self._complete = False
        self._flows.clear()
        self._counts.clear()

    def _choose(self, offered: frozenset[int]) -> int | None:
        return max(offered & LATER_VERSIONS, default=None)

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
