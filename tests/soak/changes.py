"""What else may change: flows, programs of others, and much at once.

Each function does it to both switches and returns a line; None, before anything is done, where
there is nothing to do it to. What is chosen depends on the generator and the scene alone, so that
a seed makes the same steps each time.
"""

from __future__ import annotations

from random import Random

from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.model.rows import MODE_KEY
from parity.case import CasePort
from soak.choosing import choose
from soak.device_changes import device_in, make_device, raise_device, rename_back
from soak.mirror_changes import get_ports
from soak.pair import Pair, Twin
from soak.scene import BRIDGE, DOWN, NUMBERS, OUTPUTS, RENAMED, UP, set_port

MOST_FLOWS = 2


def add_flow(rng: Random, pair: Pair) -> str | None:
    """What arrives on a port goes another way than usual."""
    scene = pair.scene
    ports = sorted(scene.ports.keys() - {BRIDGE} - scene.flows.keys())
    if len(scene.flows) >= MOST_FLOWS or len(ports) < 3:
        return None
    source, first, second = rng.sample(ports, 3)
    match = f"priority=9,in_port={NUMBERS[source]}"
    out, other = f"output:{NUMBERS[first]}", f"output:{NUMBERS[second]}"
    flow = rng.choice(
        (
            f"{match},actions=drop",
            f"{match},actions={out}",
            f"{match},actions={out},{other}",
            f"{match},ip,actions={out}",
            f"{match},ip,actions=load:1->NXM_NX_REG0[],{out}",
            f"{match},actions={out},{out}",
            f"{match},actions=NORMAL,{out}",
        )
    )
    pair.both(lambda twin: twin.add_flow(flow))
    scene.flows[source] = flow
    return f"flow added: {flow}"


def remove_flow(rng: Random, pair: Pair) -> str | None:
    """A flow less."""
    source = choose(rng, pair.scene.flows)
    if source is None:
        return None
    _remove_flow(pair, source)
    return f"flow removed: {source}'s"


def _remove_flow(pair: Pair, source: str) -> None:
    del pair.scene.flows[source]
    match = f"in_port={NUMBERS[source]}"
    pair.both(lambda twin: twin.switch.ofctl("del-flows", BRIDGE, match))


def simplify(rng: Random, pair: Pair) -> str | None:
    """All at once becomes what is offloaded: much of what else there is never goes by itself."""
    scene = pair.scene
    names = sorted(scene.ports)
    for source in list(scene.flows):
        _remove_flow(pair, source)
    outputs = [name for name in names if name in OUTPUTS]
    words = [word for name in names for word in ("--", *set_port(name, CasePort()))]
    words += get_ports(outputs)
    for name in sorted(scene.mirrors):
        if outputs:
            output = rng.choice(outputs)
            words += ["--", "clear", "Mirror", name, "snaplen", "output_vlan"]
            words += ["--", "set", "Mirror", name, f"output_port=@{output}", "select_all=false"]
        words += ["--", "remove", "Mirror", name, "external_ids", MODE_KEY]
    pair.vsctl(*words)
    scene.native.clear()
    scene.ports.update(dict.fromkeys(names, CasePort()))
    for name, state in sorted(scene.devices.items()):
        if state == DOWN:
            raise_device(pair, name)
        elif state == RENAMED:
            rename_back(pair, name)
    absent = [name for name in names if scene.state(name) is None]
    for name in absent:
        make_device(pair, name)
    if absent:
        pair.both(Twin.restart_vswitchd)
    return "all plain: ports, devices, mirrors, no flows"


def attach_foreign(rng: Random, pair: Pair) -> str | None:
    """Somebody else's program on a device's hook, or not any more."""
    foreign, scene = pair.foreign, pair.scene
    name = device_in(rng, pair, UP, DOWN, hosts=True)
    if name is None or name in scene.policed:
        return None
    if name in foreign.links or name in foreign.filters:
        foreign.detach(name)
        return f"device {name}: programs of others taken off"
    if rng.random() < 0.5 and attachments() != ("clsact",):
        foreign.attach_link(name)
        return f"device {name}: a TCX program of others"
    foreign.attach_filter(name)
    return f"device {name}: a clsact filter of others"
