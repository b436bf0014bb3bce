"""A reason why a mirror is not offloaded."""

from __future__ import annotations

from dataclasses import dataclass

from ovs_ebpf_tap.model.desired import NATIVE, NotOffloadedError, OffloadDecision


@dataclass(frozen=True)
class Reason:
    """One reason: as OVSDB shows it, and two sentences for operators."""

    text: str
    """For `ebpf-tap-reason`; what is in braces depends on the case, as in `str.format`."""
    why: str
    """What Open vSwitch does that hooks can't do, or can't know."""
    change: str
    """What to change so that the mirror is offloaded."""
    state: str = NATIVE
    """Of the mirror: NATIVE, or INVALID if Open vSwitch itself refuses it."""
    of_device: bool = False
    """Whether it is told of a device, by those who do not know the port: see `at_port`."""

    @property
    def template(self) -> str:
        """The whole text, with the port whose device it is told of."""
        return at_port("{where}", self.text) if self.of_device else self.text

    def told(self, **values: object) -> str:
        """The text with these values in the place of the braces."""
        return self.text.format(**values)

    def decision(self, **values: object) -> OffloadDecision:
        """The decision on a mirror that it is true of."""
        return self.error(**values).decision

    def error(self, **values: object) -> NotOffloadedError:
        """What to raise for a mirror that it is true of."""
        return NotOffloadedError(self.template.format(**values), self.state)


def at_port(where: str, told: str) -> str:
    """What is told of the device of a port; `where` is e.g. `port vnet0`."""
    return f"{where}: {told}"
