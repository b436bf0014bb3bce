"""Network devices in rtnetlink's bytes: a thousand are read in milliseconds.

The formats are those of Linux's `include/uapi/linux/rtnetlink.h` and `if_link.h`.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from errno import EINVAL, ENODEV

from ovs_ebpf_tap.model.device import Departure, Device
from ovs_ebpf_tap.observe import netlink

NEWLINK = 16
DELLINK = 17
_GETLINK = 18

_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_INT = struct.Struct("=i")
_U32 = struct.Struct("=I")

_ADDRESS = 1
_NAME = 3
_MTU = 4
_LINKINFO = 18
_WANTED = (_ADDRESS, _NAME, _MTU, _LINKINFO)
_INFO_KIND = 1
_INFO_SLAVE_KIND = 4
_STATS64 = 23
_NEW_NETNSID = 45
_TARGET_NETNSID = 46
_NEW_IFINDEX = 49
_EXT_MASK = 29
_SKIP_STATISTICS = 1 << 3

_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_ARPHRD_ETHER = 1

# The beginning of struct rtnl_link_stats64; later kernels append to it.
_COUNTERS = (
    *("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors"),
    *("rx_dropped", "tx_dropped", "multicast", "collisions"),
    *("rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors"),
    *("rx_fifo_errors", "rx_missed_errors"),
)
_STATISTICS = struct.Struct(f"={len(_COUNTERS)}Q")


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


def device(body: bytes) -> Device | None:
    """The device that a message of type `NEWLINK` or `DELLINK` is about.

    None for one of another family than AF_UNSPEC: bridges notify of their ports' state so.
    """
    family, kind, index, flags, _ = _LINK.unpack_from(body)
    if family != socket.AF_UNSPEC:
        return None
    found: dict[int, bytes] = {}
    for attribute, value in netlink.attributes(body, _LINK.size):
        if attribute in _WANTED:
            found[attribute] = value
            if len(found) == len(_WANTED):
                break  # The kernel sends some 40 of them.
    info = dict(netlink.attributes(found.get(_LINKINFO, b""), 0))
    return Device(
        ifindex=index,
        name=_text(found.get(_NAME, b"")),
        mtu=_U32.unpack(found[_MTU])[0] if _MTU in found else 0,
        up=bool(flags & _IFF_UP),
        running=bool(flags & _IFF_UP and flags & _IFF_LOWER_UP),
        ethernet=kind == _ARPHRD_ETHER,
        address=found.get(_ADDRESS, b"").hex(":"),
        kind=_text(info.get(_INFO_KIND, b"")),
        slave=_text(info.get(_INFO_SLAVE_KIND, b"")),
    )


def departure(body: bytes) -> Departure | None:
    """Where the device has gone that a message of type `DELLINK` is about; None if it has ended.

    The kernel says it of one that has moved to another namespace (`__dev_change_net_namespace` in
    its `net/core/dev.c`).
    """
    found = dict(netlink.attributes(body, _LINK.size))
    if _NEW_NETNSID not in found or _NEW_IFINDEX not in found:
        return None
    (nsid,), (ifindex,) = _INT.unpack(found[_NEW_NETNSID]), _INT.unpack(found[_NEW_IFINDEX])
    return Departure(nsid, ifindex)


def is_there(departed: Departure) -> bool:
    """Whether the device is where it went; not if it has gone on, come back or ended.

    The kernel tells those with CAP_NET_ADMIN there; where it does not, the device is taken to be.
    """
    target = netlink.attribute(_TARGET_NETNSID, _INT.pack(departed.nsid))
    try:
        netlink.ask(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, departed.ifindex, 0, 0) + target)
    except OSError as error:
        return error.errno not in (ENODEV, EINVAL)  # EINVAL: no such namespace.
    return True


@netlink.retry_dump
def list_devices() -> list[Device]:
    """All devices. Raises OSError."""
    # Statistics are most of what the kernel would send.
    mask = netlink.attribute(_EXT_MASK, _U32.pack(_SKIP_STATISTICS))
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + mask
    dumped = netlink.dump(socket.NETLINK_ROUTE, _GETLINK, body)
    return [found for kind, body in dumped if kind == NEWLINK and (found := device(body))]


def read_statistics(ifindex: int) -> Statistics:
    """What the device has counted by now. Raises OSError (ENODEV) if it is gone."""
    body = netlink.ask(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0))
    found = dict(netlink.attributes(body, _LINK.size))
    counted = dict(zip(_COUNTERS, _STATISTICS.unpack_from(found[_STATS64]), strict=True))
    info = dict(netlink.attributes(found.get(_LINKINFO, b""), 0))
    return Statistics(
        rx_packets=counted["rx_packets"],
        rx_bytes=counted["rx_bytes"],
        rx_dropped=counted["rx_dropped"] + counted["rx_missed_errors"],
        tx_packets=counted["tx_packets"],
        tx_bytes=counted["tx_bytes"],
        tx_dropped=counted["tx_dropped"],
        kind=_text(info.get(_INFO_KIND, b"")),
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")
