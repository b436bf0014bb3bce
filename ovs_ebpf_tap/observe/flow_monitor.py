"""A bridge's flows, as Open vSwitch tells of them and of each change.

OVS sends all flows once, and then each change as it is made (`handle_flow_monitor_request` in
`ofproto/ofproto.c`). The other way, to ask for all flows again and again (`bridge/dump-flows` of
the control socket), is late, and costs ovs-vswitchd's main thread 650 ms each time with 100,000
flows, where the monitor costs 300 ms once, and nothing that can be measured for each change after.
Monitors of OpenFlow 1.0 will not do: they leave out `push_vlan` and `write_actions`. Those of 1.3
and later need Open vSwitch 3.0 or later; with an earlier one, or on a bridge whose `protocols` has
none of 1.3, 1.4 and 1.5, the flow tables stay unknown.

Flows that OVS hides are not told of: those of in-band control, which send to NORMAL only. What a
controller does with a packet-out is in no flow.

OVS does not tell who looks on that a group changes: OFPT_REQUESTFORWARD reaches a connection to the
management socket only once OFPT_SET_CONFIG has set its miss send length
(`ofconn_receives_async_msg` in `ofproto/connmgr.c`), and that message sets how the bridge treats
fragments, too. So as long as flows use groups, all groups are asked for again and again.
"""

from __future__ import annotations

from pathlib import Path

from ovs_ebpf_tap.model.flow import Group, Pipeline
from ovs_ebpf_tap.observe import ofp
from ovs_ebpf_tap.observe.flow_counts import VERSIONS, FlowCounts
from ovs_ebpf_tap.observe.ofp_groups import groups
from ovs_ebpf_tap.observe.openflow_channel import LATER_VERSIONS, Channel

_POLL = 1.0
"""Seconds after which groups are asked for again."""


class FlowMonitor(Channel):
    """Monitors a bridge's flows, and looks at its groups."""

    _XID = 1
    _GROUPS_XID = 2

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self._asked = self._complete = False
        self._counts = FlowCounts()
        self._groups: dict[int, Group] = {}
        self._groups_read = b""
        self._groups_arriving: list[bytes] | None = None
        self._groups_due = 0.0
        self._groups_version = next(VERSIONS)
        self._known: int | None = None
        """The last version, once the groups of one were known."""

    @property
    def version(self) -> int | None:
        """A number for each pipeline that was seen, never twice; None until one was: all flows, and
        the groups that they use."""
        known = self._complete and self._counts.groups.keys() <= self._groups.keys()
        if known or self._known is not None:
            self._known = max(self._counts.version, self._groups_version)
        return self._known

    @property
    def repeating(self) -> int:
        """The version of the last flow that names a port in two outputs."""
        return self._counts.repeating

    @property
    def pipeline(self) -> Pipeline:
        """All flows and groups that were seen.

        A flow's group that is new is not known for a moment; a bucket's may not exist. Neither
        counts: what OVS does where there is no group is nothing.
        """
        return Pipeline(self._counts.flows, self._groups.copy())

    @property
    def _serves(self) -> bool:
        return self._complete

    def _forget(self) -> None:
        self._asked = self._complete = False
        self._counts.clear()
        self._set_groups({})
        self._groups_read, self._groups_arriving = b"", None
        self._known = None

    def _choose(self, offered: frozenset[int]) -> int | None:
        return max(offered & LATER_VERSIONS, default=None)

    def _run(self, now: float) -> None:
        if not self._version:
            return
        due = self._due()
        if not self._asked or (due is not None and now >= due):
            self._groups_arriving, self._groups_due = [], now + _POLL
            self._send(ofp.group_desc_request(self._version, self._GROUPS_XID))
        if not self._asked:
            self._asked = True
            self._send(ofp.flow_monitor_request(self._version, self._XID))

    def _due(self) -> float | None:
        waiting = self._groups_arriving is not None
        return self._groups_due if self._counts.groups and not waiting else None

    def _reply(self, stats: int, more: bool, content: bytes) -> None:
        if stats == ofp.GROUP_DESC:
            self._take_groups(more, content)
        if stats != ofp.FLOW_MONITOR:
            return
        for update in ofp.flow_updates(self._version, content):
            self._counts.take(update)
            if update.does is not None and not update.does.groups <= self._groups.keys():
                self._groups_due = 0.0
        if not more and not self._complete:
            self._complete = True
            self._answer_by = None

    def _take_groups(self, more: bool, content: bytes) -> None:
        if self._groups_arriving is None:
            return
        self._groups_arriving.append(content)
        if more:
            return
        read = b"".join(self._groups_arriving)
        self._groups_arriving = None
        if read != self._groups_read:
            self._groups_read = read
            self._set_groups(dict(groups(self._version, read)))

    def _set_groups(self, found: dict[int, Group]) -> None:
        if found != self._groups:
            self._groups = found
            self._groups_version = next(VERSIONS)

    def _refused(self) -> None:
        """Open vSwitch before 3.0: to ask again would only fill its log."""
