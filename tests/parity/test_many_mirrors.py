"""More mirrors on one bridge than OVS takes: 32 of them have room there, and ours are 256."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from ovs_ebpf_tap.lab.differences import difference
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.model.desired import INVALID, NATIVE, OFFLOADED, OffloadDecision
from ovs_ebpf_tap.model.rows import MODE_KEY, REASON_KEY, STATE_KEY
from parity.case import Case, CaseMirror, announce, ports, talk
from parity.case_bridge import CaseBridge, ParityBench
from parity.place_listeners import Frames

MIRRORS = 256
ROOM = 32
"""Mirrors that OVS takes on a bridge (MAX_MIRRORS in `ofproto/ofproto-dpif-mirror.h`)."""

MACHINES = [f"p{number}" for number in range(16)]
OUTPUTS = [f"o{number}" for number in range(64)]

# The output ports of mirrors that OVS refuses are not reserved: a flood would reach them.
LEARN = announce(*MACHINES)
SENT = [
    (name, [*talk(name, MACHINES[(number + 1) % 16]), *talk(name, MACHINES[(number + 5) % 16])])
    for number, name in enumerate(MACHINES)
]


def make_mirrors() -> Iterator[CaseMirror]:
    """One port is copied to every output; the others are a mixture, four mirrors to an output."""
    for number in range(MIRRORS):
        output = OUTPUTS[number % 64]
        if number < 64:
            yield CaseMirror(src="p0", output=output)
        elif number < 128:
            yield CaseMirror(src=MACHINES[number % 15 + 1], output=output)
        elif number < 192:
            yield CaseMirror(dst=MACHINES[number * 7 % 16], output=output)
        else:
            both = MACHINES[number % 16], MACHINES[number * 3 % 16]
            yield CaseMirror(src=both[0], dst=both[1], output=output)


ALL = list(make_mirrors())
GROUPS = [
    [mirror for mirror in ALL if mirror.output in some]
    for some in (OUTPUTS[first : first + 8] for first in range(0, 64, 8))
]
"""All mirrors of an output are in one group, and OVS takes a group."""


def case(mirrors: Sequence[CaseMirror]) -> Case:
    return Case("many", ports(" ".join([*MACHINES, *OUTPUTS])), mirrors, SENT, learn=LEARN)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("bench", attachments()[:1], indirect=True, scope="session")
def test_256_mirrors_on_a_bridge(bench: ParityBench) -> None:
    with CaseBridge(bench, case([])) as world:
        native = native_in_groups(world)
        world.become(case(ALL))
        world.set_mode("offload")
        decisions = world.wait_verdicts()
        others = Counter(
            decision for decision in decisions if decision != OffloadDecision(OFFLOADED)
        )
        assert not others, f"not offloaded: {others}"
        offloaded = world.play(SENT, native).frames
        problems = [
            f"at {place}: {found}"
            for place in [*OUTPUTS, *MACHINES]
            if (found := difference(native[place], offloaded[place]))
        ]
        assert not problems, "\n".join(problems)
        assert world.decisions() == decisions

        world.set_mode("native")
        wait_for(lambda: handed_back(world), 30, "32 native mirrors, the others without room")
        assert all(
            str(ROOM) in ids.get(REASON_KEY, "")
            for ids in world.mirror_ids()
            if ids[STATE_KEY] == INVALID
        )


def native_in_groups(world: CaseBridge) -> Frames:
    """What OVS delivers to each output, and what arrives at the machines whatever is mirrored."""
    found: Frames = {}
    for group in GROUPS:
        assert len(group) <= ROOM
        world.become(case(group))
        frames = world.play(SENT).frames
        for place in [*MACHINES, *{mirror.output or "" for mirror in group}]:
            assert frames[place], f"nothing arrived at {place}"
            assert found.setdefault(place, frames[place]) == frames[place], f"differs at {place}"
    return found


def handed_back(world: CaseBridge) -> bool:
    """Whether 32 mirrors are native because that is their mode, and all others are invalid."""
    found = world.mirror_ids()
    native = [ids for ids in found if ids.get(STATE_KEY) == NATIVE]
    invalid = [ids for ids in found if ids.get(STATE_KEY) == INVALID]
    asked = all(ids.get(REASON_KEY) == f"{MODE_KEY} is native" for ids in native)
    return asked and len(native) == ROOM and len(invalid) == MIRRORS - ROOM
