"""Plays a case without mirrors, with Open vSwitch copying and with hooks copying, and compares.

Hooks' copies have to be those due: Open vSwitch's, but where flows change packets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ovs_ebpf_tap.lab.differences import difference
from ovs_ebpf_tap.model.desired import OffloadDecision
from parity.case import Case, CaseMirror
from parity.case_bridge import CaseBridge, ParityBench, Run
from parity.case_mirrors import as_expected
from parity.due import due, native_problems, passed_ports
from parity.place_listeners import Frames
from parity.untouched import changes, surroundings


def check(bench: ParityBench, case: Case) -> tuple[int, int]:
    """Fails, saying all that is wrong; returns how many copies Open vSwitch made, and were due."""
    with CaseBridge(bench, case) as world:
        # OVS drops what arrives on a mirror's output port.
        plain = world.play([each for each in case.sent if not _is_output(each[0], case)])
        world.add_mirrors()
        native = world.play(case.sent, _only(plain.frames, case))
        wanted = wanted_run(case, native)
        before = surroundings(world.switch, world.devices.values())
        world.set_mode("offload")
        decisions = world.wait_verdicts()
        offloaded = world.play(case.sent, wanted.frames)
        after = surroundings(world.switch, world.devices.values())
        problems = [
            *_verdict_problems(case, decisions, "after the change of mode"),
            *_verdict_problems(case, world.decisions(), "after the last frame"),
            *_production_problems(case, plain, native),
            *_oracle_problems(case, plain, native),
            *difference_problems(case, native, offloaded),
            *changes(before, after),
        ]
    if problems:
        pytest.fail("\n".join(dict.fromkeys(problems)), pytrace=False)
    return _copies(case, native), _copies(case, wanted)


def _copies(case: Case, run: Run) -> int:
    return sum(each.total() for place, each in run.frames.items() if _is_output(place, case))


def wanted_run(case: Case, native: Run) -> Run:
    """The native run with the copies that are due in the place of Open vSwitch's."""
    if not case.modifies:
        return native
    passed = passed_ports(case, native.frames)
    copies = {output: due(passed, mirrors) for output, mirrors in _by_output(case).items()}
    return replace(native, frames=native.frames | copies)


def _by_output(case: Case) -> dict[str, list[CaseMirror]]:
    found: dict[str, list[CaseMirror]] = {}
    for mirror in case.mirrors:
        if mirror.output is not None:
            found.setdefault(mirror.output, []).append(mirror)
    return found


def _native_problems(case: Case, native: Run, wanted: Run) -> Iterator[str]:
    """What Open vSwitch copies otherwise than it is known to."""
    if not case.modifies:
        return
    passed = passed_ports(case, native.frames)
    for output in case.outputs:
        copies = wanted.frames[output], native.frames[output]
        for each in native_problems(passed, *copies, case.has_conntrack):
            yield f"at {output}: {each}"


def difference_problems(case: Case, native: Run, offloaded: Run) -> Iterator[str]:
    """How an offloaded run differs from what it has to be, which a native one tells."""
    wanted = wanted_run(case, native)
    yield from _native_problems(case, native, wanted)
    yield from _copy_problems(wanted.frames, offloaded.frames)
    yield from _counter_problems(case, native, offloaded)


def _verdict_problems(case: Case, found: list[OffloadDecision | None], when: str) -> Iterator[str]:
    for number, (mirror, decision) in enumerate(zip(case.mirrors, found, strict=True), 1):
        if not as_expected(mirror, decision):
            is_ = "on the move" if decision is None else f"{decision.state} ({decision.reason})"
            wanted = f"{mirror.state} ({mirror.reason or 'no reason'})"
            yield f"{when} mirror m{number} is {is_}, not {wanted}"


def _production_problems(case: Case, plain: Run, native: Run) -> Iterator[str]:
    """What mirrors must not change; the offloaded run is compared with the native one."""
    wanted, seen = _only(plain.frames, case), _only(native.frames, case)
    for place, frames in wanted.items():
        # Copies into a VLAN come out of common ports, beside what comes out there anyway.
        got = seen[place] & frames if case.has_output_vlan else seen[place]
        found = difference(frames, got)
        if found:
            yield f"production at {place} differs with native mirrors: {found}"


def _oracle_problems(case: Case, plain: Run, native: Run) -> Iterator[str]:
    copies: Counter[bytes] = Counter()
    for place, frames in native.frames.items():
        if _is_output(place, case):
            copies += frames
        elif case.has_output_vlan:
            copies += frames - plain.frames[place]
    if bool(copies) == case.silent:
        yield f"Open vSwitch delivered {copies.total()} copies: the case tells nothing"


def _copy_problems(wanted: Frames, offloaded: Frames) -> Iterator[str]:
    for place, expected in wanted.items():
        found = difference(expected, offloaded[place])
        if found:
            yield f"offloaded, not as it should be, at {place}: {found}"


def _counter_problems(case: Case, native: Run, offloaded: Run) -> Iterator[str]:
    for port, expected in native.counted.items():
        counted = offloaded.counted[port]
        if _is_output(port, case) or (case.has_output_vlan and _is_internal(port, case)):
            # Copies are counted by whoever makes them; the kernel counts what an internal port
            # gets as received.
            continue
        if case.has_output_vlan:
            # Copies are sent by whoever makes them.
            counted, expected = (counted[0], 0), (expected[0], 0)
        if counted != expected:
            yield f"packets counted at {port}, (rx, tx): {expected} natively, {counted} offloaded"


def _only(frames: Frames, case: Case) -> Frames:
    """What arrived behind the ports that are no output ports."""
    return {place: each for place, each in frames.items() if not _is_output(place, case)}


def _is_internal(port: str, case: Case) -> bool:
    """Whether the switch's own machine is behind the port."""
    return port not in case.ports or case.ports[port].kind in ("internal", "local")


def _is_output(place: str, case: Case) -> bool:
    """Whether it is an output port or one of its members."""
    members = {member: name for name, port in case.ports.items() for member in port.members}
    name = place.partition(".")[0]
    return members.get(name, name) in case.outputs
