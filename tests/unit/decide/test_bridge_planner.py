"""`BridgePlanner`: what of a bridge is planned anew, and which mirrors there is room for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from uuid import UUID

import pytest
from builders import World, switch

from ovs_ebpf_tap.decide import component_planner
from ovs_ebpf_tap.decide.bridge_planner import BridgeInput, BridgePlanner
from ovs_ebpf_tap.decide.component_planner import ComponentPlanner
from ovs_ebpf_tap.decide.components import MirrorComponent
from ovs_ebpf_tap.decide.topology import BridgeContext
from ovs_ebpf_tap.decide.tunnel_ports import TunnelPorts
from ovs_ebpf_tap.model.desired import NATIVE, OFFLOADED, TCX, OffloadDecision
from ovs_ebpf_tap.model.limits import MAX_MIRRORS
from ovs_ebpf_tap.model.reasons import row_reasons
from ovs_ebpf_tap.model.rows import MODE_KEY

MUCH_ROOM = 100
NOWHERE = UUID(int=0xDEAD)
NO_SLOT = row_reasons.NO_SLOT.told(limit=MAX_MIRRORS)
TOO_MANY = row_reasons.MIRRORS_PER_HOST.told(limit=MAX_MIRRORS)


class Bench:
    """A bridge's planner beside rows that change, and what it made anew at the last plan."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.planner = BridgePlanner()
        self.anew: list[str] = []
        """The names of the mirrors whose component got another planner."""
        self.context: BridgeContext
        made = ComponentPlanner.of

        def noted(component: MirrorComponent, context: BridgeContext) -> ComponentPlanner:
            self.anew += [mirror.name for mirror in component.mirrors]
            self.context = context
            return made(component, context)

        monkeypatch.setattr(ComponentPlanner, "of", noted)

    def given(self) -> BridgeInput:
        world = self.world
        return BridgeInput(
            db=world.db,
            bridge=world.bridges["br0"],
            devices=MappingProxyType(dict(world.devices)),
            attach=world.attach,
            refused={},
            openflow=world.openflow,
            surroundings=world.surroundings,
            multi_bridge_mirrors=frozenset(),
            tunnel_ports=TunnelPorts(),
        )

    def plan(
        self, room: int = MUCH_ROOM, unplaced: frozenset[UUID] = frozenset()
    ) -> Mapping[str, OffloadDecision]:
        """The decisions by the mirrors' names."""
        self.anew.clear()
        plans = self.planner.plan(self.given(), room, unplaced)
        decisions = {uuid: each for plan in plans for uuid, each in plan.decisions.items()}
        names = {row.uuid: name for name, row in self.world.mirrors.items()}
        return {names[uuid]: decision for uuid, decision in decisions.items()}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """`m` and `n` share a source; `apart` shares nothing with them."""
    world = switch("a b c d o1 o2 o3")
    world.add_mirror("m", src="a", out="o1").add_mirror("n", src="a b", out="o2")
    made = Bench(world.add_mirror("apart", src="c", out="o3"), monkeypatch)
    assert {decision.state for decision in made.plan().values()} == {OFFLOADED}
    assert made.anew == ["m", "n", "apart"]
    return made


def test_equal_rows_are_not_planned_anew(bench: Bench) -> None:
    before = bench.planner.plan(bench.given(), MUCH_ROOM, frozenset())
    after = bench.planner.plan(bench.given(), MUCH_ROOM, frozenset())
    assert all(old is new for old, new in zip(before, after, strict=True))
    bench.plan()
    assert bench.anew == []


def test_a_changed_mirror_has_its_component_planned_anew(bench: Bench) -> None:
    bench.world.set_mirror("n", snaplen=100)
    bench.plan()
    assert bench.anew == ["m", "n"]


def test_a_changed_port_has_its_component_planned_anew(bench: Bench) -> None:
    bench.world.set_port("c", tag=5)
    bench.plan()
    assert bench.anew == ["apart"]


def test_a_changed_device_has_its_component_planned_anew(bench: Bench) -> None:
    bench.world.add_device("o3", mtu=9000)
    bench.plan()
    assert bench.anew == ["apart"]


def test_a_port_without_a_mirror_changes_nothing(bench: Bench) -> None:
    bench.world.set_port("d", trunks=(5,))
    bench.plan()
    assert bench.anew == []


def test_counted_packets_change_nothing(bench: Bench) -> None:
    """Open vSwitch writes the counters of its mirrors every few seconds."""
    bench.world.set_mirror("m", statistics={"tx_packets": 1, "tx_bytes": 60})
    bench.plan()  # It has statistics now, so Open vSwitch has taken it.
    bench.world.set_mirror("m", statistics={"tx_packets": 2, "tx_bytes": 120})
    bench.plan()
    assert bench.anew == []


def test_another_context_has_all_planned_anew(bench: Bench) -> None:
    bench.world.settings = {"vlan_limit": 2}
    bench.plan()
    assert bench.anew == ["m", "n", "apart"]


def test_a_mirror_that_joins_components_has_them_planned_as_one(bench: Bench) -> None:
    bench.world.set_mirror("apart", select_src_port=(bench.world.ports["b"].uuid,))
    assert len(bench.planner.plan(bench.given(), MUCH_ROOM, frozenset())) == 1
    assert bench.plan().keys() == {"m", "n", "apart"}


def test_rows_that_are_not_there_are_passed_over(bench: Bench) -> None:
    """The database names a row before it is known here, or after it is gone."""
    home = bench.world.bridges["br0"]
    bench.world.set_bridge("br0", mirrors=(*home.mirrors, NOWHERE), ports=(*home.ports, NOWHERE))
    assert bench.plan().keys() == {"m", "n", "apart"}


@pytest.mark.parametrize(
    ("room", "offloaded"), [(3, "m n apart"), (2, "m n"), (1, "m"), (0, ""), (-1, "")]
)
def test_first_come_by_uuid_where_there_is_little_room(
    bench: Bench, room: int, offloaded: str
) -> None:
    decisions = bench.plan(room)
    expected = dict.fromkeys(decisions, TOO_MANY) | dict.fromkeys(offloaded.split(), None)
    assert {name: decision.reason for name, decision in decisions.items()} == expected
    assert bench.anew == []
    assert {decision.state for decision in bench.plan().values()} == {OFFLOADED}


def test_mirrors_that_stay_native_need_no_room(bench: Bench) -> None:
    bench.world.set_mirror("m", external_ids={MODE_KEY: "native"})
    states = {name: decision.state for name, decision in bench.plan(room=2).items()}
    assert states == {"m": NATIVE, "n": OFFLOADED, "apart": OFFLOADED}


def test_mirrors_without_a_slot_stay_native(bench: Bench) -> None:
    decisions = bench.plan(unplaced=frozenset([bench.world.mirrors["n"].uuid]))
    assert {name: decision.reason for name, decision in decisions.items()} == {
        "m": None,
        "n": NO_SLOT,
        "apart": None,
    }


def test_what_failed_is_planned_again_when_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.world.set_mirror("apart", snaplen=100)
    with monkeypatch.context() as patched:
        patched.setattr(component_planner, "check_mirror", {}.__getitem__)
        assert bench.plan()["apart"].state == NATIVE
    assert bench.plan()["apart"].state == NATIVE
    assert bench.anew == []
    bench.planner.retry()
    assert {decision.state for decision in bench.plan().values()} == {OFFLOADED}
    assert bench.anew == ["apart"]


@pytest.mark.parametrize(("tag", "untagged"), [(None, False), (5, True)])
def test_the_context_knows_access_ports_among_outputs(
    bench: Bench, tag: int | None, untagged: bool
) -> None:
    bench.world.set_port("a", tag=6)
    bench.world.set_port("o1", tag=tag)
    bench.plan()
    assert bench.context.has_untagged_output == untagged


@pytest.mark.parametrize(("port", "known"), [("d", True), ("o1", False)])
def test_the_context_has_ports_that_are_no_outputs(bench: Bench, port: str, known: bool) -> None:
    """Open vSwitch sends nothing but copies to an output port."""
    bench.world.set_port(port, vlan_mode="dot1q-tunnel", tag=5, protected=True)
    bench.plan()
    assert [each.name for each in bench.context.tunnels] == ([port] if known else [])
    assert bench.context.protected == (port if known else None)


def test_the_context_is_the_bridges(bench: Bench) -> None:
    bench.world.add_bridge("br1")
    bench.world.traits["br0"] = None
    bench.plan()
    assert bench.context.traits is None
    assert bench.context.attach == TCX
    assert not bench.context.over_native_limit
