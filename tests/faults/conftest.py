"""Fixtures for faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.fault import Fault
from faults.outcome_table import PROPERTY
from faults.testbed import Testbed
from ovs_ebpf_tap.lab.kernel import attachments


class _Grounds:
    """One ground for each kind of hooks, for many tests."""

    def __init__(self) -> None:
        self._free: dict[str, Testbed] = {}

    def take(self, attach: str) -> Testbed:
        ground = self._free.pop(attach, None)
        if ground is None:
            ground = Testbed(attach)
            ground.open()
        return ground

    def give_back(self, ground: Testbed) -> None:
        try:
            ground.reset()
        except BaseException:
            ground.close()
            raise
        self._free[ground.attach] = ground

    def close(self) -> None:
        for ground in self._free.values():
            ground.close()


@pytest.fixture(scope="session")
def grounds() -> Iterator[_Grounds]:
    made = _Grounds()
    yield made
    made.close()


@pytest.fixture
def bare_ground(grounds: _Grounds, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """A ground without mirror and sidecar; the parameter is the kind of hooks."""
    ground = grounds.take(getattr(request, "param", attachments()[0]))
    yield ground
    grounds.give_back(ground)


@pytest.fixture
def ground(bare_ground: Testbed) -> Testbed:
    """A ground with a sidecar that runs, and the mirror offloaded."""
    bare_ground.tap.start()
    bare_ground.mirror()
    return bare_ground


@pytest.fixture
def fault(bare_ground: Testbed, request: pytest.FixtureRequest) -> Fault:
    """A fault on the ground, which adds a line to the table."""
    properties = request.node.user_properties
    return Fault(bare_ground, lambda outcome: properties.append((PROPERTY, outcome)))
