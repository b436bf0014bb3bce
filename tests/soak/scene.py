"""The ports that there may be, and what both switches have been told."""

from __future__ import annotations

from dataclasses import dataclass, field

from parity.case import CasePort

BRIDGE = "br0"

KINDS = {
    **dict.fromkeys(("va", "vb", "vc", "vd", "vm", "vn"), "host"),
    "vi": "internal",
    "vt": "tap",
    BRIDGE: "local",
}
"""The ports that there may be; each is called as its device."""

NUMBERS = {name: number for number, name in enumerate(KINDS, 1)}
"""OpenFlow port numbers; the bridge's own has none."""

UP, DOWN, RENAMED = "up", "down", "renamed"

VLANS = (10, 20, 30)
OUTPUTS = ("vm", "vn")
"""What most copies go to."""

_VLAN_COLUMNS = ("tag", "trunks", "vlan_mode", "cvlans", "other_config")


def set_port(name: str, port: CasePort) -> list[str]:
    """Arguments of ovs-vsctl that have a Port row's settings be these."""
    clear = ["clear", "Port", name, *_VLAN_COLUMNS]
    return [*clear, "--", "set", "Port", name, "protected=false", *port.columns()]


@dataclass
class Scene:
    """What both switches have been told.

    `devices` are the hosts' and taps' devices that there are, with their state, whether or not
    they are ports; an internal port's is always there.
    """

    ports: dict[str, CasePort] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    mirrors: set[str] = field(default_factory=set)
    mirrors_made: int = 0
    native: set[str] = field(default_factory=set)
    """The mirrors whose own mode is native."""
    flows: dict[str, str] = field(default_factory=dict)
    """By the port that they match."""
    policed: set[str] = field(default_factory=set)

    @property
    def reachable(self) -> list[str]:
        """The ports whose device is there, by its name, and up."""
        return [name for name in self.ports if self.state(name) == UP]

    def state(self, name: str) -> str | None:
        """What is with a port's device; None if there is none."""
        return self.devices.get(name) if KINDS[name] in ("host", "tap") else UP
