"""Cases made up by hypothesis: each is played natively and offloaded, on one bridge."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.model.desired import NOTHING_SELECTED, OFFLOADED
from parity.case import Case
from parity.case_bridge import CaseBridge, ParityBench
from parity.runner import difference_problems
from parity.strategies import PORTS, Example, examples, modifying_examples

EXAMPLES = "OVS_EBPF_TAP_EXAMPLES"
"""The variable that sets how many examples there are; they then differ from run to run, and what
fails is shrunk."""

FEW = 200
"""Examples without it: what takes a few minutes."""

LEAST_OFFLOADED = 0.4
"""The share of examples, without mirrors set to be native, in which every mirror has to be
offloaded."""


@pytest.fixture(scope="module")
def world(bench: ParityBench) -> Iterator[CaseBridge]:
    """A bridge with all ports, for all examples."""
    with CaseBridge(bench, Case("generated", PORTS, [], [])) as made:
        yield made


def _settings(few: int) -> settings:
    """For as many examples as are wanted, or else a few."""
    wanted = os.environ.get(EXAMPLES)
    return settings(
        max_examples=int(wanted or few),
        derandomize=wanted is None,
        # Shrinking a failure takes long: that is for those who look into it.
        phases=list(Phase) if wanted else [Phase.generate],
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.timeout(0)  # Hypothesis ends it: after the last example, or minutes of shrinking.
@pytest.mark.parametrize("bench", attachments()[:1], indirect=True, scope="session")
def test_offloaded_is_as_native(world: CaseBridge, figure: Callable[[str], None]) -> None:
    offloaded: list[bool] = []

    @_settings(FEW)
    @given(examples())
    def plays(example: Example) -> None:
        all_offloaded = _play(world, example)
        if not any(mirror.native for mirror in example.mirrors):  # What others may depend on.
            offloaded.append(all_offloaded)

    plays()
    share = sum(offloaded) / len(offloaded)
    figure(f"{len(offloaded)} examples, {share:.0%} of them with every mirror offloaded")
    assert share >= LEAST_OFFLOADED, f"only {share:.0%} of the examples were offloaded"


@pytest.mark.timeout(0)
@pytest.mark.parametrize("bench", attachments()[:1], indirect=True, scope="session")
def test_flows_that_change_packets(world: CaseBridge) -> None:
    @_settings(FEW // 4)
    @given(modifying_examples())
    def plays(example: Example) -> None:
        assert _play(world, example)

    plays()


def _play(world: CaseBridge, example: Example) -> bool:
    """Compares; returns whether every mirror was offloaded."""
    case = example.case(next(world.bench.serials))
    world.become(case)
    native = world.play(case.sent)
    world.set_mode("offload")
    decisions = world.wait_verdicts(expected=False)
    offloaded = world.play(case.sent, native.frames)
    problems = list(difference_problems(case, native, offloaded))
    if world.decisions() != decisions:
        problems.append(f"decisions changed from {decisions} to {world.decisions()}")
    problems += [
        f"mirror m{number} is {decision}"
        for number, decision in enumerate(decisions, 1)
        if decision is None
        or (decision.state == OFFLOADED) != (decision.reason in (None, NOTHING_SELECTED.reason))
    ]
    assert not problems, "\n".join([*problems, f"decisions: {decisions}"])
    return all(decision is not None and decision.state == OFFLOADED for decision in decisions)
