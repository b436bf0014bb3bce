"""What a parity case consists of, as plain data, and the frames that cases are made of."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ovs_ebpf_tap.lab.frames import (
    BROADCAST,
    Address,
    Tags,
    arp_request,
    ethernet,
    icmp_frame,
    tcp_frame,
    udp_frame,
)
from ovs_ebpf_tap.model.desired import NATIVE, OFFLOADED

Sent = tuple[str, Sequence[bytes]]
"""A port (of a bond: "port.member") and the frames that are sent into the switch there."""

EXPERIMENTAL = 0x88B5
"""An ethertype that nothing parses: IEEE 802 local experimental."""


@dataclass(frozen=True)
class CasePort:
    """A port, with the columns of its row.

    `kind` is host (a veth pair with a silent machine behind it), internal, local (the bridge's
    own), tap (a virtual machine's, held open), bond (with `members`, each as a host), patch (to a
    bridge with one host), vxlan, or absent (a row without a device).
    `device` is its device's name if it matters. `settings` are further arguments of ovs-vsctl for
    the Port row, with `{p}` for member p's device.
    """

    kind: str = "host"
    tag: int | None = None
    trunks: tuple[int, ...] = ()
    vlan_mode: str | None = None
    cvlans: tuple[int, ...] = ()
    priority_tags: str | None = None
    qinq_ethtype: str | None = None
    protected: bool = False
    mtu: int | None = None
    device: str | None = None
    members: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    def columns(self) -> list[str]:
        """The Port row's columns that are set, as arguments of ovs-vsctl."""
        values = {
            "tag": self.tag,
            "trunks": ",".join(map(str, self.trunks)) or None,
            "vlan_mode": self.vlan_mode,
            "cvlans": ",".join(map(str, self.cvlans)) or None,
            "other_config:priority-tags": self.priority_tags,
            "other_config:qinq-ethtype": self.qinq_ethtype,
            "protected": "true" if self.protected else None,
        }
        return [f"{k}={v}" for k, v in values.items() if v is not None] + list(self.settings)


@dataclass(frozen=True)
class CaseMirror:
    """A mirror, with the columns of its row; ports are named, several with blanks in between.

    `native` ones are set to be, whatever the bridge is. `state` and `reason` are what the sidecar
    has to say of it; `reason` is a part of the line.
    """

    src: str = ""
    dst: str = ""
    select_all: bool = False
    output: str | None = None
    output_vlan: int | None = None
    select_vlan: tuple[int, ...] = ()
    snaplen: int | None = None
    native: bool = False
    state: str = OFFLOADED
    reason: str = ""


def left(reason: str, *mirrors: CaseMirror) -> list[CaseMirror]:
    """These mirrors, which are left to OVS; `reason` is a part of the line that says why."""
    return [replace(mirror, state=NATIVE, reason=reason) for mirror in mirrors]


def datapath_type() -> str:
    """The datapath to test: $OVS_EBPF_TAP_DATAPATH or else netdev."""
    return os.environ.get("OVS_EBPF_TAP_DATAPATH") or "netdev"


def whole_for_hooks(*mirrors: CaseMirror) -> list[CaseMirror]:
    """These mirrors, left to the userspace datapath: it receives super-packets cut."""
    return left("is internal and up", *mirrors) if datapath_type() == "netdev" else [*mirrors]


@dataclass(frozen=True)
class Case:
    """A bridge with ports and mirrors, and what is sent, in order.

    `flows` are ovs-ofctl's, with `{a}` for port a's number; without any the bridge is a
    learning switch; `groups` are ovs-ofctl's, too. `modifies`: flows change packets, and what
    is due is worked out from what passes the ports (`due.py`), which are trunk or access ports
    then, the outputs trunk ports; otherwise it is what OVS copies. `learn` is sent first,
    unwatched, and flows start afresh after it: what is in `sent` for those addresses is not
    flooded then. `bridge` and `open_vswitch` are settings of these rows. `silent` cases are
    those that OVS copies nothing of. `all_hooks` has the case run with hooks attached in every
    way, `in_vm` in an emulated machine as well. `datapaths` are those where it makes sense.
    """

    name: str
    ports: dict[str, CasePort]
    mirrors: Sequence[CaseMirror]
    sent: Sequence[Sent]
    flows: Sequence[str] = ()
    groups: Sequence[str] = ()
    modifies: bool = False
    learn: Sequence[Sent] = ()
    bridge: tuple[str, ...] = ()
    open_vswitch: tuple[str, ...] = ()
    silent: bool = False
    all_hooks: bool = False
    in_vm: bool = False
    datapaths: tuple[str, ...] = ("netdev", "system")

    @property
    def outputs(self) -> set[str]:
        """The output ports."""
        return {mirror.output for mirror in self.mirrors if mirror.output is not None}

    @property
    def has_conntrack(self) -> bool:
        """Whether flows have packets recirculate."""
        return any("ct(" in flow for flow in self.flows)

    @property
    def has_output_vlan(self) -> bool:
        """Whether copies leave through common ports."""
        return any(m.output is None and m.output_vlan is not None for m in self.mirrors)


def ports(names: str, **others: CasePort) -> dict[str, CasePort]:
    """Common hosts, named with blanks in between, and other ports."""
    return {**{name: CasePort() for name in names.split()}, **others}


# Frames.


def station(name: str, tags: Tags = (), serial: int = 0) -> Address:
    """The addresses of a machine at a port, another one for other tags or another `serial`.

    OVS may treat a frame as the one before it that differs in the priority only: what it does to
    the tag of VLAN 0, or to an inner one, it may have decided for that. Frames of different
    addresses are different flows.
    """
    digest = zlib.crc32(repr((name, list(tags), serial)).encode())
    octets = [digest >> shift & 0xFF for shift in (24, 16, 8, 0)]
    return Address(f"02:00:{bytes(octets).hex(':')}", "10." + ".".join(map(str, octets[1:])))


NOBODY = Address("02:ff:ff:00:00:01", "10.255.0.1")
"""An address that is never learned: frames to it are flooded."""

GROUP = Address("01:00:5e:00:00:09", "224.0.0.9")


def broadcast(name: str, tags: Tags = (), text: str = "") -> bytes:
    """A broadcast from the port's machine; other texts are other frames."""
    source = station(name, tags)
    return ethernet(BROADCAST, source.mac, EXPERIMENTAL, _fill(f"{name} {text}"), tags)


def flood(name: str, tags: Tags = (), text: str = "") -> list[bytes]:
    """An ARP request, a broadcast, a multicast and unknown unicast from the port's machine."""
    source = station(name, tags)
    return [
        arp_request(source, "10.255.0.2", tags),
        broadcast(name, tags, text),
        udp_frame(source, GROUP, _fill(f"multicast {text}"), tags=tags),
        udp_frame(source, NOBODY, _fill(f"unknown {text}"), tags=tags),
    ]


def talk(name: str, to: str, tags: Tags = (), to_tags: Tags = ()) -> list[bytes]:
    """Unicast frames of several protocols and lengths, from one port's machine to another's."""
    source, target = station(name, tags), station(to, to_tags)
    return [
        *(udp_frame(source, target, b"u" * length, tags=tags) for length in (0, 1, 18, 500, 1400)),
        tcp_frame(source, target, b"t" * 100, tags=tags),
        icmp_frame(source, target, b"i" * 56, tags=tags),
        ethernet(target.mac, source.mac, EXPERIMENTAL, b"e" * 60, tags),
    ]


def sized(name: str, length: int, tags: Tags = (), to: str = BROADCAST) -> bytes:
    """A frame of `length` bytes, tags included, from the port's machine."""
    head = ethernet(to, station(name, tags).mac, EXPERIMENTAL, b"", tags)
    return head + bytes(i & 0xFF for i in range(length - len(head)))


def one_by_one(name: str, *batches: Sequence[bytes]) -> list[Sent]:
    """Has each batch pass before the next: a frame that a device refuses takes others with it."""
    return [(name, batch) for batch in batches]


def announce(*names: str, tags: Tags = ()) -> list[Sent]:
    """For `Case.learn`: each port's machine makes itself known."""
    return [(n, [arp_request(station(n, tags), station(n, tags).ip, tags)]) for n in names]


def _fill(text: str, length: int = 50) -> bytes:
    return text.encode().ljust(length, b".")
