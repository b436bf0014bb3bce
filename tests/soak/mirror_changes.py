"""What may change of mirrors.

Each function does it to both switches and returns a line; None, before anything is done, where
there is nothing to do it to. What is chosen depends on the generator and the scene alone, so that
a seed makes the same steps each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from uuid import UUID

from soak.choosing import choose, sample
from soak.pair import Pair
from soak.scene import BRIDGE, OUTPUTS, VLANS

MOST_MIRRORS = 6
FEWEST_MIRRORS = 2

_CLEARED = (
    *("select_src_port", "select_dst_port", "select_vlan", "output_port", "output_vlan"),
    "snaplen",
)


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
    pair.vsctl(*get_ports(ports), *create, *hold)
    scene.mirrors.add(name)
    return f"mirror {name} added: {_shown(columns)}"


def change_mirror(rng: Random, pair: Pair) -> str | None:
    """All columns of a mirror but its mode, as a controller writes them, or some."""
    name = choose(rng, pair.scene.mirrors)
    if name is None:
        return None
    ports, columns = _mirror(rng, pair)
    whole = rng.random() < 0.5
    if not whole:
        columns = rng.sample(columns, rng.randint(1, len(columns)))
    words = ["--", "clear", "Mirror", name, *_CLEARED] if whole else []
    words += ["--", "set", "Mirror", name, *(("select_all=false",) if whole else ()), *columns]
    pair.vsctl(*get_ports(ports), *words)
    return f"mirror {name} {'is now' if whole else 'changed'}: {_shown(columns)}"


def remove_mirror(rng: Random, pair: Pair) -> str | None:
    """A mirror less."""
    name = choose(rng, pair.scene.mirrors)
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
    name = choose(rng, native or pair.scene.mirrors)
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
    src = sample(rng, others, (0, 1, 1, 2))
    dst = sample(rng, others, (0, 0, 1, 1, 2) if src else (1, 2))
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


def get_ports(ports: Sequence[str]) -> list[str]:
    """Arguments of ovs-vsctl by which `@name` is each of the ports."""
    return [word for port in ports for word in ("--", f"--id=@{port}", "get", "Port", port)]


def _shown(columns: Sequence[str]) -> str:
    return " ".join(columns).replace("@", "")
