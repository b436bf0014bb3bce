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

OVS also tells when another connection changes a group (OFPT_REQUESTFORWARD,
`connmgr_send_requestforward` in `ofproto/connmgr.c`, 3.1.0). Then all groups are asked for again,
if flows use any. OVS does not tell when it deletes groups with all flows of a bridge
(`ofproto_flush__` in `ofproto/ofproto.c`, 3.1.0), but no flow can use one of these before it is
added again.
"""

from __future__ import annotations

import time
from pathlib import Path

from ovs_ebpf_tap.model.flow import Group, Pipeline
from ovs_ebpf_tap.observe import ofp
from ovs_ebpf_tap.observe.flow_counts import VERSIONS, FlowCounts
from ovs_ebpf_tap.observe.ofp_groups import groups
from ovs_ebpf_tap.observe.openflow_channel import LATER_VERSIONS, Channel

_GROUPS_SHARE = 0.05
"""Of a core, for reading groups that keep changing."""


class FlowMonitor(Channel):
    """Monitors a bridge's flows, and looks at its groups."""

    _XID = 1
    _GROUPS_XID = 2

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self._asked = self._complete = False
        self._counts = FlowCounts()
        self._groups: dict[int, Group] = {}
        self._groups_arriving: list[bytes] | None = None
        self._groups_changed = True
        """Since they were read."""
        self._groups_due = 0.0
        """When they may be asked for again, by the monotonic clock."""
        self._groups_version = self._groups_repeating = next(VERSIONS)
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
        """The version of the last flow or group that names a port in two outputs."""
        return max(self._counts.repeating, self._groups_repeating)

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
        self._groups_arriving, self._groups_changed = None, True
        self._known = None

    def _choose(self, offered: frozenset[int]) -> int | None:
        return max(offered & LATER_VERSIONS, default=None)

    def _run(self, now: float) -> None:
        if not self._version:
            return
        due = self._due()
        if due is not None and now >= due:
            self._groups_arriving = []
            self._send(ofp.group_desc_request(self._version, self._GROUPS_XID))
        if not self._asked:
            self._asked = True
            self._send(ofp.set_async(self._version, self._XID))
            self._send(ofp.flow_monitor_request(self._version, self._XID))

    def _due(self) -> float | None:
        waiting = self._groups_arriving is not None
        wanted = self._groups_changed and self._counts.groups and not waiting
        return self._groups_due if wanted else None

    def _take(self, version: int, kind: int, xid: int, body: bytes) -> None:
        if ofp.is_request_of_others(version, kind, body):
            self._groups_changed = True
        else:
            super()._take(version, kind, xid, body)

    def _reply(self, stats: int, more: bool, content: bytes) -> None:
        if stats == ofp.GROUP_DESC:
            self._take_groups(more, content)
        if stats != ofp.FLOW_MONITOR:
            return
        for update in ofp.flow_updates(self._version, content):
            self._counts.take(update)
        if not more and not self._complete:
            self._complete = True
            self._answer_by = None

    def _take_groups(self, more: bool, content: bytes) -> None:
        if self._groups_arriving is None:
            return
        self._groups_arriving.append(content)
        if more:
            return
        began = time.thread_time()
        self._set_groups(dict(groups(self._version, b"".join(self._groups_arriving))))
        spent = time.thread_time() - began
        # The answer includes the changes that OVS told of before it.
        self._groups_arriving, self._groups_changed = None, False
        self._groups_due = time.monotonic() + spent / _GROUPS_SHARE

    def _set_groups(self, found: dict[int, Group]) -> None:
        if found == self._groups:
            return
        version = next(VERSIONS)
        new = (group for number, group in found.items() if group != self._groups.get(number))
        if any(group.names_twice for group in new):
            self._groups_repeating = version
        self._groups, self._groups_version = found, version

    def _refused(self) -> None:
        """Open vSwitch before 3.0: to ask again would only fill its log."""
