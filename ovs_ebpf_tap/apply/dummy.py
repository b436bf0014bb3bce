"""Dummies of ours: devices with programs that are on no port."""

from __future__ import annotations

from dataclasses import dataclass
from errno import EOPNOTSUPP
from typing import Any

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_NEWLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from ovs_ebpf_tap.apply import tc_filter
from ovs_ebpf_tap.apply.rtnetlink import GONE, kernel_errors, retry_dump
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.model.desired import INGRESS, PRIORITY
from ovs_ebpf_tap.observe import tc

_FILTER = "ovs-ebpf-tap-cut#"
"""The name of the filter on a dummy, with which it goes; the program's id is behind this."""

_IFF_UP = 0x1
_XDP_GENERIC = 1 << 1  # XDP_FLAGS_SKB_MODE
_UPPER, _PEER = "m", "p"
"""Behind a dummy's name: the macvlan on it, and the peer if it is a veth."""
_MTU = 68
"""Too small for IPv6, which sends nothing there then; no copy is held against it."""


@dataclass(frozen=True)
class Dummy:
    """A device that may be a dummy of ours.

    `programs` are the ids of those on top of it: one of XDP, one on the ingress hook; 0 for none.
    """

    ifindex: int
    alias: str
    up: bool
    programs: tuple[int, int]


class Dummies:
    """Finds, adds and removes dummies."""

    def __init__(self, traffic_control: TrafficControl) -> None:
        self.owner = traffic_control.owner
        self._rtnetlink = traffic_control.rtnetlink
        self._route = self._rtnetlink.route

    def find(self, name: str) -> Dummy | None:
        """The device of that name, if there is one."""
        lower, upper = self._link(name), self._link(name + _UPPER)
        if lower is None:
            return None
        ifindex, alias = lower["index"], lower.get_attr("IFLA_IFALIAS") or ""
        if upper is None:
            return Dummy(ifindex, alias, False, (0, 0))
        xdp = upper.get_attr("IFLA_XDP")
        up = bool(lower["flags"] & upper["flags"] & _IFF_UP)
        programs = (xdp.get_attr("IFLA_XDP_PROG_ID") or 0 if xdp else 0, self._program(upper))
        return Dummy(ifindex, alias, up, programs)

    def _link(self, name: str) -> Any:
        with kernel_errors(ignored=GONE):
            (link,) = self._route.link("get", ifname=name)
            return link
        return None

    def _program(self, link: Any) -> int:
        """The id of our program on the device's ingress hook; 0 without one."""
        with kernel_errors(ignored=GONE):
            options = [each.get_attr("TCA_OPTIONS") for each in self._filters(link["index"])]
            names = [each.get_attr("TCA_BPF_NAME") or "" for each in options if each]
            ids = [each.removeprefix(_FILTER) for each in names if each.startswith(_FILTER)]
            return int(ids[0]) if ids else 0
        return 0

    @retry_dump
    def _filters(self, ifindex: int) -> list[Any]:
        return list(self._route.get_filters(index=ifindex, parent=tc.FILTER_PARENT[INGRESS]))

    def add(self, name: str, alias: str, xdp_fd: int, ingress_fd: int, ingress_id: int) -> int:
        """Makes a dummy with programs, up; returns its ifindex. Raises OSError.

        The programs are on a macvlan on top of it, which takes all that arrives: the kernel passes
        over the XDP program of the first device where a redirected packet arrives
        (`netif_receive_generic_xdp` in its `net/core/dev.c`), and of that one only.
        """
        with kernel_errors():
            ifindex = self._add_lower(name)
        try:
            with kernel_errors():
                self._route.link("set", index=ifindex, ifalias=alias)
                upper = self._add_upper(name + _UPPER, ifindex)
                self._set_xdp(upper, xdp_fd)
                self._route.tc("add", tc.CLSACT, upper)
                named = f"{_FILTER}{ingress_id}"
                self._rtnetlink.request(
                    tc_filter.new(upper, INGRESS, PRIORITY, self.owner, named, ingress_fd)
                )
                for each in (ifindex, upper):
                    self._route.link("set", index=each, state="up")
        except OSError:
            self.remove(ifindex)
            raise
        return ifindex

    def _add_lower(self, name: str) -> int:
        """Without dummies in the kernel, a veth whose peer is down does the same."""
        try:
            self._route.link("add", ifname=name, kind="dummy", mtu=_MTU)
        except NetlinkError as error:
            if error.code != EOPNOTSUPP:
                raise
            peer = {"ifname": name + _PEER, "mtu": _MTU}
            self._route.link("add", ifname=name, kind="veth", mtu=_MTU, peer=peer)
        return self._index(name)

    def _add_upper(self, name: str, lower: int) -> int:
        macvlan = {"kind": "macvlan", "link": lower, "macvlan_mode": "passthru"}
        self._route.link("add", ifname=name, **macvlan)
        return self._index(name)

    def _index(self, name: str) -> int:
        (ifindex,) = self._route.link_lookup(ifname=name)
        return int(ifindex)

    def _set_xdp(self, ifindex: int, program_fd: int) -> None:
        message = ifinfmsg()
        message["index"] = ifindex
        attributes = [["IFLA_XDP_FD", program_fd], ["IFLA_XDP_FLAGS", _XDP_GENERIC]]
        message["attrs"] = [["IFLA_XDP", {"attrs": attributes}]]
        message["header"]["type"] = RTM_NEWLINK
        message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK
        self._rtnetlink.request(message)

    def remove(self, ifindex: int) -> None:
        """Removes the device; it may be gone already."""
        with kernel_errors(ignored=GONE):
            self._route.link("del", index=ifindex)
