"""rtnetlink: devices as they come and go, and the clsact qdiscs and filters on them.

With `links`, the only module that talks netlink. Devices are followed by notifications on a socket
of our own, whose descriptor a poll loop can wait for; requests go through pyroute2's IPRoute.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from errno import EEXIST, EINVAL, ENOBUFS, ENODEV, ENOENT, EOPNOTSUPP
from socket import htons
from typing import Any, NamedTuple

import tenacity
from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.rtnl import RTM_GETQDISC, RTM_NEWLINK, RTM_NEWTFILTER
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from ovs_ebpf_tap.model import surroundings
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, PRIORITY
from ovs_ebpf_tap.model.device import Departure, Device
from ovs_ebpf_tap.observe import links, tc

# Filters of ours are known by their name: behind this, the build that they run, a mark if the qdisc
# was made for them, and the id of the program if it is the hook's own. Their handle is their owner.
FILTER_NAME = "ovs-ebpf-tap/"
_MADE = "+"
_DUMMY_FILTER = "ovs-ebpf-tap-cut#"
"""On a dummy of ours, with which it goes; the program's id is behind this."""
_UNMARK_PRIORITY = 0xA7A1
_PRIORITIES = (PRIORITY, _UNMARK_PRIORITY)
_FORMER_OWNER = 1
"""The handle of all filters of versions that did not tell owners apart."""
_NOBODY = 2
"""No owner's number: theirs have the highest bit set. With 0, all filters would be removed."""
_ETH_P_ALL = 3

_IFF_UP = 0x1
_RTMGRP_LINK = 0x1
_RTMGRP_TC = 0x8
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
_RECEIVE_BUFFER = 4 << 20
_ANSWER = 1 << 16

_PATIENCE = 5.0
"""Seconds for the kernel's answer, which is there when `send` returns unless there was no room."""

_MAX_SEQUENCE = (1 << 32) - 1

_FORMER_NAMES = 4
"""Names of a device that are remembered."""

# TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS: include/uapi/linux/pkt_sched.h
_PARENT = {INGRESS: 0xFFFFFFF2, EGRESS: 0xFFFFFFF3}
_CLSACT_PARENT = 0xFFFFFFF1

_OFFLOADING_KINDS = {"flower", "matchall"}
"""Of Open vSwitch's filters with hw-offload: flows, and ingress policing."""
_INTERNAL = "openvswitch"
"""The kind of the kernel datapath's internal devices."""

_GONE = (ENODEV, ENOENT, EINVAL)
_FREED = (tc.DELQDISC, "ingress")

_XDP_GENERIC = 1 << 1  # XDP_FLAGS_SKB_MODE
_UPPER, _PEER = "m", "p"
"""Behind a dummy's name: the macvlan on it, and the peer if it is a veth."""
_DUMMY_MTU = 68
"""Too small for IPv6, which sends nothing there then; no copy is held against it."""

_DIRECT_ACTION = 1  # TCA_BPF_FLAG_ACT_DIRECT
_EGRESS_MIRROR = 2  # TCA_EGRESS_MIRROR
_CONTINUE = -1  # TC_ACT_UNSPEC: the filters behind see the packet, too

_retry_dump = tenacity.retry(
    retry=tenacity.retry_if_exception_type((NetlinkDumpInterrupted, links.InterruptedDumpError)),
    stop=tenacity.stop_after_attempt(5),
    reraise=True,
)


@dataclass(frozen=True)
class Statistics:
    """What a device has counted since it was made, as the host sees it, and its kind.

    Its driver counts, or the kernel for it: `rtnl_link_stats64` in
    `include/uapi/linux/if_link.h`. `rx_dropped` has what was missed for want of room, too. The
    kind is that of rtnetlink, e.g. `veth`; empty for hardware.
    """

    rx_packets: int = 0
    rx_bytes: int = 0
    rx_dropped: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    tx_dropped: int = 0
    kind: str = ""


class Changes(NamedTuple):
    """What was notified."""

    devices: bool
    """Whether devices changed."""
    hooks: bool
    """Whether clsact qdiscs, or filters where ours are, were removed."""
    appeared: frozenset[int]
    """The devices, by ifindex, that were not there before."""
    freed: frozenset[int]
    """The devices, by ifindex, whose ingress no qdisc of another kind holds any more."""
    left: Mapping[str, Departure]
    """The devices that have left for another network namespace, by all names that they had."""


@dataclass(frozen=True)
class Filter:
    """A filter of a sidecar on a clsact qdisc."""

    ifindex: int
    direction: str
    owner: int
    """The sidecar that it is of, as `programs.owner` has it."""
    build: str
    made: bool
    """Whether the qdisc was made for it, or for another filter of its owner."""
    program: int
    """Id of the hook's own program; 0 if it has none."""
    action: int
    """Ifindex of the device that its action copies to; 0 if it has none."""
    unmarked: bool = False
    """Whether the program is behind it that takes marks off."""


@dataclass(frozen=True)
class Dummy:
    """A device that may be a dummy of ours.

    `programs` are the ids of those on top of it: one of XDP, one on the ingress hook; 0 for none.
    """

    ifindex: int
    alias: str
    up: bool
    programs: tuple[int, int]


def _filter(ifindex: int, direction: str, message: Any) -> Filter | None:
    """The filter of a sidecar that a message tells of, if it does."""
    if message.get_attr("TCA_KIND") != "bpf":
        return None  # Of some kinds, pyroute2 leaves the options as they are.
    options = message.get_attr("TCA_OPTIONS")
    name = options.get_attr("TCA_BPF_NAME") if options else None
    # One that is not UTF-8 comes as bytes.
    if not isinstance(name, str) or not name.startswith(FILTER_NAME):
        return None
    build, _, program = name.removeprefix(FILTER_NAME).partition("#")
    made = build.endswith(_MADE)
    actions = options.get_attr("TCA_BPF_ACT")
    mirred = actions.get_attr("TCA_ACT_PRIO_1") if actions else None
    parameters = mirred.get_attr("TCA_ACT_OPTIONS") if mirred else None
    action = parameters.get_attr("TCA_MIRRED_PARMS")["ifindex"] if parameters else 0
    return Filter(
        ifindex,
        direction,
        message["handle"],
        build.removesuffix(_MADE),
        made,
        int(program) if program.isdecimal() else 0,
        action,
    )


def _mirror_to(ifindex: int) -> dict[str, Any]:
    """An action that copies to a device's egress."""
    parameters = {"action": _CONTINUE, "eaction": _EGRESS_MIRROR, "ifindex": ifindex}
    options = {"attrs": [["TCA_MIRRED_PARMS", parameters]]}
    action = {"attrs": [["TCA_ACT_KIND", "mirred"], ["TCA_ACT_OPTIONS", options]]}
    return {"attrs": [["TCA_ACT_PRIO_1", action]]}


def _classifier(name: str, program_fd: int) -> list[Any]:
    """A filter's attributes: the program says what becomes of a packet."""
    how = ["TCA_BPF_FLAGS", _DIRECT_ACTION]
    return [["TCA_BPF_FD", program_fd], ["TCA_BPF_NAME", name], how]


def _statistics(message: Any) -> Statistics:
    counted = message.get_attr("IFLA_STATS64")
    return Statistics(
        rx_packets=counted["rx_packets"],
        rx_bytes=counted["rx_bytes"],
        rx_dropped=counted["rx_dropped"] + counted["rx_missed_errors"],
        tx_packets=counted["tx_packets"],
        tx_bytes=counted["tx_bytes"],
        tx_dropped=counted["tx_dropped"],
        kind=_kind(message),
    )


def _kind(message: Any) -> str:
    info = message.get_attr("IFLA_LINKINFO")
    return (info.get_attr("IFLA_INFO_KIND") if info else None) or ""


def _gone(error: NetlinkError) -> bool:
    """Whether a request failed because the device, qdisc or filter is not there."""
    return error.code in _GONE


class Netlink:
    """Devices and their clsact hooks, in the network namespace of the caller."""

    def __init__(self, *, owner: int = _NOBODY) -> None:
        """`owner` is whose filters are ours, as `programs.owner` has it."""
        self.owner = owner
        self._events = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._ports: frozenset[int] = frozenset()
        self._qdiscs: dict[int, str] = {}
        """The kind of the qdisc for arrivals of each device that has one."""
        self._filters: dict[int, tuple[surroundings.Filter, ...]] = {}
        """Others' filters on the devices that are followed and have such a qdisc."""
        self._unread: set[int] = set()
        """Devices whose filters changed."""
        self.others = surroundings.State()
        """What others have on devices, as of the last `run`, `refresh` or `follow`; another object
        when changed."""
        tc.receive_only(self._events, tc.notifications((), _PRIORITIES))
        self._events.bind((0, _RTMGRP_LINK | _RTMGRP_TC))
        self._events.setblocking(False)
        self._requests = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._requests.settimeout(_PATIENCE)
        self._sequence = 0
        self._marshal = MarshalRtnl()
        self._route = IPRoute()
        self._by_index: dict[int, Device] = {}
        self._former: dict[int, tuple[str, ...]] = {}
        self._lost = False
        self.devices: Mapping[str, Device] = {}
        """The devices by name, as of the last `run` or `refresh`; another mapping when changed.

        Also by names that they had before, where no other device has these.
        """
        self.refresh()

    def close(self) -> None:
        """Closes the sockets."""
        self._route.close()
        self._requests.close()
        self._events.close()

    def fileno(self) -> int:
        """The descriptor that turns readable when `run` has something to do."""
        return self._events.fileno()

    @_retry_dump
    def refresh(self) -> None:
        """Reads all devices anew, and what others have on those that are followed."""
        found = {device.ifindex: device for device in links.list_devices()}
        self._qdiscs = dict(self._list_qdiscs())
        for device in found.values():
            self._note_name(device)
        self._by_index = found
        self._note_devices()
        self._unread |= self._filters.keys()
        self._note_others()

    @staticmethod
    def _list_qdiscs() -> Iterator[tuple[int, str]]:
        for kind, body in links.dump(socket.NETLINK_ROUTE, tc.GETQDISC, tc.request(0, 0)):
            found = tc.ingress_qdisc(body) if kind == tc.NEWQDISC else None
            if found is not None:
                yield found

    def follow(self, ports: frozenset[int]) -> None:
        """Has `others` tell of these devices, by ifindex. Raises OSError."""
        if ports != self._ports:
            self._ports = ports
            self._note_others()

    def _note_others(self) -> None:
        """Reads others' filters where they may have changed."""
        followed = self._ports & self._qdiscs.keys()
        if followed != self._filters.keys():
            # Before they are read: what changes from then on is told.
            tc.receive_only(self._events, tc.notifications(followed, _PRIORITIES))
            self._unread |= followed - self._filters.keys()
            self._filters = {index: self._filters.get(index, ()) for index in followed}
        for index in self._unread & followed:
            self._filters[index] = self._read_others(index)
            self._unread.discard(index)
        self._unread.clear()
        others = surroundings.State(
            frozenset(index for index in followed if self._qdiscs[index] == "ingress"),
            {index: filters for index, filters in self._filters.items() if filters},
        )
        if others != self.others:
            self.others = others

    @_retry_dump
    def _read_others(self, ifindex: int) -> tuple[surroundings.Filter, ...]:
        """The filters of others on a device, in their order."""
        found = []
        # An ingress qdisc has one chain, and takes it for egress, too.
        for direction in _PARENT if self._qdiscs[ifindex] == "clsact" else (INGRESS,):
            request = tc.request(ifindex, _PARENT[direction])
            for kind, body in links.dump(socket.NETLINK_ROUTE, tc.GETTFILTER, request):
                each = tc.parse_filter(body, direction, _PRIORITIES)
                if kind == tc.NEWTFILTER and each is not None:
                    found.append(each)
        return tuple(sorted(found, key=lambda each: (each.direction, each.chain, each.priority)))

    def _note_name(self, device: Device) -> None:
        """Notes the name that the device had until now."""
        before = self._by_index.get(device.ifindex)
        if before is not None and before.name != device.name:
            names = (*self._former.get(device.ifindex, ()), before.name)
            self._former[device.ifindex] = names[-_FORMER_NAMES:]

    def _note_devices(self) -> None:
        names = {device.name for device in self._by_index.values()}
        self._former = {
            ifindex: kept
            for ifindex, former in self._former.items()
            if ifindex in self._by_index
            and (kept := tuple(name for name in former if name not in names))
        }
        devices = {name: self._by_index[i] for i, some in self._former.items() for name in some}
        devices |= {device.name: device for device in self._by_index.values()}
        if devices != self.devices:
            self.devices = devices

    def run(self) -> Changes:
        """Takes in what was notified.

        Raises OSError if notifications were lost and devices can't be listed; the next time it
        tries that again.
        """
        before = self.devices
        told = hooks = changed = False
        appeared: set[int] = set()
        freed: set[int] = set()
        left: dict[str, Departure] = {}
        while True:
            try:
                data = self._events.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                self._lost = True
                continue
            if self._lost:
                continue  # Older than what was lost: a device in it may be gone.
            for kind, _, body in links.messages(data):
                if kind == links.NEWLINK:
                    appeared |= self._take_device(body)
                    told = True
                elif kind == links.DELLINK:
                    left |= self._take_end(body)
                    told = True
                elif kind in (tc.NEWQDISC, tc.DELQDISC):
                    qdisc = tc.ingress_qdisc(body)
                    if qdisc is not None:
                        self._take_qdisc(kind, *qdisc)
                        hooks |= kind == tc.DELQDISC and qdisc[1] == "clsact"
                        freed |= {qdisc[0]} if (kind, qdisc[1]) == _FREED else set()
                        changed = True
                elif kind in (tc.NEWTFILTER, tc.DELTFILTER):
                    hooks |= kind == tc.DELTFILTER and tc.priority(body) in _PRIORITIES
                    self._unread.add(tc.ifindex(body))
                    changed = True
        if self._lost:
            known = self._by_index
            self.refresh()
            self._lost = False
            appeared |= self._by_index.keys() - known.keys()
            hooks = True
        else:
            if told:
                self._note_devices()
            if changed or self._unread:
                self._note_others()
        return Changes(
            before is not self.devices, hooks, frozenset(appeared), frozenset(freed), left
        )

    def _take_qdisc(self, kind: int, ifindex: int, name: str) -> None:
        self._filters.pop(ifindex, None)  # Of an earlier qdisc.
        if kind == tc.NEWQDISC:
            self._qdiscs[ifindex] = name
        else:
            self._qdiscs.pop(ifindex, None)

    def _take_device(self, body: bytes) -> set[int]:
        """Takes in what is told of a device; returns it, by ifindex, if it was not there before."""
        device = links.device(body)
        if device is None:
            return set()
        new = set() if device.ifindex in self._by_index else {device.ifindex}
        self._note_name(device)
        self._by_index[device.ifindex] = device
        return new

    def _take_end(self, body: bytes) -> dict[str, Departure]:
        """Takes in that a device is gone; returns where to, by its names, if it has not ended."""
        device = links.device(body)
        if device is None:
            return {}
        self._by_index.pop(device.ifindex, None)
        self._qdiscs.pop(device.ifindex, None)
        gone = links.departure(body)
        names = (device.name, *self._former.get(device.ifindex, ()))
        return dict.fromkeys(names, gone) if gone is not None else {}

    def is_up(self, ifindex: int) -> bool:
        """Whether there is such a device, and it is up."""
        device = self._by_index.get(ifindex)
        return device is not None and device.up

    def statistics(self, ifindex: int) -> Statistics:
        """What the device has counted by now. Raises OSError (ENODEV) if it is gone."""
        try:
            (link,) = self._route.get_links(ifindex)
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from None
        return _statistics(link)

    def ingress_qdisc(self, ifindex: int) -> str | None:
        """The kind of what holds the device's ingress: clsact, ingress, or None.

        Asks for this one qdisc: a dump is of all devices', whichever one is named.
        """
        message = tcmsg()
        message["index"] = ifindex
        message["parent"] = _CLSACT_PARENT
        message["header"]["type"] = RTM_GETQDISC
        message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO
        try:
            answers = self._request(message)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        kinds = [each.get_attr("TCA_KIND") for each in answers if each["index"] == ifindex]
        return str(kinds[0]) if kinds else None

    @_retry_dump
    def _get_filters(self, ifindex: int, direction: str) -> list[Any]:
        return list(self._route.get_filters(index=ifindex, parent=_PARENT[direction]))

    def ensure_clsact(self, ifindex: int) -> bool:
        """Sees to it that the device has a clsact qdisc; returns whether it was made now.

        Raises OSError (EBUSY, EEXIST) where OVS's ingress policing, or somebody else, holds
        the ingress with a qdisc of the other kind.
        """
        kind = self.ingress_qdisc(ifindex)
        if kind == "clsact":
            return False
        if kind is not None:
            raise OSError(EEXIST, f"another program's {kind} qdisc excludes clsact")
        try:
            self._route.tc("add", "clsact", ifindex)
        except NetlinkError as error:
            if error.code == EEXIST and self.ingress_qdisc(ifindex) == "clsact":
                return False  # Somebody was faster.
            raise OSError(error.code, os.strerror(error.code)) from None
        return True

    def remove_clsact(self, ifindex: int, *, hw_offload: bool) -> None:
        """Removes the clsact qdisc unless others have filters on it; it may be gone already.

        With `hw_offload`, an ingress qdisc takes its place. Open vSwitch would have added one,
        had there been none (`netdev_tc_init_flow_api` in `lib/netdev-offload-tc.c`); instead its
        flows are on ours. It goes on to put them there until it is restarted, whatever is set, and
        removes only ingress qdiscs then: what it leaves on a clsact qdisc forwards past it. On its
        internal devices, it has a clsact qdisc itself.
        """
        if self.ingress_qdisc(ifindex) != "clsact":
            return
        try:
            if hw_offload and self._is_internal(ifindex):
                return
            found = [each for where in _PARENT for each in self._get_filters(ifindex, where)]
            kinds = {each.get_attr("TCA_KIND") for each in found}
            if kinds - (_OFFLOADING_KINDS if hw_offload else set()):
                return
            self._route.tc("del", "clsact", ifindex)
            if hw_offload:
                self._route.tc("add", "ingress", ifindex)
        except NetlinkError as error:
            if not _gone(error) and error.code != EEXIST:
                raise OSError(error.code, os.strerror(error.code)) from None

    def _is_internal(self, ifindex: int) -> bool:
        (link,) = self._route.get_links(ifindex)
        return _kind(link) == _INTERNAL

    def announce(self, ifindex: int) -> None:
        """Has the kernel notify of the device, which stays as it is.

        ovs-vswitchd remembers that it could not police a device until it hears of it again
        (`netdev_linux_set_policing` in `lib/netdev-linux.c`).
        """
        try:
            (link,) = self._route.get_links(ifindex)
            alias = link.get_attr("IFLA_IFALIAS") or ""
            self._route.link("set", index=ifindex, ifalias=alias)
        except NetlinkError as error:
            if not _gone(error):
                raise OSError(error.code, os.strerror(error.code)) from None

    # Dummies of ours.

    def dummy(self, name: str) -> Dummy | None:
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
        try:
            (link,) = self._route.link("get", ifname=name)
        except NetlinkError as error:
            if _gone(error):
                return None
            raise OSError(error.code, os.strerror(error.code)) from None
        return link

    def _program(self, link: Any) -> int:
        """The id of our program on the device's ingress hook; 0 without one."""
        try:
            filters = self._get_filters(link["index"], INGRESS)
        except NetlinkError as error:
            if _gone(error):
                return 0
            raise OSError(error.code, os.strerror(error.code)) from None
        options = [each.get_attr("TCA_OPTIONS") for each in filters]
        names = [each.get_attr("TCA_BPF_NAME") or "" for each in options if each]
        ids = [each.removeprefix(_DUMMY_FILTER) for each in names if each.startswith(_DUMMY_FILTER)]
        return int(ids[0]) if ids else 0

    def add_dummy(
        self, name: str, alias: str, xdp_fd: int, ingress_fd: int, ingress_id: int
    ) -> int:
        """Makes a dummy with programs, up; returns its ifindex. Raises OSError.

        The programs are on a macvlan on top of it, which takes all that arrives: the kernel passes
        over the XDP program of the first device where a redirected packet arrives
        (`netif_receive_generic_xdp` in its `net/core/dev.c`), and of that one only.
        """
        ifindex: int = 0
        try:
            ifindex = self._add_dummy(name)
            self._route.link("set", index=ifindex, ifalias=alias)
            upper = {"kind": "macvlan", "link": ifindex, "macvlan_mode": "passthru"}
            self._route.link("add", ifname=name + _UPPER, **upper)
            (index,) = self._route.link_lookup(ifname=name + _UPPER)
            self._set_xdp(index, xdp_fd)
            self._route.tc("add", "clsact", index)
            classifier = _classifier(f"{_DUMMY_FILTER}{ingress_id}", ingress_fd)
            self._set_filter(index, INGRESS, PRIORITY, classifier)
            for each in (ifindex, index):
                self._route.link("set", index=each, state="up")
        except (NetlinkError, OSError) as error:
            if ifindex:
                self.remove_dummy(ifindex)
            if isinstance(error, NetlinkError):
                raise OSError(error.code, os.strerror(error.code)) from None
            raise
        return ifindex

    def _add_dummy(self, name: str) -> int:
        """Without dummies in the kernel, a veth whose peer is down does the same."""
        try:
            self._route.link("add", ifname=name, kind="dummy", mtu=_DUMMY_MTU)
        except NetlinkError as error:
            if error.code != EOPNOTSUPP:
                raise
            peer = {"ifname": name + _PEER, "mtu": _DUMMY_MTU}
            self._route.link("add", ifname=name, kind="veth", mtu=_DUMMY_MTU, peer=peer)
        (ifindex,) = self._route.link_lookup(ifname=name)
        return int(ifindex)

    def _set_xdp(self, ifindex: int, program_fd: int) -> None:
        message = ifinfmsg()
        message["index"] = ifindex
        attributes = [["IFLA_XDP_FD", program_fd], ["IFLA_XDP_FLAGS", _XDP_GENERIC]]
        message["attrs"] = [["IFLA_XDP", {"attrs": attributes}]]
        message["header"]["type"] = RTM_NEWLINK
        message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK
        self._request(message)

    def remove_dummy(self, ifindex: int) -> None:
        """Removes the device; it may be gone already."""
        try:
            self._route.link("del", index=ifindex)
        except NetlinkError as error:
            if not _gone(error):
                raise OSError(error.code, os.strerror(error.code)) from None

    # Filters.

    def filters(self, ifindex: int) -> list[Filter]:
        """The filters of ours on the device; former ones may be of any sidecar."""
        owners = (self.owner, _FORMER_OWNER)
        return [each for each in self.all_filters(ifindex) if each.owner in owners]

    def all_filters(self, ifindex: int) -> list[Filter]:
        """The filters of all sidecars on the device."""
        found: list[Filter] = []
        if self.ingress_qdisc(ifindex) != "clsact":
            return found
        for direction in _PARENT:
            try:
                messages = self._get_filters(ifindex, direction)
            except NetlinkError as error:
                if _gone(error):
                    continue
                raise OSError(error.code, os.strerror(error.code)) from None
            unmarked = {m["handle"] for m in messages if m["info"] >> 16 == _UNMARK_PRIORITY}
            for message in messages:
                each = _filter(ifindex, direction, message)
                if each is not None:
                    found.append(replace(each, unmarked=each.owner in unmarked))
        return found

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
        name = FILTER_NAME + build + _MADE * made + (f"#{program}" if program else "")
        how = ["TCA_BPF_ACT", _mirror_to(action)] if action else ["TCA_BPF_FLAGS", _DIRECT_ACTION]
        attributes = [["TCA_BPF_FD", program_fd], ["TCA_BPF_NAME", name], how]
        self._set_filter(ifindex, direction, PRIORITY, attributes)

    def ensure_unmark(self, ifindex: int, direction: str, program_fd: int) -> None:
        """Puts the program behind the hook's filter. Raises OSError as the kernel says it."""
        attributes = _classifier("tap_unmark", program_fd)
        self._set_filter(ifindex, direction, _UNMARK_PRIORITY, attributes)

    def _set_filter(
        self, ifindex: int, direction: str, priority: int, attributes: list[Any]
    ) -> None:
        message = tcmsg()
        message["index"] = ifindex
        message["parent"] = _PARENT[direction]
        message["handle"] = self.owner
        message["info"] = htons(_ETH_P_ALL) | priority << 16
        message["attrs"] = [["TCA_KIND", "bpf"], ["TCA_OPTIONS", {"attrs": attributes}]]
        message["header"]["type"] = RTM_NEWTFILTER
        message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
        self._request(message)

    def _request(self, message: Any) -> list[Any]:
        """Sends what pyroute2 has no words for; returns the answers before the kernel's last word.

        Its own `nlm_request` takes ten times as long, and has no timeout. Raises OSError as the
        kernel says it, and TimeoutError if it says nothing.
        """
        self._sequence = self._sequence % _MAX_SEQUENCE + 1
        message["header"]["sequence_number"] = self._sequence
        message.encode()
        self._requests.send(message.data)
        answers = []
        while True:
            for each in self._marshal.parse(self._requests.recv(_ANSWER)):
                if each["header"]["sequence_number"] != self._sequence:
                    continue  # Of an earlier request, whose answer came too late.
                if each["header"]["type"] != NLMSG_ERROR:
                    answers.append(each)
                elif each["header"]["error"] is None:
                    return answers
                else:
                    code = each["header"]["error"].code
                    raise OSError(code, os.strerror(code))

    def remove_filter(self, ifindex: int, direction: str) -> None:
        """Removes our filters from the hook; they may be gone already."""
        self._remove_filter(ifindex, direction, PRIORITY, self.owner)
        self.remove_unmark(ifindex, direction)

    def remove_unmark(self, ifindex: int, direction: str) -> None:
        """Removes the program behind the hook's filter; it may be gone already."""
        self._remove_filter(ifindex, direction, _UNMARK_PRIORITY, self.owner)

    def remove_former(self, ifindex: int) -> None:
        """Removes from a device what versions that did not tell owners apart had for us there."""
        for direction in _PARENT:
            for priority in _PRIORITIES:
                self._remove_filter(ifindex, direction, priority, _FORMER_OWNER)

    def _remove_filter(self, ifindex: int, direction: str, priority: int, owner: int) -> None:
        try:
            self._route.tc(
                "del-filter",
                "bpf",
                ifindex,
                parent=_PARENT[direction],
                prio=priority,
                handle=owner,
                protocol=_ETH_P_ALL,
            )
        except NetlinkError as error:
            if not _gone(error):
                raise OSError(error.code, os.strerror(error.code)) from None
