"""Flows that may send a packet to a port twice in one form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ovs_ebpf_tap.decide.flow_search import Form, Places
from ovs_ebpf_tap.model.flow import Actions, Clone, Flow, Known, Modify


def repeating(reaching: Mapping[Flow, Places]) -> Iterator[Flow]:
    """Those of flows whose sites lead to the port, as `Search.reaching` has them.

    Two ways to a port part at some flow: two of its sites lead there, in the same form.
    """
    for flow, places in reaching.items():
        if len(places) > 1 and _repeats(flow.actions, places, (), []):
            yield flow


def _repeats(actions: Actions, places: Places, place: tuple[int, ...], sent: list[Known]) -> bool:
    """Whether actions may send what was sent already; adds to `sent` what they do send.

    `sent` has, of each time that the packet was sent in the form that it has now, what was known at
    the beginning of the flow.
    """
    for index, action in enumerate(actions):
        here = (*place, index)
        if isinstance(action, Modify):
            if action.always:
                sent.clear()
        elif isinstance(action, Clone):
            if _repeats(action.actions, places, here, list(sent)):
                return True
            sent += _sent_unchanged(action.actions, places, here)
        elif here in places:
            again = [each.known for each in places[here] if each.form is Form.SAME]
            if any(known.meets(other) for known in again for other in sent):
                return True
            sent += [each.known for each in places[here] if each.form is not Form.OTHER]
    return False


def _sent_unchanged(actions: Actions, places: Places, place: tuple[int, ...]) -> Iterator[Known]:
    """What a clone sends in the form that it begins with."""
    for index, action in enumerate(actions):
        here = (*place, index)
        if isinstance(action, Modify) and action.always:
            return
        if isinstance(action, Clone):
            yield from _sent_unchanged(action.actions, places, here)
        for each in places.get(here, ()):
            if each.form is Form.SAME:
                yield each.known
