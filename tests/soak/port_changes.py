"""What may change of ports, and of devices that are made anew for them.

Each function does it to both switches and returns a line; None, before anything is done, where
there is nothing to do it to. What is chosen depends on the generator and the scene alone, so that
a seed makes the same steps each time.
"""

from __future__ import annotations

from random import Random

from parity.case import CasePort
from soak.choosing import choose
from soak.device_changes import device_in, drop_device, make_device
from soak.pair import Pair, Twin
from soak.scene import BRIDGE, DOWN, KINDS, OUTPUTS, UP, VLANS, set_port

FEWEST_PORTS = 6

_POLICING = ("ingress_policing_rate=8000000", "ingress_policing_burst=800000")


def add_port(rng: Random, pair: Pair) -> str | None:
    """A port, with its device if that is not there."""
    name = choose(rng, KINDS.keys() - pair.scene.ports.keys())
    if name is None:
        return None
    return add_named_port(pair, name, _settings(rng))


def add_named_port(pair: Pair, name: str, port: CasePort) -> str:
    """A port of this name."""
    made = KINDS[name] in ("host", "tap") and name not in pair.scene.devices
    if made:
        make_device(pair, name)
    pair.both(lambda twin: twin.add_port(name, port))
    pair.scene.ports[name] = port
    pair.scene.policed.discard(name)
    return f"port {name} added{', with its device' if made else ''}: {_described(port)}"


def remove_port(rng: Random, pair: Pair) -> str | None:
    """A port less; its device stays, or goes before or after it."""
    scene = pair.scene
    kept = OUTPUTS if rng.random() < 0.9 else ()
    name = choose(rng, scene.ports.keys() - {BRIDGE, *kept})
    if name is None or len(scene.ports) <= FEWEST_PORTS:
        return None
    ends = scene.devices.get(name) in (UP, DOWN) and rng.random() < 0.6
    first = rng.random() < 0.5
    if ends and first:
        drop_device(pair, name)
    pair.vsctl("del-port", BRIDGE, name)
    if ends and not first:
        drop_device(pair, name)
    del scene.ports[name]
    if ends:  # Else the device keeps its qdisc until it is a port again.
        scene.policed.discard(name)
    order = f", its device {'before' if first else 'after'} it" if ends else ""
    return f"port {name} removed{order}"


def change_port(rng: Random, pair: Pair) -> str | None:
    """A port's VLAN settings."""
    name = rng.choice(sorted(pair.scene.ports))
    port = _settings(rng) if name not in OUTPUTS or rng.random() < 0.5 else CasePort()
    pair.vsctl(*set_port(name, port))
    pair.scene.ports[name] = port
    return f"port {name} changed: {_described(port)}"


def _settings(rng: Random) -> CasePort:
    """Mostly what is offloaded: much of the rest is left to Open vSwitch."""
    vlan = rng.choice(VLANS)
    trunks = tuple(sorted(rng.sample((0, *VLANS), rng.randint(0, 2))))
    rarely = rng.random()
    if rarely < 0.02:
        return CasePort(tag=vlan, vlan_mode="dot1q-tunnel", qinq_ethtype="802.1q")
    if rarely < 0.04:
        return CasePort(tag=rng.choice((None, vlan)), priority_tags="if-nonzero")
    if rarely < 0.1:
        return CasePort(protected=True)
    native = rng.choice(("native-tagged", "native-untagged"))
    common = (CasePort(), CasePort(tag=vlan), CasePort(trunks=trunks))
    return rng.choice((*common, CasePort(), CasePort(tag=vlan, trunks=trunks, vlan_mode=native)))


def _described(port: CasePort) -> str:
    return " ".join(port.columns()) or "no settings"


def police(rng: Random, pair: Pair) -> str | None:
    """Ingress policing, with a limit that is not reached, set or not any more."""
    scene, foreign = pair.scene, pair.foreign
    # While it polices, Open vSwitch deletes filters of others.
    name = choose(rng, set(scene.ports) & set(scene.devices) - foreign.qdiscs)
    if name is None:
        return None
    if name in scene.policed:
        scene.policed.remove(name)
        pair.vsctl("set", "Interface", name, *(f"{each.partition('=')[0]}=0" for each in _POLICING))
        return f"port {name} policed no more"
    scene.policed.add(name)
    pair.vsctl("set", "Interface", name, *_POLICING)
    return f"port {name} policed"


def recreate_device(rng: Random, pair: Pair) -> str | None:
    """A port's device is there again."""
    scene = pair.scene
    name = choose(rng, {port for port in scene.ports if scene.state(port) is None})
    if name is None:
        return None
    return f"device {name} made, {_renew(rng, pair, name)}"


def replace_device(rng: Random, pair: Pair) -> str | None:
    """A device goes, and another of its name comes."""
    name = device_in(rng, pair, UP)
    if name is None or name not in pair.scene.ports:
        return None
    drop_device(pair, name)
    return f"device {name} replaced, {_renew(rng, pair, name)}"


def _renew(rng: Random, pair: Pair, name: str) -> str:
    """Make a device in the place of one that went.

    The userspace datapath does not look at it until the port, or ovs-vswitchd, is a new one.
    """
    make_device(pair, name)
    if rng.random() < 0.5:
        pair.both(Twin.restart_vswitchd)
        return "then ovs-vswitchd restarted"
    pair.vsctl("del-port", BRIDGE, name)
    return add_named_port(pair, name, pair.scene.ports[name])
