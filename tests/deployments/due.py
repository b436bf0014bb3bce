"""The copies that are due to a mirror, from what was captured behind the ports.

A packet's own number tells it from all others, so two frames of the same bytes are two sightings of
one packet in one form. A few frames lack such a number (those of the guests' kernels, and of
flows that answer): of these as many packets are taken to have been there as arrived in all, or as
left by one port, whichever is more.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ovs_vlans import Bundle, Packet, enter, leave

from deployments.mirrors import UserMirror
from ovs_ebpf_tap.lab.frames import Tag, vlans, with_tags

_VLAN_LIMIT = 1
"""`other_config:vlan-limit` of the Open_vSwitch row by default."""
_TAG = struct.Struct("!HH")
_Form = tuple[bytes, tuple[int, ...], bytes]


@dataclass(frozen=True)
class Passed:
    """The frames that arrived in the switch at a port, and that left by it, as on the wire."""

    arrived: Counter[bytes]
    left: Counter[bytes]
    vlans: Bundle
    by_number: bool = False
    """Flows output to the port, and do not leave that to the action `NORMAL`."""

    @property
    def looked_at(self) -> int:
        """How many tags of what left Open vSwitch has looked at; `NORMAL` has removed them."""
        return 0 if self.vlans.mode == "access" and not self.by_number else _VLAN_LIMIT


def due(mirror: UserMirror, passed: Mapping[str, Passed], output: Bundle) -> Counter[bytes]:
    """The copies due at an output port with these VLAN settings."""
    arrived: Counter[bytes] = Counter()
    for port, each in passed.items():
        if mirror.selects_from(port):
            arrived += _copies(mirror, each.arrived, each.vlans, output, _VLAN_LIMIT)
    copies = arrived
    for port, each in passed.items():
        if mirror.selects_to(port):
            left = _copies(mirror, each.left, each.vlans, output, each.looked_at)
            copies += _beyond(left, copies)
    return _cut(copies, mirror.snaplen)


def _copies(
    mirror: UserMirror, frames: Counter[bytes], port: Bundle, output: Bundle, looked_at: int
) -> Counter[bytes]:
    """The copies of frames of which Open vSwitch has looked at so many tags."""
    copies: Counter[bytes] = Counter()
    for frame, count in frames.items():
        packet = Packet.received(_tags(frame), looked_at)
        found = enter(packet, port)
        if found is None or (mirror.select_vlan and found[0].vid not in mirror.select_vlan):
            continue
        tags = leave(packet, found, output).frame
        copies[frame if tags == packet.frame else with_tags(frame, tags)] += count
    return copies


def _beyond(left: Counter[bytes], known: Counter[bytes]) -> Counter[bytes]:
    """What left beyond what is known in the same form.

    On the way an access port drops a tag, and with it a priority: the copy has what arrived.
    """
    seen: Counter[_Form] = Counter()
    for frame, count in known.items():
        seen[_form(frame)] += count
    beyond: Counter[bytes] = Counter()
    for frame, count in left.items():
        same = min(count, seen[_form(frame)])
        seen[_form(frame)] -= same
        beyond[frame] = count - same
    return +beyond


def _form(frame: bytes) -> _Form:
    """The addresses, the VLANs, and what is behind the tags, with its type.

    A tag of VLAN 0 has a priority only, which `NORMAL` may drop.
    """
    found = vlans(frame)
    return frame[:12], tuple(found[1:] if found[:1] == [0] else found), frame[12 + 4 * len(found) :]


def _tags(frame: bytes) -> list[Tag]:
    tags = []
    for offset in range(12, 12 + 4 * len(vlans(frame)), 4):
        tpid, tci = _TAG.unpack_from(frame, offset)
        tags.append(Tag(tci & 0xFFF, tci >> 13, tci >> 12 & 1, tpid))
    return tags


def _cut(copies: Counter[bytes], snaplen: int | None) -> Counter[bytes]:
    if snaplen is None:
        return copies
    cut: Counter[bytes] = Counter()
    for frame, count in copies.items():
        cut[frame[:snaplen]] += count
    return cut
