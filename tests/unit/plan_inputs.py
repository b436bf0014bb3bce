"""Databases, devices and flow tables at random, for what holds for any plan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from builders import World
from hypothesis import strategies as st

from ovs_ebpf_tap.decide.planner import make_plan
from ovs_ebpf_tap.model.desired import (
    CLSACT,
    TCX,
    Plan,
)
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.flow import IN_PORT, FlowName, Known
from ovs_ebpf_tap.model.flow_traits import FlowTraits, OpenFlow, PortFlags, PortPaths
from ovs_ebpf_tap.model.rows import (
    MODE_KEY,
    PROTECTED_KEY,
    SELECT_VLAN_KEY,
    Database,
)

T = TypeVar("T")

# Of any characters, and now and then as long as nobody would have it.
NAMES = st.text(max_size=6) | st.text(st.characters(), min_size=1).map(lambda text: text * 3000)
# Few, so that ports share them.
VLANS = st.sampled_from([0, 1, 5, 7, 4094, 4095])
PARKED = 1 << 4095


def mostly(value: T, other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """The plain value most of the time, so that many mirrors are offloaded."""
    return one_in(40, other, st.just(value))


def one_in(n: int, rare: st.SearchStrategy[T], usual: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    # Not 0, nor n: Hypothesis likes the ends of a range.
    return st.integers(0, n).flatmap(lambda number: rare if number == n // 3 else usual)


@st.composite
def modes(draw: st.DrawFn) -> dict[str, str]:
    mode = draw(mostly(None, st.sampled_from([None, "offload", "native", ""]) | NAMES))
    return {} if mode is None else {MODE_KEY: mode}


@dataclass(frozen=True)
class PlanInput:
    """What `make_plan` is given."""

    db: Database
    devices: dict[str, Device]
    attach: str
    refused: dict[int, str]
    openflow: OpenFlow

    def plan(self) -> Plan:
        return make_plan(self.db, self.devices, self.attach, self.refused, self.openflow)


VLAN_MODES = ["trunk", "access", "native-tagged", "native-untagged", "dot1q-tunnel"]
VLAN_COLUMNS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "tag": st.none() | VLANS,
        "trunks": st.lists(VLANS, max_size=3, unique=True).map(tuple),
        "cvlans": one_in(4, st.lists(VLANS, max_size=2, unique=True).map(tuple), st.just(())),
        "vlan_mode": st.sampled_from([None, *VLAN_MODES]),
        "priority_tags": one_in(6, st.sampled_from(["no", "true", "always", "odd"]), st.none()),
        "qinq_ethtype": st.sampled_from([None, "802.1q", "802.1ad"]),
    }
)
PORT_COLUMNS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "protected": one_in(5, st.just(True), st.just(False)),
        "type": one_in(
            4,
            st.sampled_from(["system", "internal", "tap"]),
            mostly("", st.sampled_from(["patch", "vxlan"]) | NAMES),
        ),
        "policed": mostly(False, st.booleans()),
    }
)
DEVICES = mostly(
    {},
    st.one_of(
        st.none(),
        st.fixed_dictionaries(
            {
                "mtu": st.integers(0, 65535),
                "up": st.booleans(),
                "running": st.booleans(),
                "ethernet": mostly(True, st.booleans()),
            }
        ),
    ),
)
STATES: st.SearchStrategy[dict[str, Any]] = one_in(
    20,
    st.fixed_dictionaries(
        {
            "away": st.booleans(),
            "refused": st.booleans(),
            "ifindex": st.sampled_from([None, 0, 100, 101]),
        }
    ),
    st.just({}),
)
MIRROR_COLUMNS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "select_all": mostly(False, st.booleans()),
        "select_vlan": one_in(4, st.lists(VLANS, min_size=1).map(tuple), st.just(())),
        "output_vlan": mostly(None, VLANS),
        "snaplen": one_in(6, mostly(200, st.sampled_from([14, 160, 65535])), st.none()),
        "filter": one_in(
            4,
            mostly("tcp", st.sampled_from(["", "ct_state=+trk"]) | NAMES)
            | st.sampled_from(["udp", "dl_vlan=5", "tcp,dl_vlan=5"]),
            st.none(),
        ),
    }
)
ORIGINS = st.frozensets(st.just(Known()) | st.integers(1, 6).map(partial(Known.of, IN_PORT)))
PATHS = st.builds(
    PortPaths,
    mostly(None, st.just(FlowName(1, 2, 3))),
    st.none() | st.just(FlowName(4, 5, 6)),
    ORIGINS,
    ORIGINS,
    mostly(False, st.just(True)),
)
LEADING = mostly({}, st.dictionaries(st.integers(1, 6), PATHS))
TRAITS = mostly(
    FlowTraits(), st.none() | st.builds(FlowTraits, *[st.booleans()] * 3, ports=LEADING)
)


def mostly_from(near: list[UUID], far: list[UUID]) -> st.SearchStrategy[UUID]:
    """A port of the own bridge most of the time."""
    return one_in(40, st.sampled_from(far), st.sampled_from(near or far))


@st.composite
def cases(draw: st.DrawFn) -> PlanInput:
    world = World()
    ports: list[list[UUID]] = []
    for b in range(draw(st.integers(1, 2))):
        bridge = f"br{b}"
        world.add_bridge(
            bridge,
            datapath_type=draw(mostly("", st.sampled_from(["system", "netdev"]) | NAMES)),
            spanning_tree=draw(mostly(False, st.booleans())),
            external_ids=draw(modes()),
        )
        for p in range(draw(st.integers(0, 7))):
            columns = draw(PORT_COLUMNS) | draw(one_in(2, VLAN_COLUMNS, st.just({})))
            members = draw(one_in(10, st.integers(2, 3), st.just(1)))
            names = [f"{bridge}-{p}-{n}" for n in range(members)] if members > 1 else []
            device, state = draw(DEVICES), draw(STATES)
            world.add_port(
                f"{bridge}-{p}",
                bridge=bridge,
                members=names,
                device=device,
                state=state,
                **columns,
            )
            addresses = [world.devices[name].address for name in names if name in world.devices]
            world.set_port(
                f"{bridge}-{p}",
                bond_mode=draw(mostly(None, st.sampled_from(["active-backup", "balance-slb"]))),
                bond_active_member=draw(st.sampled_from([*addresses, None])),
                name=draw(NAMES),
            )
        world.traits[bridge] = draw(TRAITS)
        anywhere = st.frozensets(st.sampled_from([*world.interfaces, "nowhere"]), max_size=2)
        world.port_flags[bridge] = draw(
            mostly(PortFlags(), st.builds(PortFlags, anywhere, anywhere, anywhere))
        )
        ports.append(list(world.bridges[bridge].ports))
    everywhere = [uuid for home in ports for uuid in home]
    nowhere = UUID(int=0xDEAD)
    for m in range(draw(st.integers(0, 7))):
        b = draw(st.integers(0, len(ports) - 1))
        some = mostly_from(ports[b], [*everywhere, nowhere])
        world.add_mirror(f"m{m}", bridge=f"br{b}", **draw(MIRROR_COLUMNS))
        ids = draw(modes())
        if draw(st.booleans()):
            parked = st.lists(VLANS, max_size=2).map(lambda vlans: ",".join(map(str, vlans)))
            ids[SELECT_VLAN_KEY] = draw(one_in(3, parked | st.text(max_size=4), st.just("")))
            world.set_mirror(f"m{m}", select_vlan=(4095,))
        if draw(mostly(False, st.booleans())):
            ids[PROTECTED_KEY] = draw(st.sampled_from(["true", "false", "odd"]))
        world.set_mirror(
            f"m{m}",
            name=draw(NAMES),
            contended=draw(mostly(False, st.booleans())),
            kept_vlans=draw(st.sampled_from(["", "5"])),
            external_ids=ids,
            output_port=draw(some),
            select_src_port=tuple(draw(st.lists(some, max_size=4, unique=True))),
            select_dst_port=tuple(draw(st.lists(some, max_size=4, unique=True))),
        )
        if draw(one_in(4, st.just(True), st.just(False))):
            world.set_mirror(f"m{m}", output_port=None, output_vlan=draw(mostly(5, VLANS)))
    if draw(mostly(False, st.booleans())):
        world.set_bridge("br0", mirrors=(*world.bridges["br0"].mirrors, nowhere))
    world.settings = {
        "external_ids": draw(modes()),
        "hw_offload": draw(mostly(False, st.booleans())),
        "userspace_tso": draw(mostly(False, st.booleans())),
        "vlan_limit": draw(one_in(4, st.just(2), st.just(1))),
    }
    refused = draw(mostly(frozenset(), st.frozensets(st.integers(100, 110), max_size=2)))
    return PlanInput(
        world.db,
        world.devices,
        draw(st.sampled_from([TCX, CLSACT])),
        dict.fromkeys(refused, draw(NAMES)),
        world.openflow,
    )
