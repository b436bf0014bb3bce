"""TC qdiscs and filters in rtnetlink's bytes, and what others' filters do with packets.

Formats are those of Linux's `include/uapi/linux/rtnetlink.h`, `pkt_sched.h`, `pkt_cls.h` and
`tc_act/*.h`.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping

from ovs_ebpf_tap.model.desired import EGRESS, INGRESS
from ovs_ebpf_tap.model.surroundings import ForeignFilter
from ovs_ebpf_tap.observe import netlink

NEWQDISC = 36
DELQDISC = 37
NEWTFILTER = 44
DELTFILTER = 45
GETQDISC = 38
GETTFILTER = 46

CLSACT, INGRESS_QDISC = "clsact", "ingress"
"""Kinds of qdiscs for arrivals."""

INGRESS_PARENT = 0xFFFFFFF1
"""TC_H_INGRESS and TC_H_CLSACT: a device has one qdisc there, of one of these kinds."""

FILTER_PARENT = {INGRESS: 0xFFFFFFF2, EGRESS: 0xFFFFFFF3}
"""TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS: where filters are of each direction."""

_TC = struct.Struct("=BxxxiIII")  # struct tcmsg
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")

_KIND = 1  # TCA_KIND
_OPTIONS = 2
_CHAIN = 11

# TCA_<classifier>_ACT, and TCA_<classifier>_POLICE of those that take a policer without an action.
_ACTIONS = {
    "basic": 3,
    "bpf": 1,
    "cgroup": 1,
    "flow": 9,
    "flower": 3,
    "fw": 4,
    "matchall": 2,
    "route": 6,
    "u32": 7,
}
_POLICERS = {"basic": 4, "bpf": 2, "cgroup": 2, "flow": 10, "fw": 2, "route": 5, "u32": 6}
_BPF_FLAGS = 8  # TCA_BPF_FLAGS
_DIRECT_ACTION = 1

_ACT_KIND = 1
_ACT_OPTIONS = 2

# TCA_<action>_PARMS: struct tc_gen, or one that begins alike.
_PARAMETERS = {
    "connmark": 1,
    "csum": 1,
    "ct": 1,
    "gact": 2,
    "mirred": 2,
    "mpls": 2,
    "nat": 1,
    "pedit": 2,
    "sample": 2,
    "simple": 2,
    "skbedit": 2,
    "skbmod": 2,
    "tunnel_key": 2,
    "vlan": 2,
}
_CONTROL = struct.Struct("=8xi")  # struct tc_gen, `action`
_REDIRECTS = (1, 3)  # TCA_EGRESS_REDIR, TCA_INGRESS_REDIR
_MIRRED = struct.Struct("=20xi")  # struct tc_mirred, `eaction`
_GACT_PROBABILITY = 3
_PROBABLE = struct.Struct("=HHi")  # struct tc_gact_p
_POLICE = struct.Struct("=4xi20xI")  # struct tc_police, `action` and `rate.rate` in bytes/s
_POLICE_TBF = 1
_POLICE_RESULT = 5
_POLICE_RATE64 = 8
_POLICE_PACKETS = 10  # TCA_POLICE_PKTRATE64

# Verdicts: TC_ACT_*.
_UNSPEC, _OK, _PIPE = -1, 0, 3
_TAKING = (2, 4, 5, 7, 8)  # SHOT, STOLEN, QUEUED, REDIRECT, TRAP
_JUMP = 1  # TC_ACT_JUMP, in the upper four bits


def ingress_qdisc(body: bytes) -> tuple[int, str] | None:
    """The device and kind of the qdisc that a message is about, if it is one for arrivals."""
    _, index, _, parent, _ = _TC.unpack_from(body)
    if parent != INGRESS_PARENT:
        return None
    return index, _text(dict(netlink.attributes(body, _TC.size)).get(_KIND, b""))


def ifindex(body: bytes) -> int:
    """The device that a message of a filter is about."""
    return int(_TC.unpack_from(body)[1])


def priority(body: bytes) -> int:
    """The priority of the filter that a message is about."""
    return int(_TC.unpack_from(body)[4]) >> 16


@netlink.retry_dump
def list_ingress_qdiscs() -> dict[int, str]:
    """The kind of the qdisc for arrivals, by the ifindex of its device. Raises OSError."""
    dumped = netlink.dump(socket.NETLINK_ROUTE, GETQDISC, _request(0, 0))
    return dict(
        found for kind, body in dumped if kind == NEWQDISC and (found := ingress_qdisc(body))
    )


@netlink.retry_dump
def list_filters(
    ifindex: int, directions: Iterable[str], ours: Collection[int]
) -> list[ForeignFilter]:
    """The filters of a device that `parse_filter` tells of. Raises OSError."""
    return [
        found
        for direction in directions
        for kind, body in netlink.dump(
            socket.NETLINK_ROUTE, GETTFILTER, _request(ifindex, FILTER_PARENT[direction])
        )
        if kind == NEWTFILTER and (found := parse_filter(body, direction, ours))
    ]


def _request(index: int, parent: int) -> bytes:
    return _TC.pack(socket.AF_UNSPEC, index, 0, parent, 0)


def parse_filter(body: bytes, direction: str, ours: Collection[int]) -> ForeignFilter | None:
    """The filter that a message tells of.

    None if it neither takes packets nor ends their way, as far as is known: what a direct-action
    program does is not. None also if it is of kind bpf with one of the priorities in `ours`.
    """
    *_, info = _TC.unpack_from(body)
    attributes = dict(netlink.attributes(body, _TC.size))
    kind = _text(attributes.get(_KIND, b""))
    priority = info >> 16
    if _OPTIONS not in attributes or (kind == "bpf" and priority in ours):
        return None  # Without options it is the classifier that its filters are in.
    chain = _U32.unpack(attributes[_CHAIN])[0] if _CHAIN in attributes else 0
    options = dict(netlink.attributes(attributes[_OPTIONS], 0))
    if kind == "u32" and not _is_u32_key(options):
        return None
    flags = options.get(_BPF_FLAGS, b"")
    if kind == "bpf" and flags and _U32.unpack(flags)[0] & _DIRECT_ACTION:
        return None
    takes, ends, what = _fate(kind, options)
    if not takes and not ends:
        return None
    return ForeignFilter(direction, priority, kind, chain, takes, ends, what)


def _is_u32_key(options: Mapping[int, bytes]) -> bool:
    """Whether a u32 message is about a key, not about a hash table: it has a selector."""
    return 5 in options  # TCA_U32_SEL


def _fate(kind: str, options: Mapping[int, bytes]) -> tuple[bool, bool, str]:
    """Whether what matches may be taken, or pass the filters behind, and by what."""
    actions = list(_actions(options.get(_ACTIONS.get(kind, -1), b"")))
    policer = options.get(_POLICERS.get(kind, -1))
    if policer is not None:
        actions.insert(0, ("police", policer))
    takes = ends = False
    names = []
    for name, parameters in actions:
        decisions, words = _decisions(name, dict(netlink.attributes(parameters, 0)))
        names.append(words)
        takes |= any(decision in _TAKING for decision in decisions)
        onward = {each for each in decisions if each == _PIPE or each >> 28 == _JUMP}
        ends |= any(each not in (_UNSPEC, *_TAKING) for each in decisions - onward)
        if not onward:
            break
    else:
        ends = True
    return takes, ends, ", ".join(names)


def _actions(nested: bytes) -> Iterator[tuple[str, bytes]]:
    for _, value in netlink.attributes(nested, 0):
        action = dict(netlink.attributes(value, 0))
        yield _text(action.get(_ACT_KIND, b"")), action.get(_ACT_OPTIONS, b"")


def _decisions(name: str, options: Mapping[int, bytes]) -> tuple[set[int], str]:
    """The decisions that an action may give, and what it is; of an unknown one, that it goes on."""
    if name == "police":
        return _police(options)
    parameters = options.get(_PARAMETERS.get(name, -1))
    if parameters is None:
        return {_PIPE}, name
    decisions = {_CONTROL.unpack_from(parameters)[0]}
    if name == "mirred":
        if _MIRRED.unpack_from(parameters)[0] in _REDIRECTS:
            return {_TAKING[1]}, "redirect"
        return decisions, "mirror"
    if name == "gact":
        if _GACT_PROBABILITY in options:
            decisions.add(_PROBABLE.unpack(options[_GACT_PROBABILITY])[2])
        return decisions, "drop" if _TAKING[0] in decisions else "gact"
    return decisions, name


def _police(options: Mapping[int, bytes]) -> tuple[set[int], str]:
    parameters = options.get(_POLICE_TBF)
    if parameters is None:
        return {_PIPE}, "police"
    exceeding, rate = _POLICE.unpack_from(parameters)
    if _POLICE_RATE64 in options:
        rate = int.from_bytes(options[_POLICE_RATE64], sys.byteorder)
    words = f"police {8 * rate} bit/s" if rate else "police"
    if _POLICE_PACKETS in options:
        words = f"police {int.from_bytes(options[_POLICE_PACKETS], sys.byteorder)} packets/s"
    conforming = _I32.unpack(options[_POLICE_RESULT])[0] if _POLICE_RESULT in options else _OK
    return {exceeding, conforming}, words


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="backslashreplace")
