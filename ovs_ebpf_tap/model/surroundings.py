"""What other programs have, or may want, on devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ForeignFilter:
    """A filter of another program, at the ingress or egress of a device."""

    direction: str
    priority: int
    kind: str
    chain: int = 0
    takes: bool = False
    """Whether packets that it matches may go no further: dropped, or sent elsewhere."""
    ends: bool = False
    """Whether packets that it matches may go on past the filters behind it."""
    what: str = ""
    """What it is, for people."""

    def __str__(self) -> str:
        what = f"{self.kind}, {self.what}" if self.what else self.kind
        return f"filter {self.priority} ({what}) on {self.direction}"


@dataclass(frozen=True)
class State:
    """What other programs have on the devices that are followed, by ifindex."""

    ingress: frozenset[int] = frozenset()
    """The devices with an `ingress` qdisc, which excludes clsact."""
    filters: Mapping[int, tuple[ForeignFilter, ...]] = field(default_factory=dict)
    """Filters, on an `ingress` or a clsact qdisc, that take packets or end their way."""


@dataclass(frozen=True)
class Surroundings:
    """What other programs have, or may want, on devices."""

    state: State = field(default_factory=State)
    reserved: Mapping[int, str] = field(default_factory=dict)
    """Why no clsact qdisc is added to a device yet, by ifindex."""


NOTHING = Surroundings()
