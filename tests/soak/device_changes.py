"""What may change of devices.

Each function does it to both switches and returns a line; None, before anything is done, where
there is nothing to do it to. What is chosen depends on the generator and the scene alone, so that
a seed makes the same steps each time.
"""

from __future__ import annotations

from random import Random

from soak.choosing import choose
from soak.pair import Pair
from soak.scene import DOWN, KINDS, OUTPUTS, RENAMED, UP

FEWEST_REACHABLE = 5
"""Ports whose device is there: without them frames tell little."""


def delete_device(rng: Random, pair: Pair) -> str | None:
    """A device goes; its port stays, without one."""
    name = _spare_device(rng, pair)
    if name is None:
        return None
    drop_device(pair, name)
    return f"device {name} deleted"


def rename_device(rng: Random, pair: Pair) -> str | None:
    """A device gets another name, or its own again."""
    renamed = device_in(rng, pair, RENAMED)
    if renamed is not None:
        rename_back(pair, renamed)
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
    name = device_in(rng, pair, DOWN)
    if name is None:
        return None
    raise_device(pair, name)
    return f"device {name} up"


def raise_device(pair: Pair, name: str) -> None:
    """Set a device up."""
    pair.both(lambda twin: twin.link("set", "dev", name, "up"))
    pair.scene.devices[name] = UP


def _spare_device(rng: Random, pair: Pair) -> str | None:
    """A device that is up, of those that can be done without; seldom an output's."""
    if len(pair.scene.reachable) <= FEWEST_REACHABLE:
        return None
    name = device_in(rng, pair, UP)
    return None if name in OUTPUTS and rng.random() < 0.7 else name


def device_in(rng: Random, pair: Pair, *states: str, hosts: bool = False) -> str | None:
    """A device in one of these states."""
    found = {
        name
        for name, state in pair.scene.devices.items()
        if state in states and (KINDS[name] == "host" or not hosts)
    }
    return choose(rng, found)


def make_device(pair: Pair, name: str) -> None:
    """Make a device."""
    pair.both(lambda twin: twin.add_device(name))
    pair.scene.devices[name] = UP


def drop_device(pair: Pair, name: str) -> None:
    """Delete a device."""
    pair.foreign.forget(name)
    pair.both(lambda twin: twin.delete_device(name))
    del pair.scene.devices[name]


def rename_back(pair: Pair, name: str) -> None:
    """Give a renamed device its own name again."""
    _rename(pair, f"{name}x", name)
    pair.scene.devices[name] = UP


def _rename(pair: Pair, name: str, new: str) -> None:
    # A device that is up can't be renamed on every kernel.
    down = ("set", "dev", name, "down")
    up = ("set", "dev", new, "up")
    for twin in pair.twins:
        for words in (down, ("set", "dev", name, "name", new), up):
            twin.link(*words)
