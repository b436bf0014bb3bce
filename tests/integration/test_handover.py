"""Moving a live mirror between Open vSwitch and the hooks, under traffic."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

from ovs_ebpf_tap.lab.frames import parse_seq
from ovs_ebpf_tap.lab.sidecar import Tap
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.traffic import Stream

MOVES = 50
RATE = 10_000


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
    moves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with Capture.of(monitor) as copies:
        with Stream(a, b, rate=RATE) as stream:
            time.sleep(0.3)
            for _ in range(MOVES):
                for mode, state in (("native", "native"), ("offload", "offloaded")):
                    switch.vsctl(
                        "--no-wait", "set", "Mirror", "m", f"external_ids:ebpf-tap-mode={mode}"
                    )
                    begin = time.time()
                    tap.wait_state("m", state)
                    time.sleep(0.05)
                    moves[state].append((begin, time.time()))
        copies.wait_quiet()
        seen = [
            (r.time_ns / 1e9, found[1]) for r in copies.records() if (found := parse_seq(r.frame))
        ]

    count = Counter(number for _, number in seen)
    missing = stream.sent - len(count)
    times = defaultdict(list)
    for when, number in seen:
        times[number].append(when)
    doubled = sorted(when for whens in times.values() for when in whens[1:])
    extra_outside = [
        when
        for when in doubled
        if not any(begin - 0.05 <= when <= end for each in moves.values() for begin, end in each)
    ]
    figure(f"{stream.sent} frames, {missing} missing, {len(doubled)} doubled in {2 * MOVES} moves")
    for state, windows in moves.items():
        inside = [[w for w in doubled if begin - 0.05 <= w <= end] for begin, end in windows]
        first = [each[0] - begin for each, (begin, _) in zip(inside, windows, strict=True) if each]
        last = [each[-1] - begin for each, (begin, _) in zip(inside, windows, strict=True) if each]
        figure(f"to {state}: new kind's first copy {spread(first)}, old kind's last {spread(last)}")
    assert missing == 0
    assert extra_outside == []
    assert max(count.values()) <= 2


def spread(seconds: list[float]) -> str:
    """Median and extremes in milliseconds."""
    if len(seconds) < 2:
        return "unseen"
    cut = statistics.quantiles(seconds, n=100, method="inclusive")
    return (
        f"median {cut[49] * 1e3:.1f} ms, 99th {cut[98] * 1e3:.1f} ms, "
        f"{min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f} ms"
    )
