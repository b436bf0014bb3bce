"""Moving a live mirror between Open vSwitch and the hooks, under traffic."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import parse_seq, udp_frame
from ovs_ebpf_tap.lab.sidecar import Tap
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import EMULATED, patience

# Each way; an emulated machine takes seconds for one.
MOVES = 5 if EMULATED else 50
RATE = 10_000
FLOWS = 2_000


@dataclass(frozen=True)
class Move:
    """When, in seconds, ovs-vsctl was started, had committed, and the move had ended."""

    asked: float
    committed: float
    ended: float

    def covers(self, when: float) -> bool:
        """Whether the move was under way."""
        return self.asked <= when <= self.ended


@pytest.mark.parametrize("selected", ["source", "destination", "both"])
def test_no_copy_is_missing_over_many_moves(
    switch: Switch, tap: Tap, figure: Callable[[str], None], selected: str
) -> None:
    a, b, monitor = (switch.add_host(name) for name in "abm")
    switch.learn(a, b)
    src = [a] if selected != "destination" else []
    dst = [b] if selected != "source" else []
    switch.mirror("m", src=src, dst=dst, output=monitor)
    tap.wait_state("m", "offloaded")
    moves: dict[str, list[Move]] = defaultdict(list)
    with Capture.of(monitor) as copies, Capture.of(b) as arrived:
        with Stream(a, b, rate=RATE) as stream:
            time.sleep(0.3)
            for _ in range(MOVES):
                for mode, state in (("native", "native"), ("offload", "offloaded")):
                    asked = time.time()
                    switch.vsctl(
                        "--no-wait", "set", "Mirror", "m", f"external_ids:ebpf-tap-mode={mode}"
                    )
                    committed = time.time()
                    tap.wait_settled("m", state)
                    # OVS's revalidators may still be at it.
                    time.sleep(patience(0.05))
                    moves[state].append(Move(asked, committed, time.time()))
        copies.wait_quiet()
        passed = stream.sent if selected == "source" else len(arrived.sequences(stream.stream_id))
        seen = [
            (r.time_ns / 1e9, found[1]) for r in copies.records() if (found := parse_seq(r.frame))
        ]

    count = Counter(number for _, number in seen)
    missing = passed - len(count)
    times = defaultdict(list)
    for when, number in seen:
        times[number].append(when)
    doubled = sorted(when for whens in times.values() for when in whens[1:])
    every = [move for some in moves.values() for move in some]
    outside = [when for when in doubled if not any(move.covers(when) for move in every)]
    figure(f"{passed} frames, {missing} missing, {len(doubled)} doubled in {2 * MOVES} moves")
    for state, some in moves.items():
        both = [(move, [when for when in doubled if move.covers(when)]) for move in some]
        first = [whens[0] - move.committed for move, whens in both if whens]
        last = [whens[-1] - move.committed for move, whens in both if whens]
        figure(f"to {state}: new kind's first copy {spread(first)}, old kind's last {spread(last)}")
    assert missing == 0
    assert outside == []
    assert max(count.values()) <= 2


def test_no_copy_is_missing_with_many_flows(
    switch: Switch, tap: Tap, figure: Callable[[str], None]
) -> None:
    """OVS revalidates flow by flow, so the last one is late by as much as there are flows."""
    a, b, monitor = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    # Has each UDP port take a flow of its own in the datapath.
    switch.ofctl(
        "add-flow", "br0", "priority=9,udp,actions=move:NXM_OF_UDP_DST[]->NXM_NX_REG0[0..15],normal"
    )
    switch.mirror("m", src=[a], output=monitor)
    tap.wait_state("m", "offloaded")
    flows = [udp_frame(a, b, b"", dport=1024 + number) for number in range(FLOWS)]
    a.send(flows)
    rounds = 0
    with Capture.of(monitor) as copies:
        for mode, state in [("native", "native"), ("offload", "offloaded")] * 5:
            switch.vsctl("--no-wait", "set", "Mirror", "m", f"external_ids:ebpf-tap-mode={mode}")
            while tap.state("m") != state or "ebpf-tap-protected" in tap.external_ids("m"):
                a.send(flows)
                rounds += 1
            for _ in range(5):
                a.send(flows)
                rounds += 1
        copies.wait_quiet()
        counts = copies.multiset()
    seen = [counts[frame] for frame in flows]
    extra = sum(seen) - rounds * FLOWS
    figure(f"{FLOWS} flows, {rounds} frames of each in 10 moves: {extra} copies more than frames")
    assert min(seen) >= rounds


def spread(seconds: list[float]) -> str:
    """Median and extremes in milliseconds."""
    if len(seconds) < 2:
        return "unseen"
    cut = statistics.quantiles(seconds, n=100, method="inclusive")
    return (
        f"median {cut[49] * 1e3:.1f} ms, 99th {cut[98] * 1e3:.1f} ms, "
        f"{min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f} ms"
    )
