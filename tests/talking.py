"""Two hosts that talk and one that monitors, and how often it gets what is said."""

from __future__ import annotations

from collections import Counter

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import udp_frame
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.waiting import wait_for

Trio = tuple[Host, Host, Host]


def add_trio(switch: Switch) -> Trio:
    """Two hosts that talk, and one that monitors; m1 mirrors the first both ways."""
    a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    switch.mirror("m1", src=[a], dst=[a], output=m)
    return a, b, m


def wait_revalidated(switch: Switch) -> None:
    """Waits until Open vSwitch's running flows follow the configuration that it has now.

    The first answer may be about a round that had begun before (`upcall_unixctl_dump_wait` of
    Open vSwitch 3.1's `ofproto/ofproto-dpif-upcall.c`).
    """
    for _ in range(2):
        switch.appctl("revalidator/wait")


def copies_of(a: Host, b: Host, m: Host, count: int = 20) -> int:
    """How often a frame sent was copied, which has to be the same for all."""
    counts = _copies_of_each(a, b, m, count)
    assert len(set(counts)) == 1, counts
    return counts[0]


def wait_for_copies(a: Host, b: Host, m: Host, times: int) -> None:
    """Wait until all frames of a burst are copied `times` times.

    Until then what changes may do so in the middle of a burst.
    """
    wait_for(
        lambda: set(_copies_of_each(a, b, m, 20)) == {times},
        what=f"{times} copies of each frame",
    )


def _copies_of_each(a: Host, b: Host, m: Host, count: int) -> list[int]:
    frames = [udp_frame(a, b, b"%d" % number) for number in range(count)]
    with Capture.of(m) as capture:
        a.send(frames)
        capture.wait_quiet(0.2)
        counts = Counter(capture.frames())
    return [counts[frame] for frame in frames]
