"""Which interfaces' devices are taken to be elsewhere, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from builders import World

from ovs_ebpf_tap.model.device import Departure
from ovs_ebpf_tap.model.rows import Interface
from ovs_ebpf_tap.observe.departures import Departures

GONE = Departure(nsid=2, ifindex=9)


@dataclass
class LeavingDevice:
    """A world whose port's device leaves."""

    run_dir: Path
    world: World = field(default_factory=lambda: World().add_bridge(datapath_type="netdev"))
    there: bool = True
    asked: int = 0

    def __post_init__(self) -> None:
        self.departures = Departures(self.run_dir, self.is_there)
        self.start(1)

    def is_there(self, departed: Departure) -> bool:
        assert departed == GONE
        self.asked += 1
        return self.there

    def start(self, pid: int) -> None:
        (self.run_dir / "ovs-vswitchd.pid").write_text(f"{pid}\n")

    def leave(self, name: str = "a") -> None:
        del self.world.devices[name]
        self.departures.note({name: GONE}, self.world.db)

    def away(self) -> list[str]:
        db = self.departures.look(self.world.db, dict(self.world.devices))
        return [each.name for each in db.interfaces.values() if each.away]


@pytest.fixture
def case(tmp_path: Path) -> LeavingDevice:
    made = LeavingDevice(tmp_path)
    made.world.add_port("a", type="internal").add_port("b")
    return made


def test_nothing_has_left(case: LeavingDevice) -> None:
    db = case.world.db
    assert case.departures.look(db, case.world.devices) is db


def test_while_it_is_elsewhere(case: LeavingDevice) -> None:
    case.leave()
    assert case.away() == ["a"]
    assert not case.asked  # Nobody has its name.
    case.world.add_device("a")
    assert case.away() == ["a"]
    case.there = False
    case.departures.refresh()
    assert case.away() == []
    case.there = True
    assert case.away() == []


def test_the_kernel_is_asked_when_devices_change(case: LeavingDevice) -> None:
    case.leave()
    case.world.add_device("a")
    db, devices = case.world.db, dict(case.world.devices)
    for _ in range(3):
        case.departures.look(db, dict(devices))
    assert case.asked == 1


def test_one_that_comes_back(case: LeavingDevice) -> None:
    case.leave()
    case.there = False
    case.world.add_device("a")
    assert case.away() == []


def set_interface(case: LeavingDevice, **columns: object) -> None:
    row: Interface = case.world.interfaces["a"]
    case.world.interfaces["a"] = Interface(**{**vars(row), **columns})


@pytest.mark.parametrize(
    "end",
    [
        lambda case: case.start(2),
        lambda case: set_interface(case, opened=False),
        lambda case: case.world.remove_port("a"),
    ],
    ids=["restart", "closed", "removed"],
)
def test_until_open_vswitch_has_it_no_more(
    case: LeavingDevice, end: Callable[[LeavingDevice], None]
) -> None:
    case.leave()
    assert case.away() == ["a"]
    end(case)
    assert case.away() == []


def test_while_open_vswitch_is_away(case: LeavingDevice) -> None:
    case.leave()
    (case.run_dir / "ovs-vswitchd.pid").unlink()
    assert case.away() == ["a"]


def test_what_open_vswitch_does_not_have_open(case: LeavingDevice) -> None:
    """Its name may be another device's a moment later."""
    set_interface(case, opened=False)
    case.leave()
    set_interface(case, opened=True)
    assert case.away() == []


@pytest.mark.parametrize(("datapath", "away"), [("netdev", ["b"]), ("system", []), ("", [])])
def test_the_kernels_datapath_lets_go_of_devices(
    case: LeavingDevice, datapath: str, away: list[str]
) -> None:
    case.world.set_bridge("br0", datapath_type=datapath)
    case.leave("b")
    assert case.away() == away


def test_the_kernels_datapath_keeps_its_own(case: LeavingDevice) -> None:
    case.world.set_bridge("br0", datapath_type="system")
    case.leave("a")
    assert case.away() == ["a"]
