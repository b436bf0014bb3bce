"""Moving a live mirror between Open vSwitch and the hooks, under traffic."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import Address, parse_seq, udp_frame
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import EMULATED, patience, wait_for
from ovs_ebpf_tap.util.quantiles import percentile
from talking import wait_revalidated

# Each way, of a mirror of a source port, for the published figures, and of others. An emulated
# machine takes seconds for one.
MOVES, FEWER_MOVES = (5, 5) if EMULATED else (50, 15)
RATE = 10_000
FLOWS = 2_000
BYSTANDER = 50
"""Frames to each host."""
SET_OUTPUT = ("set", "Mirror", "m", "output_port=@n")


@dataclass(frozen=True)
class Move:
    """When, in seconds, ovs-vsctl was started, had committed, and the move had ended."""

    asked: float
    committed: float
    ended: float

    def covers(self, when: float) -> bool:
        """Whether the move was under way."""
        return self.asked <= when <= self.ended


@pytest.mark.alone
@pytest.mark.parametrize(
    ("selected", "count"),
    [
        pytest.param("source", MOVES, marks=pytest.mark.vm, id="source"),
        pytest.param("destination", FEWER_MOVES, id="destination"),
        pytest.param("both", FEWER_MOVES, id="both"),
    ],
)
def test_no_copy_is_missing_over_many_moves(
    switch: Switch, tap: SidecarProcess, figure: Callable[[str], None], selected: str, count: int
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
            for _ in range(count):
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

    copied = Counter(number for _, number in seen)
    missing = passed - len(copied)
    times = defaultdict(list)
    for when, number in seen:
        times[number].append(when)
    doubled = sorted(when for whens in times.values() for when in whens[1:])
    every = [move for some in moves.values() for move in some]
    outside = [when for when in doubled if not any(move.covers(when) for move in every)]
    figure(f"{passed} frames, {missing} missing, {len(doubled)} doubled in {2 * count} moves")
    for state, some in moves.items():
        both = [(move, [when for when in doubled if move.covers(when)]) for move in some]
        first = [whens[0] - move.committed for move, whens in both if whens]
        last = [whens[-1] - move.committed for move, whens in both if whens]
        figure(f"to {state}: new kind's first copy {spread(first)}, old kind's last {spread(last)}")
    assert missing == 0
    assert outside == []
    assert max(copied.values()) <= 2


@pytest.mark.alone
def test_no_copy_is_missing_with_many_flows(
    switch: Switch, tap: SidecarProcess, figure: Callable[[str], None]
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
            while tap.state("m") != state or tap.is_moving():
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


@pytest.mark.parametrize("output", ["port", "former host", "vlan"])
def test_a_move_harms_no_bystander(
    switch: Switch, tap: SidecarProcess, figure: Callable[[str], None], output: str
) -> None:
    """No address is forgotten, so nobody is sent what is for others."""
    a, sender, monitor, *others = hosts = [switch.add_host(name) for name in "asmbcdef"]
    # Until it is the output port, then it gets copies alone.
    known = [*others, a, sender, *([monitor] if output == "former host" else [])]
    switch.learn(*known)
    if output == "vlan":
        switch.mirror("m", src=[a], output_vlan=99)
    else:
        switch.mirror("m", src=[a], output=monitor)
    tap.wait_state("m", "offloaded")
    frames = {host.mac: udp_frame(sender, host, b"") for host in known if host is not sender}
    strangers: dict[str, int] = {}
    for move in ("offload", "native", "offload again"):
        tap.set_mode("m", move.split()[0])
        tap.wait_settled("m", "native" if move == "native" else "offloaded")
        captures = [(host, host.capture()) for host in hosts if host is not sender]
        with contextlib.ExitStack() as listening:
            for _, capture in captures:
                listening.enter_context(capture)
            sender.send([frame for frame in frames.values() for _ in range(BYSTANDER)])
            for host, capture in captures:
                if host in others:
                    capture.wait_count(BYSTANDER)
                capture.wait_quiet(0.05)
        strangers[move] = sum(
            capture.multiset()[frame]
            for host, capture in captures
            for mac, frame in frames.items()
            if mac != host.mac
        )
        shown = switch.appctl("fdb/show", "br0")
        forgotten = [host.name for host in known if host.mac not in shown]
        figure(f"after {move}: {strangers[move]} frames also to others, forgotten {forgotten}")
    assert strangers == dict.fromkeys(strangers, 0)
    assert forgotten == []


def test_native_at_once(switch: Switch, tap: SidecarProcess) -> None:
    """A mirror becomes native while it is moved to hooks, beside running flows."""
    a, b, monitor = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    with Stream(a, b, rate=2_000):
        time.sleep(0.1)
        for after in (0.0, 0.005, 0.005, 0.01, 0.02) * 2:
            switch.mirror("m", src=[a], output=monitor)
            time.sleep(after)
            tap.set_mode("m", "native")
            tap.wait_settled("m", "native")
            with Capture.of(monitor) as copies:
                copies.wait_count(100)
            switch.remove_mirror("m")
            switch.appctl("revalidator/purge")


def test_another_output_is_reserved_for_running_flows(switch: Switch, tap: SidecarProcess) -> None:
    """Floods go to the former output port, and no more to the new one."""
    a, b, monitor, other = (switch.add_host(name, with_ip=False) for name in "abmn")
    switch.learn(b)
    switch.mirror("m", src=[a], output=monitor)
    tap.wait_state("m", "offloaded")
    nobody = Address("02:00:00:00:99:99", "10.99.99.99")

    def copies(stream: Stream) -> tuple[set[int], set[int]]:
        """How often each frame reaches the monitor, and the other one."""
        with Capture.of(monitor) as first, Capture.of(other) as second:
            time.sleep(patience(0.3))
        seen = [each.sequences(stream.stream_id) for each in (first, second)]
        # Captures begin and end one after the other.
        both = range(max(each[0] for each in seen) + 50, min(each[-1] for each in seen) - 50)
        assert both
        return tuple({Counter(each)[n] for n in both} for each in seen)  # type: ignore[return-value]

    with Stream(a, nobody, rate=1_000) as stream:
        wait_revalidated(switch)
        assert copies(stream) == ({1}, {1})
        with Capture.of(other) as seen:
            switch.vsctl("--id=@n", "get", "Port", other.port, "--", *SET_OUTPUT)
            wait_for(lambda: tap.status()[0]["output"] == other.port, what="another output")
            wait_for(lambda: not tap.is_moving(), what="rest")
            wait_revalidated(switch)
        assert seen.sequences(stream.stream_id)
        assert copies(stream) == ({1}, {1})
        switch.remove_mirror("m")
        wait_for(lambda: not tap.status() and not tap.is_moving(), what="rest")
        wait_revalidated(switch)
        assert copies(stream) == ({1}, {1})


def test_moves_that_overlap(switch: Switch, tap: SidecarProcess) -> None:
    """However many Open vSwitch sees of them at once, the last one holds for running flows."""
    a, b, monitor = (switch.add_host(name, with_ip=False) for name in "abm")
    switch.learn(a, b)
    switch.mirror("m", src=[a], output=monitor)
    with Capture.of(monitor) as copies, Stream(a, b, rate=2_000) as stream:
        for number in range(30):
            mode = "offload" if number % 2 else "native"
            switch.vsctl("--no-wait", "set", "Mirror", "m", f"external_ids:ebpf-tap-mode={mode}")
            time.sleep(number % 5 * 0.004)
        tap.wait_settled("m", "offloaded")
        time.sleep(patience(0.1))
        settled = copies.sequences(stream.stream_id)[-1]
        time.sleep(patience(0.2))
        tap.set_mode("m", "native")
        tap.wait_settled("m", "native")
        moved = copies.sequences(stream.stream_id)[-1]
        time.sleep(patience(0.2))
        sent = stream.stop()
        copies.wait_quiet()
        count = Counter(copies.sequences(stream.stream_id))
    assert moved > settled
    assert [number for number in range(settled, sent) if not count[number]] == []


def spread(seconds: list[float]) -> str:
    """Median and extremes in milliseconds."""
    if len(seconds) < 2:
        return "unseen"
    return (
        f"median {percentile(seconds, 50) * 1e3:.1f} ms, "
        f"99th {percentile(seconds, 99) * 1e3:.1f} ms, "
        f"{min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f} ms"
    )
