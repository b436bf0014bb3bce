"""Others' filters on devices: which are known, and when they are read."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from errno import ENODEV

import pytest

from ovs_ebpf_tap.model.desired import EGRESS, INGRESS
from ovs_ebpf_tap.model.surroundings import ForeignFilter
from ovs_ebpf_tap.observe import tc
from ovs_ebpf_tap.observe.foreign_filters import ForeignFilters

POLICER = ForeignFilter(INGRESS, 50, "u32", ends=True)
DROP = ForeignFilter(EGRESS, 10, "flower", takes=True)


@dataclass
class FakeKernel:
    """Qdiscs and filters of devices, by ifindex."""

    qdiscs: dict[int, str] = field(default_factory=dict)
    filters: dict[int, list[ForeignFilter]] = field(default_factory=dict)
    read: list[int] = field(default_factory=list)
    received: list[frozenset[int]] = field(default_factory=list)
    broken: bool = False

    def list_filters(
        self, ifindex: int, directions: Iterable[str], _ours: Collection[int]
    ) -> list[ForeignFilter]:
        if self.broken:
            raise OSError(ENODEV, "No such device")
        self.read.append(ifindex)
        return [each for each in self.filters.get(ifindex, ()) if each.direction in set(directions)]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    made = FakeKernel({1: "clsact", 2: "ingress", 3: "clsact"}, {1: [POLICER, DROP]})
    monkeypatch.setattr(tc, "list_ingress_qdiscs", lambda: dict(made.qdiscs))
    monkeypatch.setattr(tc, "list_filters", made.list_filters)
    return made


@pytest.fixture
def foreign(kernel: FakeKernel) -> ForeignFilters:
    made = ForeignFilters(kernel.received.append)
    made.refresh()
    return made


def test_only_of_devices_that_are_followed(kernel: FakeKernel, foreign: ForeignFilters) -> None:
    assert not foreign.state.filters
    assert not foreign.state.ingress
    foreign.follow(frozenset((1, 2, 4)))
    assert foreign.state.filters == {1: (DROP, POLICER)}
    assert foreign.state.ingress == {2}
    assert sorted(kernel.read) == [1, 2]
    foreign.follow(frozenset((2,)))
    assert not foreign.state.filters
    assert sorted(kernel.read) == [1, 2]


def test_notifications_are_asked_for_before_filters_are_read(
    kernel: FakeKernel, foreign: ForeignFilters
) -> None:
    kernel.broken = True
    with pytest.raises(OSError, match="device"):
        foreign.follow(frozenset((1,)))
    assert kernel.received == [frozenset((1,))]
    kernel.broken = False
    foreign.update()
    assert foreign.state.filters == {1: (DROP, POLICER)}


def test_an_ingress_qdisc_has_no_egress(kernel: FakeKernel, foreign: ForeignFilters) -> None:
    kernel.filters[2] = [POLICER, DROP]
    foreign.follow(frozenset((2,)))
    assert foreign.state.filters == {2: (POLICER,)}


def test_filters_are_read_again_where_they_changed(
    kernel: FakeKernel, foreign: ForeignFilters
) -> None:
    foreign.follow(frozenset((1, 3)))
    kernel.read.clear()
    foreign.update()
    assert kernel.read == []
    kernel.filters[3] = [POLICER]
    foreign.take_filter(3)
    foreign.take_filter(9)
    foreign.update()
    assert kernel.read == [3]
    assert foreign.state.filters[3] == (POLICER,)


def test_another_qdisc_has_other_filters(kernel: FakeKernel, foreign: ForeignFilters) -> None:
    foreign.follow(frozenset((1,)))
    foreign.take_qdisc(1, None)
    foreign.update()
    assert not foreign.state.filters
    kernel.filters[1] = [DROP]
    foreign.take_qdisc(1, "clsact")
    foreign.update()
    assert foreign.state.filters == {1: (DROP,)}
    kernel.filters[1] = [POLICER]
    foreign.take_qdisc(1, None)
    foreign.take_qdisc(1, "clsact")
    foreign.update()
    assert foreign.state.filters == {1: (POLICER,)}


def test_a_device_that_is_gone(foreign: ForeignFilters) -> None:
    foreign.follow(frozenset((1, 2)))
    foreign.forget(1)
    foreign.forget(2)
    foreign.update()
    assert not foreign.state.filters
    assert not foreign.state.ingress


def test_the_state_is_the_same_object_until_something_changed(
    kernel: FakeKernel, foreign: ForeignFilters
) -> None:
    foreign.follow(frozenset((1,)))
    state = foreign.state
    foreign.refresh()
    foreign.take_filter(1)
    foreign.update()
    assert foreign.state is state
    kernel.filters[1] = []
    foreign.refresh()
    assert foreign.state != state
