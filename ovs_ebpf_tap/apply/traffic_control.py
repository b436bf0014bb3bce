"""The clsact qdiscs of devices, and the filters of ours on them."""

from __future__ import annotations

from dataclasses import replace
from errno import EEXIST
from typing import Any, Self

from pyroute2.netlink import NLM_F_ACK, NLM_F_ECHO, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_GETQDISC
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from ovs_ebpf_tap.apply import tc_filter
from ovs_ebpf_tap.apply.rtnetlink import GONE, Rtnetlink, kernel_errors, retry_dump
from ovs_ebpf_tap.apply.tc_filter import Filter
from ovs_ebpf_tap.model.desired import PRIORITIES, PRIORITY, UNTAG_PRIORITY
from ovs_ebpf_tap.observe import tc

_FORMER_OWNER = 1
"""The handle of all filters of versions that did not tell owners apart."""
_NOBODY = 2
"""No owner's number: theirs have the highest bit set. With 0, all filters would be removed."""

_OFFLOADING_KINDS = {"flower", "matchall"}
"""Of Open vSwitch's filters with hw-offload: flows, and ingress policing."""
_INTERNAL = "openvswitch"
"""The kind of the kernel datapath's internal devices."""


class TrafficControl:
    """Changes the clsact hooks of devices, and reads those of sidecars."""

    def __init__(self, rtnetlink: Rtnetlink, owner: int = _NOBODY) -> None:
        """`owner` is whose filters are ours, as `pinning.owner` has it."""
        self.rtnetlink = rtnetlink
        self.owner = owner

    @classmethod
    def open(cls, owner: int = _NOBODY) -> Self:
        """In the caller's network namespace. Raises OSError."""
        return cls(Rtnetlink.open(), owner)

    def close(self) -> None:
        """Closes the sockets."""
        self.rtnetlink.close()

    # Qdiscs.

    def ingress_qdisc(self, ifindex: int) -> str | None:
        """The kind of what holds the device's ingress: clsact, ingress, or None.

        Asks for this one qdisc: a dump is of all devices', whichever one is named.
        """
        message = tcmsg()
        message["index"] = ifindex
        message["parent"] = tc.INGRESS_PARENT
        message["header"]["type"] = RTM_GETQDISC
        message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO
        try:
            answers = self.rtnetlink.request(message)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        kinds = [each.get_attr("TCA_KIND") for each in answers if each["index"] == ifindex]
        return str(kinds[0]) if kinds else None

    def ensure_clsact(self, ifindex: int) -> bool:
        """Sees to it that the device has a clsact qdisc; returns whether it was made now.

        Raises OSError (EBUSY, EEXIST) where OVS's ingress policing, or somebody else, holds
        the ingress with a qdisc of the other kind.
        """
        kind = self.ingress_qdisc(ifindex)
        if kind == tc.CLSACT:
            return False
        if kind is not None:
            raise OSError(EEXIST, f"another program's {kind} qdisc excludes clsact")
        try:
            with kernel_errors():
                self.rtnetlink.route.tc("add", "clsact", ifindex)
        except OSError as error:
            if error.errno == EEXIST and self.ingress_qdisc(ifindex) == tc.CLSACT:
                return False  # Somebody was faster.
            raise
        return True

    def remove_clsact(self, ifindex: int, *, hw_offload: bool) -> None:
        """Removes the clsact qdisc unless others have filters on it; it may be gone already.

        With `hw_offload`, an ingress qdisc takes its place. Open vSwitch would have added one,
        had there been none (`netdev_tc_init_flow_api` in `lib/netdev-offload-tc.c`); instead its
        flows are on ours. It goes on to put them there until it is restarted, whatever is set, and
        removes only ingress qdiscs then: what it leaves on a clsact qdisc forwards past it. On its
        internal devices, it has a clsact qdisc itself.
        """
        if self.ingress_qdisc(ifindex) != tc.CLSACT:
            return
        with kernel_errors(ignored=(*GONE, EEXIST)):
            if hw_offload and self._is_internal(ifindex):
                return
            found = [each for where in tc.FILTER_PARENT for each in self._list(ifindex, where)]
            kinds = {each.get_attr("TCA_KIND") for each in found}
            if kinds - (_OFFLOADING_KINDS if hw_offload else set()):
                return
            self.rtnetlink.route.tc("del", "clsact", ifindex)
            if hw_offload:
                self.rtnetlink.route.tc("add", "ingress", ifindex)

    def _is_internal(self, ifindex: int) -> bool:
        (link,) = self.rtnetlink.route.get_links(ifindex)
        info = link.get_attr("IFLA_LINKINFO")
        return bool(info) and info.get_attr("IFLA_INFO_KIND") == _INTERNAL

    def announce(self, ifindex: int) -> None:
        """Has the kernel notify of the device, which stays as it is.

        ovs-vswitchd remembers that it could not police a device until it hears of it again
        (`netdev_linux_set_policing` in `lib/netdev-linux.c`).
        """
        with kernel_errors(ignored=GONE):
            (link,) = self.rtnetlink.route.get_links(ifindex)
            alias = link.get_attr("IFLA_IFALIAS") or ""
            self.rtnetlink.route.link("set", index=ifindex, ifalias=alias)

    # Filters.

    def filters(self, ifindex: int) -> list[Filter]:
        """The filters of ours on the device; former ones may be of any sidecar."""
        owners = (self.owner, _FORMER_OWNER)
        return [each for each in self.all_filters(ifindex) if each.owner in owners]

    def all_filters(self, ifindex: int) -> list[Filter]:
        """The filters of all sidecars on the device."""
        found: list[Filter] = []
        if self.ingress_qdisc(ifindex) != tc.CLSACT:
            return found
        for direction in tc.FILTER_PARENT:
            with kernel_errors(ignored=GONE):
                messages = self._list(ifindex, direction)
                untagged = {
                    each["handle"]
                    for each in messages
                    if tc_filter.priority(each) == UNTAG_PRIORITY
                }
                parsed = (tc_filter.parse(ifindex, direction, each) for each in messages)
                found += (replace(f, untagged=f.owner in untagged) for f in parsed if f is not None)
        return found

    @retry_dump
    def _list(self, ifindex: int, direction: str) -> list[Any]:
        parent = tc.FILTER_PARENT[direction]
        return list(self.rtnetlink.route.get_filters(index=ifindex, parent=parent))

    def replace_filter(
        self,
        ifindex: int,
        direction: str,
        program_fd: int,
        build: str,
        program: int = 0,
        action: int = 0,
        *,
        made: bool = False,
    ) -> None:
        """Puts the program on the hook, in the place of an earlier one of ours if there is one.

        `program` is its id if it is the hook's own; what it matches is copied to the device
        `action` if that is not 0; `made` says whether we made the qdisc. Raises OSError as the
        kernel says it.
        """
        name = tc_filter.name(build, program, made=made)
        self.rtnetlink.request(
            tc_filter.new(ifindex, direction, PRIORITY, self.owner, name, program_fd, action)
        )

    def ensure_untag(self, ifindex: int, direction: str, program_fd: int) -> None:
        """Puts the program behind the hook's filter. Raises OSError as the kernel says it."""
        self.rtnetlink.request(
            tc_filter.new(ifindex, direction, UNTAG_PRIORITY, self.owner, "tap_untag", program_fd)
        )

    def remove_filter(self, ifindex: int, direction: str) -> None:
        """Removes our filters from the hook; they may be gone already."""
        self._remove(ifindex, direction, PRIORITY, self.owner)
        self.remove_untag(ifindex, direction)

    def remove_untag(self, ifindex: int, direction: str) -> None:
        """Removes the program behind the hook's filter; it may be gone already."""
        self._remove(ifindex, direction, UNTAG_PRIORITY, self.owner)

    def remove_former(self, ifindex: int) -> None:
        """Removes from a device what versions that did not tell owners apart had for us there."""
        for direction in tc.FILTER_PARENT:
            for priority in PRIORITIES:
                self._remove(ifindex, direction, priority, _FORMER_OWNER)

    def _remove(self, ifindex: int, direction: str, priority: int, owner: int) -> None:
        with kernel_errors(ignored=GONE):
            self.rtnetlink.route.tc(
                "del-filter",
                "bpf",
                ifindex,
                parent=tc.FILTER_PARENT[direction],
                prio=priority,
                handle=owner,
                protocol=tc_filter.ETH_P_ALL,
            )
