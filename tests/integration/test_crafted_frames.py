"""What a machine sends to have some of its frames not copied: it is copied all the same."""

from __future__ import annotations

from collections import Counter

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import Address, udp_frame
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
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


def test_an_answer_with_another_payload(switch: Switch, tap: SidecarProcess) -> None:
    """A machine floods what it has just received, with another payload behind the same head."""
    a, c, m = (switch.add_host(name, with_ip=False) for name in "acm")
    switch.learn(a, c)
    switch.mirror("m", src=[a], dst=[a], output=m)
    everyone = Address("01:00:5e:00:00:09", "224.0.0.9")
    sent = [udp_frame(c, everyone, b"%030d" % number + b"." * 400) for number in range(PAIRS)]
    answers = {frame: frame[:72] + b"secret" + frame[78:] for frame in sent}

    def play() -> Counter[bytes]:
        with Capture.of(a) as received, Capture.of(m) as copies:
            for frame, answer in answers.items():
                received.clear()
                c.send([frame])
                received.wait_count(1)
                a.send([answer])
            copies.wait_quiet()
            return copies.multiset()

    tap.native("m")
    native = play()
    tap.offload("m")
    assert native == Counter([*sent, *answers.values()])
    assert play() == native


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
    with SidecarProcess(switch, "--attach", attach) as tap:
        tap.native("m")
        native = copied(a, m, frames)
        tap.offload("m")
        offloaded = copied(a, m, frames)
    assert native == Counter(frames)
    assert offloaded == native
