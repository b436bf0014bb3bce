"""Actions that send a packet to a port or have it looked up, and what is done to it before.

`do_xlate_actions` in `ofproto/ofproto-dpif-xlate.c` (3.1.0) is what executes actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ovs_ebpf_tap.model.flow import (
    ANY_PORT,
    IN_PORT,
    Action,
    Actions,
    Clone,
    Flow,
    Forget,
    Known,
    Load,
    Modify,
    Move,
    Output,
    OutputField,
    Resubmit,
    ToGroup,
)


class Writes(NamedTuple):
    """What actions write to metadata: constants, and what is not to be seen here."""

    value: int = 0
    mask: int = 0
    lost: int = 0

    def then(self, action: Load | Forget) -> Writes:
        """These, and then what an action writes."""
        if isinstance(action, Load):
            value, mask = action.known.value, action.known.mask
            return Writes(self.value & ~mask | value, self.mask | mask, self.lost & ~mask)
        kept = ~action.mask
        return Writes(self.value & kept, self.mask & kept, self.lost | action.mask)

    def before(self, known: Known) -> Known | None:
        """What has to be known before, so that it can be as it is to be afterwards; None: never."""
        if (known.value ^ self.value) & known.mask & self.mask:
            return None
        mask = known.mask & ~(self.mask | self.lost)
        return Known(known.value & mask, mask)


def _before_move(move: Move, known: Known) -> Known | None:
    moved = known.moved(move.destination, move.source)
    others = known.only(~move.destination.mask)
    return others.both(moved) if others.meets(moved) else None


@dataclass(frozen=True, slots=True)
class Prefix:
    """What the actions of one list do before one of them is executed."""

    steps: tuple[Writes | Move, ...] = (Writes(),)
    modifies: bool = False
    """Whether the packet is another one by then."""

    def then(self, action: Action, writes: Mapping[int, int]) -> Prefix:
        """This, and an action more; `writes` are the bits that lookups in a table may write."""
        if isinstance(action, Modify):
            return Prefix(self.steps, modifies=self.modifies or action.always)
        if isinstance(action, Move):
            return Prefix((*self.steps, action, Writes()), self.modifies)
        lookup = lookup_of(action)
        if lookup is not None:
            action = Forget(writes.get(lookup.table, 0))
        if not isinstance(action, Load | Forget):
            return self
        last = self.steps[-1]
        assert isinstance(last, Writes)
        return Prefix((*self.steps[:-1], last.then(action)), self.modifies)

    def after(self, known: Known) -> Known:
        """What is known behind it, of what was known before."""
        for step in self.steps:
            if isinstance(step, Move):
                rest = known.only(~step.destination.mask)
                known = rest.both(known.moved(step.source, step.destination))
            else:
                rest = known.only(~(step.mask | step.lost))
                known = rest.both(Known(step.value, step.mask))
        return known

    def before(self, known: Known) -> Known | None:
        """As `Writes.before`."""
        for step in reversed(self.steps):
            before = _before_move(step, known) if isinstance(step, Move) else step.before(known)
            if before is None:
                return None
            known = before
        return known

    @property
    def in_port(self) -> int | None:
        """The port that it makes the packet count as arrived on, ANY_PORT for one that is not to be
        seen here; None if it leaves that as it is."""
        for step in reversed(self.steps):
            if isinstance(step, Move):
                if step.destination.mask & IN_PORT.mask:
                    return ANY_PORT
            elif (step.mask | step.lost) & IN_PORT.mask:
                whole = step.mask & IN_PORT.mask == IN_PORT.mask
                return (step.value & IN_PORT.mask) >> IN_PORT.offset if whole else ANY_PORT
        return None


def lookup_of(action: Action) -> Resubmit | None:
    """Where an action looks the packet up: a table, or a group, which has a number below 0."""
    if isinstance(action, ToGroup):
        return Resubmit(-1 - action.group)
    return action if isinstance(action, Resubmit) else None


def written_by(action: Action) -> int:
    """The bits of metadata that an action writes itself."""
    if isinstance(action, Load):
        return action.known.mask
    if isinstance(action, Forget):
        return action.mask
    return action.destination.mask if isinstance(action, Move) else 0


@dataclass(frozen=True, slots=True)
class Site:
    """An action that sends a packet to a port, or has it looked up, and what comes before it."""

    flow: Flow
    action: Output | OutputField | Resubmit
    place: tuple[int, ...]
    """Its index among the flow's actions; of one in a clone, the clone's, and that in it."""
    prefixes: tuple[Prefix, ...]
    """What its own list does before it, then that around the clone that it is in, and so on."""

    @property
    def there(self) -> Known:
        """What is known of the metadata there."""
        known = self.flow.match
        for prefix in reversed(self.prefixes):
            known = prefix.after(known)
        return known


def sites_of(flow: Flow, writes: Mapping[int, int]) -> Iterator[Site]:
    """The sites of a flow; `writes` are the bits that lookups in a table may write."""
    yield from _sites(flow, flow.actions, writes, (), ())


def _sites(
    flow: Flow,
    actions: Actions,
    writes: Mapping[int, int],
    place: tuple[int, ...],
    around: tuple[Prefix, ...],
) -> Iterator[Site]:
    prefix = Prefix()
    for index, action in enumerate(actions):
        here = (*place, index)
        if isinstance(action, Clone):
            yield from _sites(flow, action.actions, writes, here, (prefix, *around))
            continue
        lookup = lookup_of(action)
        if lookup is not None:
            yield Site(flow, lookup, here, (prefix, *around))
        elif isinstance(action, Output | OutputField):
            yield Site(flow, action, here, (prefix, *around))
        prefix = prefix.then(action, writes)
