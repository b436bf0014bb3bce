"""What may change: each a function that does it to both switches and returns a line, or None.

None is returned, before anything is done, where there is nothing to do it to. What is chosen
depends on the generator and the scene alone, so that a seed makes the same steps each time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from uuid import UUID

from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.model.rows import MODE_KEY
from parity.case import CasePort
from soak.pair import Pair, Twin
from soak.scene import BRIDGE, DOWN, KINDS, NUMBERS, RENAMED, UP, set_port

VLANS = (10, 20, 30)
MOST_MIRRORS = 6
FEWEST_MIRRORS = 2
FEWEST_PORTS = 6
FEWEST_REACHABLE = 5
"""Ports whose device is there: without them frames tell little."""
OUTPUTS = ("vm", "vn")
"""What most copies go to."""
MOST_FLOWS = 2

_POLICING = ("ingress_policing_rate=8000000", "ingress_policing_burst=800000")


_CLEARED = (
    *("select_src_port", "select_dst_port", "select_vlan", "output_port", "output_vlan"),
    "snaplen",
)


# Mirrors.


def add_mirror(rng: Random, pair: Pair) -> str | None:
    """A mirror of some ports."""
    scene = pair.scene
    if len(scene.mirrors) >= MOST_MIRRORS:
        return None
    scene.mirrors_made += 1
    name = f"m{scene.mirrors_made}"
    identifier = str(UUID(int=rng.getrandbits(128), version=4))
    ports, columns = _mirror(rng, pair)
    # The same identifier, as Open vSwitch's order of mirrors goes by it.
    create = ("--", f"--id={identifier}", "create", "Mirror", f"name={name}", *columns)
    hold = ("--", "add", "Bridge", BRIDGE, "mirrors", identifier)
    pair.vsctl(*_gets(ports), *create, *hold)
    scene.mirrors.add(name)
    return f"mirror {name} added: {_shown(columns)}"


def change_mirror(rng: Random, pair: Pair) -> str | None:
    """All columns of a mirror but its mode, as a controller writes them, or some."""
    name = _choose(rng, pair.scene.mirrors)
    if name is None:
        return None
    ports, columns = _mirror(rng, pair)
    whole = rng.random() < 0.5
    if not whole:
        columns = rng.sample(columns, rng.randint(1, len(columns)))
    words = ["--", "clear", "Mirror", name, *_CLEARED] if whole else []
    words += ["--", "set", "Mirror", name, *(("select_all=false",) if whole else ()), *columns]
    pair.vsctl(*_gets(ports), *words)
    return f"mirror {name} {'is now' if whole else 'changed'}: {_shown(columns)}"


def remove_mirror(rng: Random, pair: Pair) -> str | None:
    """A mirror less."""
    name = _choose(rng, pair.scene.mirrors)
    if name is None or len(pair.scene.mirrors) <= FEWEST_MIRRORS:
        return None
    get = ("--", "--id=@m", "get", "Mirror", name)
    pair.vsctl(*get, "--", "remove", "Bridge", BRIDGE, "mirrors", "@m")
    pair.scene.mirrors.remove(name)
    pair.scene.native.discard(name)
    return f"mirror {name} removed"


def set_mode(rng: Random, pair: Pair) -> str | None:
    """A mirror's own mode."""
    native = pair.scene.native
    # One that is native has others left to Open vSwitch, too: not for long.
    name = _choose(rng, native or pair.scene.mirrors)
    if name is None:
        return None
    mode = rng.choice(("offload", None) if native else ("native", "offload", None))
    pair.set_mode("Mirror", name, mode)
    native.discard(name)
    if mode == "native":
        native.add(name)
    return f"mode of mirror {name}: {mode or 'not set'}"


def set_mode_of_all(rng: Random, pair: Pair) -> str | None:
    """The mode of the bridge or the whole switch is native, and offload again."""
    table, record = rng.choice((("Bridge", BRIDGE), ("Open_vSwitch", ".")))
    pair.set_mode(table, record, "native")
    pair.settle()
    pair.set_mode(table, record, rng.choice(("offload", None)))
    return f"mode of {table} {record}: native, and offload again"


def _mirror(rng: Random, pair: Pair) -> tuple[Sequence[str], list[str]]:
    """The ports that a mirror refers to, and its columns; at least one of them."""
    ports = sorted(pair.scene.ports)
    # Mirrors that share an output are left to Open vSwitch if one of them is.
    outputs = [port for port in ports if port in OUTPUTS]
    output = rng.choice(ports if rng.random() < 0.25 or not outputs else outputs)
    # Copies of copies are left to Open vSwitch where tags change on the way.
    chained = rng.random() < 0.2
    others = [p for p in ports if chained or p not in (*OUTPUTS, output) or rng.random() < 0.05]
    src = _sample(rng, others, (0, 1, 1, 2))
    dst = _sample(rng, others, (0, 0, 1, 1, 2) if src else (1, 2))
    columns = {
        "select_src_port": ",".join(f"@{port}" for port in src),
        "select_dst_port": ",".join(f"@{port}" for port in dst),
        "select_vlan": ",".join(map(str, rng.sample(VLANS, rng.choice((0, 0, 1, 2))))),
        "snaplen": rng.choice((*[""] * 20, "64", "200", "200", "1000")),
    }
    if rng.random() < 0.05:
        columns["select_all"] = "true"
    if rng.random() < 0.05:
        columns["output_vlan"] = str(rng.choice(VLANS))
        used = {*src, *dst}
    else:
        columns["output_port"] = f"@{output}"
        used = {*src, *dst, output}
    return sorted(used), [f"{column}={value}" for column, value in columns.items() if value]


def _gets(ports: Sequence[str]) -> list[str]:
    return [word for port in ports for word in ("--", f"--id=@{port}", "get", "Port", port)]


def _shown(columns: Sequence[str]) -> str:
    return " ".join(columns).replace("@", "")


# Ports.


def add_port(rng: Random, pair: Pair) -> str | None:
    """A port, with its device if that is not there."""
    name = _choose(rng, KINDS.keys() - pair.scene.ports.keys())
    if name is None:
        return None
    return add_named_port(pair, name, _settings(rng))


def add_named_port(pair: Pair, name: str, port: CasePort) -> str:
    """A port of this name."""
    made = KINDS[name] in ("host", "tap") and name not in pair.scene.devices
    if made:
        _make_device(pair, name)
    pair.both(lambda twin: twin.add_port(name, port))
    pair.scene.ports[name] = port
    pair.scene.policed.discard(name)
    return f"port {name} added{', with its device' if made else ''}: {_described(port)}"


def remove_port(rng: Random, pair: Pair) -> str | None:
    """A port less; its device stays, or goes before or after it."""
    scene = pair.scene
    kept = OUTPUTS if rng.random() < 0.9 else ()
    name = _choose(rng, scene.ports.keys() - {BRIDGE, *kept})
    if name is None or len(scene.ports) <= FEWEST_PORTS:
        return None
    ends = scene.devices.get(name) in (UP, DOWN) and rng.random() < 0.6
    first = rng.random() < 0.5
    if ends and first:
        _delete_device(pair, name)
    pair.vsctl("del-port", BRIDGE, name)
    if ends and not first:
        _delete_device(pair, name)
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
    name = _choose(rng, set(scene.ports) & set(scene.devices) - foreign.qdiscs)
    if name is None:
        return None
    if name in scene.policed:
        scene.policed.remove(name)
        pair.vsctl("set", "Interface", name, *(f"{each.partition('=')[0]}=0" for each in _POLICING))
        return f"port {name} policed no more"
    scene.policed.add(name)
    pair.vsctl("set", "Interface", name, *_POLICING)
    return f"port {name} policed"


# Devices.


def delete_device(rng: Random, pair: Pair) -> str | None:
    """A device goes; its port stays, without one."""
    name = _spare_device(rng, pair)
    if name is None:
        return None
    _delete_device(pair, name)
    return f"device {name} deleted"


def recreate_device(rng: Random, pair: Pair) -> str | None:
    """A port's device is there again."""
    scene = pair.scene
    name = _choose(rng, {port for port in scene.ports if scene.state(port) is None})
    if name is None:
        return None
    return f"device {name} made, {_renew(rng, pair, name)}"


def replace_device(rng: Random, pair: Pair) -> str | None:
    """A device goes, and another of its name comes."""
    name = _device(rng, pair, UP)
    if name is None or name not in pair.scene.ports:
        return None
    _delete_device(pair, name)
    return f"device {name} replaced, {_renew(rng, pair, name)}"


def rename_device(rng: Random, pair: Pair) -> str | None:
    """A device gets another name, or its own again."""
    renamed = _device(rng, pair, RENAMED)
    if renamed is not None:
        _rename_back(pair, renamed)
        return f"device {renamed}x renamed to {renamed}"
    name = _spare_device(rng, pair)
    if (
        name is None
        or KINDS[name] != "host"
        or name in pair.foreign.qdiscs | pair.foreign.links.keys()
    ):
        return None
    _rename(pair, name, f"{name}x")
    pair.scene.devices[name] = RENAMED
    return f"device {name} renamed to {name}x"


def set_down(rng: Random, pair: Pair) -> str | None:
    """A device is down."""
    name = _spare_device(rng, pair)
    if name is None:
        return None
    pair.both(lambda twin: twin.link("set", "dev", name, "down"))
    pair.scene.devices[name] = DOWN
    return f"device {name} down"


def set_up(rng: Random, pair: Pair) -> str | None:
    """A device is up again."""
    name = _device(rng, pair, DOWN)
    if name is None:
        return None
    _set_up(pair, name)
    return f"device {name} up"


def _set_up(pair: Pair, name: str) -> None:
    pair.both(lambda twin: twin.link("set", "dev", name, "up"))
    pair.scene.devices[name] = UP


def _spare_device(rng: Random, pair: Pair) -> str | None:
    """A device that is up, of those that can be done without; seldom an output's."""
    if len(pair.scene.reachable) <= FEWEST_REACHABLE:
        return None
    name = _device(rng, pair, UP)
    return None if name in OUTPUTS and rng.random() < 0.7 else name


def _device(rng: Random, pair: Pair, *states: str, hosts: bool = False) -> str | None:
    """A device in one of these states."""
    found = {
        name
        for name, state in pair.scene.devices.items()
        if state in states and (KINDS[name] == "host" or not hosts)
    }
    return _choose(rng, found)


def _make_device(pair: Pair, name: str) -> None:
    pair.both(lambda twin: twin.add_device(name))
    pair.scene.devices[name] = UP


def _renew(rng: Random, pair: Pair, name: str) -> str:
    """Make a device in the place of one that went.

    The userspace datapath does not look at it until the port, or ovs-vswitchd, is a new one.
    """
    _make_device(pair, name)
    if rng.random() < 0.5:
        pair.both(Twin.restart_vswitchd)
        return "then ovs-vswitchd restarted"
    pair.vsctl("del-port", BRIDGE, name)
    return add_named_port(pair, name, pair.scene.ports[name])


def _delete_device(pair: Pair, name: str) -> None:
    pair.foreign.forget(name)
    pair.both(lambda twin: twin.delete_device(name))
    del pair.scene.devices[name]


def _rename_back(pair: Pair, name: str) -> None:
    _rename(pair, f"{name}x", name)
    pair.scene.devices[name] = UP


def _rename(pair: Pair, name: str, new: str) -> None:
    # A device that is up can't be renamed on every kernel.
    down = ("set", "dev", name, "down")
    up = ("set", "dev", new, "up")
    for twin in pair.twins:
        for words in (down, ("set", "dev", name, "name", new), up):
            twin.link(*words)


# Flows.


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
            f"{match},ip,actions=mod_dl_src:02:00:00:00:00:98,{out}",
            f"{match},actions={out},{out}",
            f"{match},actions=NORMAL,{out}",
        )
    )
    pair.both(lambda twin: twin.add_flow(flow))
    scene.flows[source] = flow
    return f"flow added: {flow}"


def remove_flow(rng: Random, pair: Pair) -> str | None:
    """A flow less."""
    source = _choose(rng, pair.scene.flows)
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
    words += _gets(outputs)
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
            _set_up(pair, name)
        elif state == RENAMED:
            _rename_back(pair, name)
    absent = [name for name in names if scene.state(name) is None]
    for name in absent:
        _make_device(pair, name)
    if absent:
        pair.both(Twin.restart_vswitchd)
    return "all plain: ports, devices, mirrors, no flows"


# Programs of others.


def attach_foreign(rng: Random, pair: Pair) -> str | None:
    """Somebody else's program on a device's hook, or not any more."""
    foreign, scene = pair.foreign, pair.scene
    name = _device(rng, pair, UP, DOWN, hosts=True)
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


# Choosing.


def _sample(rng: Random, names: Sequence[str], sizes: Sequence[int]) -> list[str]:
    return rng.sample(names, min(rng.choice(sizes), len(names)))


def _choose(rng: Random, names: Collection[str]) -> str | None:
    return rng.choice(sorted(names)) if names else None
