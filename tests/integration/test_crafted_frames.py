"""What a machine sends to have some of its frames not copied: it is copied all the same."""

from __future__ import annotations

from collections import Counter

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import udp_frame
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.sidecar import Tap
from ovs_ebpf_tap.lab.switch import Host, Switch

PAIRS = 20


def like(frame: bytes) -> bytes:
    """Another address, port and length: bits that cancel out in a hash of known multiplications.

    That is bit 63 of a word, and bits 63 and 34 of the next, where each word is mixed in by
    `h = (h ^ word) * ODD; h ^= h >> 29`.
    """
    made = bytearray(frame)
    for at, bits in ((31, 0x80), (36, 0x04), (39, 0x80)):
        made[at] ^= bits
    return bytes(made)


def copied(a: Host, m: Host, frames: list[bytes]) -> Counter[bytes]:
    with Capture.of(m) as copies:
        a.send(frames)
        copies.wait_quiet()
        return copies.multiset()


@pytest.mark.parametrize("attach", attachments()[:1])
def test_digests_do_not_collide(switch: Switch, attach: str) -> None:
    """The flow table sends the two of a pair to different ports, both of which are mirrored."""
    a, p, q, m = (switch.add_host(name, with_ip=False) for name in "apqm")
    switch.learn(a, p, q)
    for address, port in ((p.ip, p), ("10.128.0.0/9", q)):
        flow = f"priority=10,ip,nw_dst={address},actions=output:{switch.ofport(port)}"
        switch.ofctl("add-flow", "br0", flow)
    switch.mirror("m", dst=[p, q], output=m)
    frames = []
    for number in range(PAIRS):
        one = udp_frame(a, p, b"%03d" % number * 20, number)
        frames += [one, like(one)]
    with Tap(switch, "--attach", attach) as tap:
        tap.native("m")
        native = copied(a, m, frames)
        tap.offload("m")
        offloaded = copied(a, m, frames)
    assert native == Counter(frames)
    assert offloaded == native
