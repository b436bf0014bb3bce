"""Which devices are taken to be open, where names do not tell."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from builders import World

from ovs_ebpf_tap.model.desired import NATIVE, OFFLOADED
from ovs_ebpf_tap.observe.openings import Openings

GONE = 0


@dataclass
class SeenSockets:
    """A bridge with ports and Open vSwitch's sockets, by inode."""

    world: World = field(default_factory=World)
    sockets: dict[int, int] | None = field(default_factory=dict)
    now: float = 1000.0
    age: float | None = None
    looked: int = 0

    def __post_init__(self) -> None:
        self.world.add_bridge(datapath_type="netdev").add_ports("a b m")
        self.start(ago=60.0)
        self.sockets = {10 + n: self.index(name) for n, name in enumerate("abm")}
        self.begin()

    def begin(self) -> None:
        self.openings = Openings(lambda: self.age, self.read, lambda: self.now)

    def start(self, ago: float = 0.0) -> None:
        self.age = ago

    def read(self) -> dict[int, int] | None:
        self.looked += 1
        return None if self.sockets is None else dict(self.sockets)

    def index(self, name: str) -> int:
        return self.world.devices[name].ifindex

    def rename(self, old: str, new: str) -> None:
        self.world.devices[new] = replace(self.world.devices.pop(old), name=new)

    def bound(self) -> dict[str, int]:
        """What is found to be open elsewhere than on the device of the name."""
        self.openings.refresh()
        db = self.openings.look(self.world.db, dict(self.world.devices))
        return {row.name: row.bound for row in db.interfaces.values() if row.bound is not None}

    def state(self) -> str:
        db = self.openings.look(self.world.db, dict(self.world.devices))
        self.world.interfaces = {row.name: row for row in db.interfaces.values()}
        return self.world.decision().state


@pytest.fixture
def case() -> SeenSockets:
    return SeenSockets()


def test_the_rows_stay_as_they_are(case: SeenSockets) -> None:
    db, devices = case.world.db, dict(case.world.devices)
    for _ in range(3):
        assert case.openings.look(db, devices) is db
        case.now += 100.0
    assert case.looked == 1
    case.openings.refresh()
    assert case.openings.look(db, devices) is db
    assert case.looked == 2


def test_the_kernel_is_asked_when_rows_or_devices_change(case: SeenSockets) -> None:
    for looked in (1, 1):
        case.openings.look(case.world.db, dict(case.world.devices))
        assert case.looked == looked
    case.rename("a", "old")
    case.openings.look(case.world.db, dict(case.world.devices))
    assert case.looked == 2
    case.world.add_port("c")
    case.openings.look(case.world.db, dict(case.world.devices))
    assert case.looked == 3


def test_the_kernel_is_asked_when_ovs_vswitchd_has_applied_something(case: SeenSockets) -> None:
    """It may have opened other sockets, of rows that are as they were."""
    case.openings.look(case.world.db, dict(case.world.devices))
    case.openings.look(replace(case.world.db, cur_cfg=1), dict(case.world.devices))
    assert case.looked == 2


def test_a_device_that_is_renamed(case: SeenSockets) -> None:
    assert case.bound() == {}
    index = case.index("a")
    case.rename("a", "old")
    assert case.bound() == {"a": index}
    case.world.add_device("a")
    assert case.bound() == {"a": index}
    case.rename("old", "a")
    assert case.bound() == {}


def test_names_that_are_swapped(case: SeenSockets) -> None:
    assert case.bound() == {}
    a, b = case.index("a"), case.index("b")
    case.rename("a", "z")
    case.rename("b", "a")
    case.rename("z", "b")
    assert case.bound() == {"a": a, "b": b}
    case.sockets = {20: b, 21: a, 22: case.index("m")}  # Open vSwitch has opened them anew.
    assert case.bound() == {}


@pytest.mark.parametrize(
    ("roles", "state"),
    [
        ({"src": "a", "out": "m"}, OFFLOADED),
        ({"dst": "a", "out": "m"}, NATIVE),
        ({"src": "b", "out": "a"}, NATIVE),
        ({"src": "b", "dst": "b", "out": "m"}, OFFLOADED),
    ],
)
def test_the_userspace_datapath_sends_by_name(case: SeenSockets, roles: Any, state: str) -> None:
    case.world.add_mirror("m", **roles)
    assert case.bound() == {}
    assert case.state() == OFFLOADED
    case.rename("a", "old")
    assert case.state() == OFFLOADED
    case.world.add_device("a")
    assert case.state() == state


def test_a_device_that_is_made_anew(case: SeenSockets) -> None:
    """Its socket is still open, and on none."""
    assert case.bound() == {}
    assert case.sockets
    del case.world.devices["a"]
    case.sockets[10] = GONE
    assert case.bound() == {"a": GONE}
    case.world.add_device("a")
    assert case.bound() == {"a": GONE}


def test_a_stranger_from_the_beginning(case: SeenSockets) -> None:
    case.rename("a", "old")
    case.world.add_device("a")
    assert case.bound() == {"a": GONE}


def test_it_is_looked_again_while_a_stranger_has_the_name(case: SeenSockets) -> None:
    case.world.add_device("a")
    db, devices = case.world.db, dict(case.world.devices)
    assert case.openings.look(db, devices).interfaces != db.interfaces
    before = case.openings.misnamed
    case.now = case.openings.wake
    again = case.openings.look(db, devices)
    assert case.openings.misnamed is before
    assert case.sockets
    case.sockets[10] = case.index("a")
    assert case.openings.look(db, devices).interfaces is again.interfaces
    case.now = case.openings.wake
    assert case.openings.look(db, devices) is db


def test_a_socket_that_is_opened_again(case: SeenSockets) -> None:
    """Open vSwitch closes it for a moment; else it is not the row's any more."""
    assert case.bound() == {}
    assert case.sockets
    del case.sockets[10]
    assert case.bound() == {}
    assert case.openings.wake < case.now + 0.5
    case.now += 0.5
    case.sockets[20] = case.index("a")
    assert case.bound() == {}
    del case.sockets[20]
    assert case.bound() == {}
    case.now += 1.5
    assert case.bound() == {"a": GONE}


def test_open_vswitch_starts(case: SeenSockets) -> None:
    """Its rows are of the one before, and tell of what it has yet to open."""
    assert case.bound() == {}
    case.sockets = {}
    case.now += 5.0
    assert case.bound() == {}
    case.start()
    case.sockets = {20: case.index("b")}
    case.now += 5.0
    assert case.bound() == {}
    case.start(ago=20.0)
    assert case.bound() == {"a": GONE, "m": GONE}


@pytest.mark.parametrize("told", [None, {}])
def test_the_kernel_does_not_tell(case: SeenSockets, told: dict[int, int] | None) -> None:
    case.sockets = told
    case.world.add_device("a")
    assert case.bound() == {}


@pytest.mark.parametrize("other", ["internal", "tap", "vxlan", "closed", "local"])
def test_ports_without_a_socket(case: SeenSockets, other: str) -> None:
    name = "br0" if other == "local" else "x"
    kind = "" if other in ("local", "closed") else other
    case.world.add_port(name, type=kind, opened=other != "closed")
    assert case.bound() == {}


def test_the_kernels_datapath(case: SeenSockets) -> None:
    """Its ports have a master, if the kernel tells of any; it has no sockets."""
    case.world.set_bridge("br0", datapath_type="system")
    assert case.bound() == {}
    for name in "bm":
        case.world.devices[name] = replace(case.world.devices[name], slave="openvswitch")
    assert case.bound() == {"a": GONE}
    case.start()
    assert case.bound() == {}
    case.start(ago=60.0)
    case.world.devices["a"] = replace(case.world.devices["a"], slave="openvswitch")
    assert case.bound() == {}
    assert not case.looked
