"""Changes to a small switch whose mirror `m` copies ports a and b to out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from builders import World, switch

from ovs_ebpf_tap.model import surroundings
from ovs_ebpf_tap.model.desired import (
    CLSACT,
    INGRESS,
)
from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortFlags, PortPaths
from ovs_ebpf_tap.model.limits import MAX_NATIVE_MIRRORS
from ovs_ebpf_tap.model.rows import MODE_KEY
from ovs_ebpf_tap.model.tunnel import GeneveOption, TunnelOptions

NOWHERE = UUID(int=0xDEAD)

Change = Callable[[World], None]

ReasonCase = tuple[str, Change, str, str]
"""A name, what is changed, and the mirror's state and the beginning of its reason then."""


def mirror(**columns: Any) -> Change:
    return lambda world: world.set_mirror("m", **columns)


def port(name: str, **columns: Any) -> Change:
    return lambda world: world.set_port(name, **columns)


def bridge(**columns: Any) -> Change:
    return lambda world: world.set_bridge("br0", **columns)


def new_port(name: str, **settings: Any) -> Change:
    """Another port in the place of the one called so."""

    def change(world: World) -> None:
        world.remove_port(name)
        world.add_port(name, **settings)
        world.remake_mirror("m", src="a b", dst="a b", out="out")

    return change


def tunnel(name: str, type: str = "vxlan", **options: str) -> Change:
    """A tunnel port in the place of the one called so, with the device that carries it."""
    found = TunnelOptions.parse(type, {"remote_ip": "10.0.0.1", **options})
    made = new_port(name, type=type, state={"tunnel": found}, device=None)

    def change(world: World) -> None:
        device = "vxlan_sys_4789" if found is None else found.device
        world.add_device(device, kind=type, slave="openvswitch")
        made(world)

    return change


def world_settings(**settings: Any) -> Change:
    return lambda world: world.settings.update(settings)


def no_device(name: str) -> Change:
    def change(world: World) -> None:
        del world.devices[name]

    return change


def select_output(world: World) -> None:
    world.remake_mirror("m", dst="out", out="out")


def both(*changes: Change) -> Change:
    def change(world: World) -> None:
        for each in changes:
            each(world)

    return change


NETDEV = bridge(datapath_type="netdev")


def clsact(world: World) -> None:
    world.attach = CLSACT


def refuse(device: str) -> Change:
    return lambda world: world.refused.update({device: "hook refused: Operation not supported"})


def filtered(device: str, direction: str = INGRESS, **settings: Any) -> Change:
    """Another program's filter on the device."""
    each = surroundings.ForeignFilter(direction, 50, "u32", **settings)
    return lambda world: world.filters.update({device: (each,)})


def ingress_qdisc(device: str) -> Change:
    return lambda world: world.ingress_qdiscs.add(device)


def reserve(device: str) -> Change:
    return lambda world: world.reserved.update({device: "its device is new"})


def flags(**names: str) -> Change:
    sets: dict[str, Any] = {flag: frozenset(ports.split()) for flag, ports in names.items()}
    return lambda world: world.port_flags.update({"br0": PortFlags(**sets)})


def geneve_options(number: int) -> Change:
    options = frozenset(GeneveOption(0x102, type, 4) for type in range(number))
    return lambda world: world.port_flags.update({"br0": PortFlags(geneve_options=options)})


def flows(traits: FlowTraits | None) -> Change:
    return lambda world: world.traits.update({"br0": traits})


def leads_to(*, normal: bool = True, **ports: PortPaths | None) -> Change:
    """What is known of how packets come to ports, whose OpenFlow numbers `ofport` gives."""

    def change(world: World) -> None:
        for each, interface in world.interfaces.items():
            world.interfaces[each] = replace(interface, ofport=ofport(each))
        known = {each: ports.get(each, PortPaths()) for each in world.interfaces}
        found = {
            ofport(each): replace(
                paths,
                origins=paths.origins or frozenset(),
                tagged_origins=paths.tagged_origins or frozenset(),
            )
            for each, paths in known.items()
            if paths is not None
        }
        world.traits["br0"] = FlowTraits(outputs=True, normal=normal, ports=found)

    return change


def unexamined(name: str) -> Change:
    """A port that was not there when its bridge was last asked for its flows."""
    return lambda world: world.unexamined.add(name)


def ofport(name: str) -> int:
    """The OpenFlow number that `leads_to` gives a port."""
    return sum(name.encode())


def bond(mode: str | None, active: str | None) -> Change:
    """As the output, with the member in use."""

    def change(world: World) -> None:
        new_port("out", members=("o1", "o2"), bond_mode=mode)(world)
        member = world.devices[active].address if active is not None else "02:00:00:00:ff:ff"
        world.set_port("out", bond_active_member=member)

    return change


def to_vlan(vlan: int) -> Change:
    return mirror(output_port=None, output_vlan=vlan)


def beside(name: str = "other", /, **selection: Any) -> Change:
    """Another mirror on the bridge."""

    def change(world: World) -> None:
        world.add_mirror(name, **selection)

    return change


def crowd(world: World) -> None:
    """So many other mirrors that OVS, which keeps statistics of those, has not taken this one."""
    for n in range(MAX_NATIVE_MIRRORS):
        world.add_mirror(f"n{n}", src="c", out="out", statistics={"tx_packets": 0})
    world.set_mirror("m", external_ids={MODE_KEY: "native"})


def on_two_bridges(world: World) -> None:
    world.add_bridge("br1")
    world.set_bridge("br1", mirrors=world.bridges["br0"].mirrors)


def selects(destinations: str, *, src: str = "") -> Change:
    def change(world: World) -> None:
        world.remake_mirror("m", src=src, dst=destinations, out="out")

    return change


def other_bridge(world: World) -> None:
    world.add_bridge("br1").add_port("far", bridge="br1")
    world.set_mirror("m", output_port=world.ports["far"].uuid)


NATIVE_MODE: dict[str, Any] = {"external_ids": {MODE_KEY: "native"}}


def plain() -> World:
    return switch("a b c out").add_mirror(src="a b", dst="a b", out="out")
