"""The same traffic natively and offloaded, and the copies held against those due."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.due import Passed, due
from deployments.kinds import kind_of
from deployments.mirrors import UserMirror
from deployments.outcome import Outcome
from deployments.outcome_table import PROPERTY
from deployments.outputs import Output, add_output
from deployments.places import TRUNK, Place, Watch
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.model.desired import OFFLOADED, keys_agree
from ovs_ebpf_tap.model.rows import MODE_KEY, REASON_KEY, STATE_KEY

_QUIET = 0.02
"""Seconds without a frame at one device; all are looked at one after the other, twice."""
_MOST_LINES = 12
_VERDICTS = 60.0
"""Seconds within which all mirrors have to be decided."""
_STEADY = 3.0
"""Seconds after which the reason why a mirror is native is taken for the last."""


class Deployment(Protocol):
    """A bridge as others build it, with its ports and its traffic."""

    @property
    def name(self) -> str:
        """For the table."""

    @property
    def switch(self) -> Switch:
        """The switch that has the mirrors."""

    @property
    def bridge(self) -> str:
        """The bridge whose ports are mirrored."""

    @property
    def places(self) -> Sequence[Place]:
        """Where the packets of these ports are seen."""

    def add_mirror(self, mirror: UserMirror, output: Output) -> None:
        """Make the row of a mirror that is `by_others`; returns when it is there."""

    def play(self) -> None:
        """Have the traffic run; returns when all is sent."""


def compare(
    deployment: Deployment,
    sidecar: SidecarProcess,
    mirrors: Sequence[UserMirror],
    record: Callable[[str, object], None],
    first: int = 0,
) -> list[str]:
    """Adds the mirrors, runs the traffic under both, and returns what is wrong, in lines.

    `record` gets each `Outcome` as a dictionary, under `outcome_table.PROPERTY`. The mirrors stay;
    `first` is a number of output ports that no comparison before has used.
    """
    _set_mode(deployment.switch, "native")
    numbered = enumerate(mirrors, first)
    outputs = {each.name: _add(deployment, each, f"out{n}-") for n, each in numbered}
    _wait_decided(sidecar, mirrors, "native")
    native = _run(deployment, outputs, mirrors)
    _set_mode(deployment.switch, "offload")
    _wait_decided(sidecar, mirrors, "offload")
    offloaded = _run(deployment, outputs, mirrors)
    verdicts = _verdicts(deployment.switch)
    version = deployment.switch.get("Open_vSwitch", ".", "ovs_version")
    problems: list[str] = []
    for mirror in mirrors:
        outcome = Outcome(
            deployment.name,
            mirror.name,
            version,
            verdicts[mirror.name],
            **offloaded[mirror.name].counts(),
            **{f"native_{name}": n for name, n in native[mirror.name].counts().items()},
        )
        record(PROPERTY, dataclasses.asdict(outcome))
        problems += _problems(mirror, outcome, offloaded[mirror.name])
    return problems


@dataclass(frozen=True)
class Copies:
    """The copies of a mirror in one run."""

    due: Counter[bytes]
    delivered: Counter[bytes]

    @property
    def missing(self) -> Counter[bytes]:
        """Due, and not delivered."""
        return self.due - self.delivered

    @property
    def extra(self) -> Counter[bytes]:
        """Delivered, and not due."""
        return self.delivered - self.due

    def counts(self) -> dict[str, int]:
        """How many each of these is."""
        return {
            "due": self.due.total(),
            "missing": self.missing.total(),
            "extra": self.extra.total(),
        }


def _add(deployment: Deployment, mirror: UserMirror, port: str) -> Output:
    output = add_output(deployment.switch, deployment.bridge, mirror.output, port)
    if mirror.by_others:
        deployment.add_mirror(mirror, output)
    else:
        deployment.switch.mirror(
            mirror.name,
            deployment.bridge,
            mirror.src,
            mirror.dst,
            mirror.select_all,
            output.port,
            **mirror.columns(),
        )
    return output


def _set_mode(switch: Switch, mode: str) -> None:
    switch.set_columns("Open_vSwitch", ".", external_ids={MODE_KEY: mode})


def _wait_decided(sidecar: SidecarProcess, mirrors: Sequence[UserMirror], mode: str) -> None:
    """Waits until the sidecar has acted on the mode, and running flows follow.

    Mirrors that depend on each other become offloaded one after the other, the last ones being
    native for another reason meanwhile.
    """
    by_mode = f"{MODE_KEY} is native"
    since, last = time.monotonic(), [""]

    def decided() -> bool:
        nonlocal since, last
        verdicts = _verdicts(sidecar.switch)
        texts = [verdicts.get(each.name, "") for each in mirrors]
        if texts != last or sidecar.is_moving():
            since, last = time.monotonic(), texts
        if mode == "native":
            return set(texts) == {by_mode} and not sidecar.is_moving()
        if set(texts) & {by_mode, ""} or sidecar.is_moving():
            return False
        return set(texts) == {OFFLOADED} or time.monotonic() - since > patience(_STEADY)

    try:
        wait_for(decided, _VERDICTS, f"{mode} mirrors")
    except TimeoutError as error:
        raise AssertionError(f"{error}: {_verdicts(sidecar.switch)}\n{sidecar.log()}") from None
    # Open vSwitch before 3.1.3 does not always modify the right one of flows that overlap
    # (`flow_put_on_pmd` of `lib/dpif-netdev.c`): a flow may go on copying, or not begin to.
    sidecar.switch.appctl("revalidator/purge")


def _verdicts(switch: Switch) -> Mapping[str, str]:
    """By the mirror's name: "offloaded", or the reason why not; "" while that is not decided."""
    printed = switch.vsctl("--format=json", "--columns=name,external_ids", "list", "Mirror")
    verdicts = {}
    for name, (_, pairs) in json.loads(printed)["data"]:
        ids = dict(pairs)
        verdict = OFFLOADED if ids.get(STATE_KEY) == OFFLOADED else ids.get(REASON_KEY, "")
        verdicts[name] = verdict if keys_agree(ids) else ""
    return verdicts


def _run(
    deployment: Deployment, outputs: Mapping[str, Output], mirrors: Sequence[UserMirror]
) -> dict[str, Copies]:
    with contextlib.ExitStack() as listening:
        watch = listening.enter_context(Watch(deployment.places))
        for output in outputs.values():
            output.start()
            listening.callback(output.stop)
        deployment.play()
        passed, delivered = _all_that_passed(watch, outputs)
    return {each.name: Copies(due(each, passed, TRUNK), delivered[each.name]) for each in mirrors}


def _all_that_passed(
    watch: Watch, outputs: Mapping[str, Output]
) -> tuple[Mapping[str, Passed], Mapping[str, Counter[bytes]]]:
    """What passed the places and was delivered at the outputs, at a moment without traffic.

    The guests' kernels may send at any time.
    """
    while True:
        count = watch.count()
        for _ in range(2):
            for each in [*watch.captures(), *(each.delivered for each in outputs.values())]:
                each.wait_quiet(_QUIET)
        delivered = {name: output.delivered.multiset() for name, output in outputs.items()}
        passed = watch.passed()
        if watch.count() == count:
            return passed, delivered


def _problems(mirror: UserMirror, outcome: Outcome, copies: Copies) -> Iterable[str]:
    if mirror.offloaded and not outcome.is_offloaded:
        yield f"{mirror.name}: not offloaded: {outcome.verdict}"
    if not copies.due:
        yield f"{mirror.name}: nothing was due, so that it shows nothing"
    if outcome.is_offloaded:
        for what, frames in (("missing", copies.missing), ("extra", copies.extra)):
            yield from _lines(f"{mirror.name}: {what}", frames)


def _lines(what: str, frames: Counter[bytes]) -> Iterable[str]:
    shown = list(frames.items())[:_MOST_LINES]
    for frame, count in shown:
        yield f"{what}, {count} x {kind_of(frame)}: {frame.hex()[:160]}"
    if len(frames) > len(shown):
        yield f"{what}: {len(frames) - len(shown)} more frames"
