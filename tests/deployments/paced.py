"""Frames sent a few at a time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable

from ovs_ebpf_tap.lab.waiting import patience

_BURST = 32
_PAUSE = 0.02


def send_paced(send: Callable[[list[bytes]], object], frames: Iterable[bytes]) -> None:
    """Sends frames by `send`, of which no more than a burst should be in the switch at a time.

    Hooks count each content for each mirror that several of them serve: of hundreds in the switch
    for many mirrors, some contents take the places of others (`bpf/dedup.h`).
    """
    waiting = iter(frames)
    while burst := list(itertools.islice(waiting, _BURST)):
        send(burst)
        time.sleep(patience(_PAUSE))
