"""Steps: changes, one or several, and daemons that end meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random

from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.waiting import patience
from soak.changes import add_flow, attach_foreign, remove_flow, simplify
from soak.device_changes import delete_device, rename_device, set_down, set_up
from soak.mirror_changes import (
    add_mirror,
    change_mirror,
    remove_mirror,
    set_mode,
    set_mode_of_all,
)
from soak.pair import Pair, Twin
from soak.port_changes import (
    add_port,
    change_port,
    police,
    recreate_device,
    remove_port,
    replace_device,
)

Step = Callable[[Random, Pair], str | None]

_AWAY = 0.3
"""Seconds that a daemon stays away."""


def restart_sidecar(rng: Random, pair: Pair) -> str | None:
    """The sidecar ends in order, and starts with hooks of the same kind or of another."""
    pair.sidecar.stop()
    return f"sidecar restarted{_start_sidecar(rng, pair)}"


def kill_sidecar(rng: Random, pair: Pair) -> str | None:
    """The sidecar is killed, and starts again."""
    pair.sidecar.kill()
    return f"sidecar killed and started{_start_sidecar(rng, pair)}"


def change_without_sidecar(rng: Random, pair: Pair) -> str | None:
    """Something happens while there is no sidecar."""
    pair.sidecar.kill()
    done = _some(rng, pair, _ANY)
    return f"sidecar killed; {done}; started{_start_sidecar(rng, pair)}"


def kill_sidecar_in_a_move(rng: Random, pair: Pair) -> str | None:
    """The sidecar is killed in the middle of what a change has it do."""
    done = _some(rng, pair, _MIRRORS)
    # Not measured in work done, so that it hits anything.
    time.sleep(rng.choice((0.0, 0.01, 0.02, 0.03, 0.05, 0.1)))
    pair.sidecar.kill()
    return f"{done}; sidecar killed at once and started{_start_sidecar(rng, pair)}"


def _start_sidecar(rng: Random, pair: Pair) -> str:
    attach = rng.choice((*attachments()[:1] * 3, *attachments()))
    pair.sidecar.options = ("--attach", attach)
    pair.sidecar.start()
    return f" with {attach}"


def restart_vswitchd(rng: Random, pair: Pair) -> str | None:
    """ovs-vswitchd ends in order, and starts."""
    pair.both(Twin.restart_vswitchd)
    return "ovs-vswitchd restarted"


def kill_vswitchd(rng: Random, pair: Pair) -> str | None:
    """ovs-vswitchd is killed, and starts."""
    pair.both(Twin.kill_vswitchd)
    return "ovs-vswitchd killed and started"


def change_without_vswitchd(rng: Random, pair: Pair) -> str | None:
    """The database and devices change while there is no ovs-vswitchd."""
    pair.both(lambda twin: twin.switch.kill_vswitchd())
    done = _some(rng, pair, (*_MIRRORS, *_DEVICES))
    time.sleep(patience(_AWAY))
    pair.both(Twin.start_vswitchd)
    return f"ovs-vswitchd killed; {done}; started"


def restart_ovsdb(rng: Random, pair: Pair) -> str | None:
    """The database's server ends in order, and starts."""
    pair.both(lambda twin: twin.switch.restart_ovsdb())
    return "ovsdb-server restarted"


def change_without_ovsdb(rng: Random, pair: Pair) -> str | None:
    """Devices change while the database's server is dead."""
    pair.both(lambda twin: twin.switch.kill_ovsdb())
    done = _some(rng, pair, _DEVICES)
    time.sleep(patience(_AWAY))
    pair.both(lambda twin: twin.switch.start_ovsdb())
    return f"ovsdb-server killed; {done}; started"


def several(rng: Random, pair: Pair) -> str | None:
    """One after the other, with no rest in between."""
    return "; ".join(_some(rng, pair, _ANY) for _ in range(rng.randint(2, 4)))


_MIRRORS: tuple[Step, ...] = (add_mirror, add_mirror, change_mirror, remove_mirror, set_mode)
_PORTS: tuple[Step, ...] = (add_port, remove_port, change_port)
_DEVICES: tuple[Step, ...] = (delete_device, set_down, set_up)
_ANY = (*_MIRRORS * 3, *_PORTS, *_DEVICES, set_up, recreate_device, recreate_device, replace_device)

ENDS: dict[Step, int] = {
    restart_sidecar: 2,
    kill_sidecar: 1,
    change_without_sidecar: 2,
    kill_sidecar_in_a_move: 2,
}
"""Steps that end the sidecar, by how often they are chosen."""

STEPS: dict[Step, int] = {
    add_mirror: 12,
    change_mirror: 10,
    remove_mirror: 6,
    set_mode: 6,
    set_mode_of_all: 2,
    add_port: 8,
    remove_port: 3,
    change_port: 6,
    police: 2,
    delete_device: 3,
    recreate_device: 8,
    replace_device: 2,
    rename_device: 3,
    set_down: 3,
    set_up: 10,
    add_flow: 2,
    remove_flow: 4,
    simplify: 6,
    attach_foreign: 3,
    restart_vswitchd: 1,
    kill_vswitchd: 1,
    change_without_vswitchd: 1,
    restart_ovsdb: 1,
    change_without_ovsdb: 1,
    several: 6,
}
"""The other steps."""


def take(rng: Random, pair: Pair, *, may_end: bool) -> tuple[str, str]:
    """Takes one; returns its name and its line. `may_end` says whether the sidecar may end."""
    choice = {**STEPS, **ENDS} if may_end else STEPS
    while True:
        (step,) = rng.choices(list(choice), list(choice.values()))
        line = step(rng, pair)
        if line is not None:
            return step.__name__, line


def _some(rng: Random, pair: Pair, steps: Sequence[Step]) -> str:
    """One of the steps, if one of them can be taken."""
    for step in rng.sample(steps, len(steps)):
        line = step(rng, pair)
        if line is not None:
            return line
    return "nothing"
