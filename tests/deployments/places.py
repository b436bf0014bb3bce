"""The ports of a deployment, and what passed them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from ovs_vlans import Bundle

from deployments.due import Passed
from ovs_ebpf_tap.lab.capture import Capture, CapturePoint, Direction
from ovs_ebpf_tap.lab.frames import IP_UDP
from ovs_ebpf_tap.lab.netns import Netns

_GENEVE_PORT = (6081).to_bytes(2)
_OPTIONS_LENGTH, _GENEVE_OPTIONS = 42, 50

TRUNK = Bundle("trunk", 0, None, None, 0x88A8, "never")


def access(vlan: int) -> Bundle:
    """The settings of a Port with this `tag`."""
    return Bundle("access", vlan, None, None, 0x88A8, "never")


@dataclass(frozen=True)
class Place:
    """Where the packets of a port are seen: at the guest's end of it, or the switch's.

    `by_number` is that of `Passed`. `inner` gives the port's own packet of one that is seen, for
    example what a tunnel carries, or None if it is none of the port's.
    """

    port: str
    where: CapturePoint
    vlans: Bundle = TRUNK
    of_switch: bool = False
    by_number: bool = False
    inner: Callable[[bytes], bytes | None] | None = None


@dataclass(frozen=True)
class Device:
    """A device in a namespace."""

    ns: Netns
    device: str


def within_geneve(frame: bytes) -> bytes | None:
    """What a tunnel's frame carries, None of another frame."""
    if frame[12:14] != b"\x08\0" or frame[23] != IP_UDP or frame[36:38] != _GENEVE_PORT:
        return None
    return frame[_GENEVE_OPTIONS + 4 * (frame[_OPTIONS_LENGTH] & 0x3F) :]


class Watch:
    """Captures what passes places while a with-block runs."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._captures = [(each, Capture.of(each.where, Direction.BOTH)) for each in places]
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as starting:
            for _, capture in self._captures:
                starting.enter_context(capture)
            self._running = starting.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def captures(self) -> list[Capture]:
        """All captures."""
        return [capture for _, capture in self._captures]

    def count(self) -> int:
        """How many frames were seen so far."""
        return sum(len(capture.records()) for _, capture in self._captures)

    def passed(self) -> Mapping[str, Passed]:
        """What passed each port so far."""
        return {place.port: _passed(place, capture) for place, capture in self._captures}


def _passed(place: Place, capture: Capture) -> Passed:
    arrived: Counter[bytes] = Counter()
    left: Counter[bytes] = Counter()
    for record in capture.records():
        frame = record.frame if place.inner is None else place.inner(record.frame)
        if frame is not None:
            # What leaves a guest arrives in the switch.
            (left if record.outgoing == place.of_switch else arrived)[frame] += 1
    return Passed(arrived, left, place.vlans, place.by_number)
