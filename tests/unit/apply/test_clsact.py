"""Who owns a qdisc: what was there before us stays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from builders import FakeHash

from ovs_ebpf_tap.apply.attachment import Attachment
from ovs_ebpf_tap.apply.clsact import ClsactFilters
from ovs_ebpf_tap.apply.tc_filter import Filter
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.ebpf.programs import Programs
from ovs_ebpf_tap.model.desired import CLSACT, EGRESS, INGRESS, Hook

A = Hook(1, INGRESS)
ATTACHMENT = Attachment(CLSACT)


class FakeQdiscs:
    """Qdiscs and filters; notes what it was asked to do, with the qdiscs map's keys then."""

    def __init__(self, qdiscs: FakeHash) -> None:
        self._map = qdiscs
        self.qdiscs: dict[int, str] = {}
        self.there: dict[Hook, Filter] = {}
        self.noted: list[int] = []
        self.said: list[str] = []

    def ingress_qdisc(self, ifindex: int) -> str | None:
        return self.qdiscs.get(ifindex)

    def filters(self, ifindex: int) -> list[Filter]:
        return [each for hook, each in self.there.items() if hook.ifindex == ifindex]

    def ensure_clsact(self, ifindex: int) -> None:
        self.noted.append(len(self._map.values))
        self.qdiscs[ifindex] = "clsact"

    def replace_filter(
        self,
        ifindex: int,
        direction: str,
        _fd: int,
        build: str,
        program: int,
        action: int,
        *,
        made: bool,
    ) -> None:
        hook = Hook(ifindex, direction)
        self.there[hook] = Filter(ifindex, direction, 1, build, made, program, action)

    def remove_filter(self, ifindex: int, direction: str) -> None:
        self.there.pop(Hook(ifindex, direction), None)

    def remove_untag(self, _ifindex: int, _direction: str) -> None:
        pass

    def remove_clsact(self, ifindex: int, *, hw_offload: bool) -> None:
        self.said.append(f"remove {ifindex} {hw_offload}")
        del self.qdiscs[ifindex]

    def announce(self, ifindex: int) -> None:
        self.said.append(f"announce {ifindex}")


@pytest.fixture
def maps() -> dict[str, Any]:
    return {"qdiscs": FakeHash()}


@pytest.fixture
def kernel(maps: dict[str, Any]) -> FakeQdiscs:
    return FakeQdiscs(maps["qdiscs"])


def make(maps: dict[str, Any], kernel: FakeQdiscs) -> ClsactFilters:
    opened = SimpleNamespace(maps=maps, build="build")
    return ClsactFilters(cast(TrafficControl, kernel), cast(Programs, opened))


def test_a_qdisc_is_noted_before_it_is_made(maps: dict[str, Any], kernel: FakeQdiscs) -> None:
    filters = make(maps, kernel)
    filters.attach(A, ATTACHMENT, 3, 0)
    assert kernel.noted == [1]
    again = make(maps, kernel)
    assert again.read() == kernel.there == {A: Filter(1, INGRESS, 1, "build", True, 0, 0)}
    assert again.qdiscs == filters.qdiscs == {1: True}


def test_our_qdisc_goes_with_its_last_filter(maps: dict[str, Any], kernel: FakeQdiscs) -> None:
    filters = make(maps, kernel)
    for hook in (A, Hook(1, EGRESS)):
        filters.attach(hook, ATTACHMENT, 3, 0)
    filters.detach(A)
    filters.remove_qdiscs({1}, hw_offload=True)
    assert kernel.said == []
    filters.detach(Hook(1, EGRESS))
    filters.remove_qdiscs(set(), hw_offload=True)
    assert kernel.said == ["remove 1 True", "announce 1"]
    assert not filters.qdiscs
    assert not maps["qdiscs"].values


def test_somebody_elses_qdisc_stays(maps: dict[str, Any], kernel: FakeQdiscs) -> None:
    kernel.qdiscs[1] = "clsact"
    filters = make(maps, kernel)
    filters.attach(A, ATTACHMENT, 3, 0)
    filters.detach(A)
    filters.remove_qdiscs(set(), hw_offload=False)
    assert kernel.said == []
    assert not kernel.there
    assert not maps["qdiscs"].values


def test_a_qdisc_made_where_somebody_elses_was_is_ours(
    maps: dict[str, Any], kernel: FakeQdiscs
) -> None:
    kernel.qdiscs[1] = "clsact"
    make(maps, kernel).attach(A, ATTACHMENT, 3, 0)
    kernel.qdiscs.clear()
    kernel.there.clear()
    filters = make(maps, kernel)
    filters.read()
    filters.attach(A, ATTACHMENT, 3, 0)
    assert kernel.there[A].made
    filters.detach(A)
    filters.remove_qdiscs(set(), hw_offload=False)
    assert kernel.said == ["remove 1 False", "announce 1"]


def test_filters_tell_whose_a_qdisc_is_that_is_not_noted_any_more(
    maps: dict[str, Any], kernel: FakeQdiscs
) -> None:
    make(maps, kernel).attach(A, ATTACHMENT, 3, 0)
    maps["qdiscs"].values.clear()
    filters = make(maps, kernel)
    filters.attach(A, ATTACHMENT, 3, 0)
    assert filters.qdiscs == {1: True}


def test_devices_without_filters_of_ours_are_not_touched(
    maps: dict[str, Any], kernel: FakeQdiscs
) -> None:
    filters = make(maps, kernel)
    kernel.there[A] = Filter(1, INGRESS, 1, "build", True, 0, 0)
    assert filters.read() == {}
    filters.detach(A)
    assert A in kernel.there
