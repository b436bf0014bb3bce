"""The copies that mirrors have to deliver, worked out from what passed the ports.

A mirror is due each packet that it selects once, and once more in each form that the packet takes
on a wire. Open vSwitch means to do that since 3.1.3 (`reset_mirror_ctx` in
`ofproto/ofproto-dpif-xlate.c`). Earlier versions leave out the second form; some versions make
further copies of a form after a recirculation or a change of metadata.

Packets are told apart by their bytes: what arrives on two ports has to differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ovs_ebpf_tap.lab.differences import difference
from ovs_ebpf_tap.lab.frames import vlans, with_tags
from parity.case import Case, CaseMirror


@dataclass(frozen=True)
class PassedFrames:
    """How often each frame arrived on each port, and left by it."""

    arrived: Mapping[str, Counter[bytes]]
    left: Mapping[str, Counter[bytes]]

    def __post_init__(self) -> None:
        """Raises ValueError for a frame that arrived on two ports."""
        seen: set[bytes] = set()
        for frames in self.arrived.values():
            if seen & frames.keys():
                raise ValueError("a frame arrived on two ports: whose copies are these?")
            seen |= frames.keys()


def passed_ports(case: Case, captured: Mapping[str, Counter[bytes]]) -> PassedFrames:
    """What was sent into the switch, and what was captured behind its ports, but output ports.

    All have the tags that they have in the bridge.
    """
    arrived: dict[str, Counter[bytes]] = {}
    for port, frames in case.sent:
        if port not in case.outputs:
            arrived.setdefault(port, Counter()).update(_in_bridge(case, port, frames))
    return PassedFrames(
        arrived,
        {
            port: Counter(_in_bridge(case, port, frames.elements()))
            for port, frames in captured.items()
            if port not in case.outputs
        },
    )


def _in_bridge(case: Case, port: str, frames: Iterable[bytes]) -> Iterator[bytes]:
    """Frames of an access port lack the tag."""
    tag = case.ports[port].tag if port in case.ports else None
    for frame in frames:
        yield frame if tag is None else with_tags(frame, [tag])


def due(passed: PassedFrames, mirrors: Collection[CaseMirror]) -> Counter[bytes]:
    """The copies due to one output, of all mirrors that have it.

    However many ports and mirrors select a form of a packet, it is due once. Copies are taken to
    be as long as packets, and to have their tags in the bridge: the output is a trunk port.
    """
    copies: Counter[bytes] = Counter()
    for mirror in mirrors:
        copies |= _selected(passed, mirror)
    return copies


def native_problems(
    passed: PassedFrames, wanted: Counter[bytes], native: Counter[bytes], recirculates: bool = False
) -> Iterator[str]:
    """How Open vSwitch's copies differ from those due otherwise than it is known to.

    It may copy a form more often, and leave out forms that the packet did not arrive in. What is
    recirculated, it may copy as if it arrived, in the form that it has then.
    """
    strange = Counter({frame: n for frame, n in native.items() if frame not in wanted})
    if strange and not recirculates:
        yield f"Open vSwitch copied what is not due: {difference(Counter(), strange)}"
    arrived = {frame for frames in passed.arrived.values() for frame in frames}
    missing = Counter({frame: n for frame, n in (wanted - native).items() if frame in arrived})
    if missing:
        yield f"Open vSwitch left out what is due: {difference(missing, Counter())}"


def _selected(passed: PassedFrames, mirror: CaseMirror) -> Counter[bytes]:
    selected: Counter[bytes] = Counter()
    for ports, frames in ((mirror.src, passed.arrived), (mirror.dst, passed.left)):
        for port in frames.keys() if mirror.select_all else ports.split():
            selected |= frames.get(port, Counter())
    if not mirror.select_vlan:
        return selected
    return Counter({f: n for f, n in selected.items() if _vlan(f) in mirror.select_vlan})


def _vlan(frame: bytes) -> int:
    return next(iter(vlans(frame)), 0)
