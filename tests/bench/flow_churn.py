"""What the sidecar takes, and how soon it acts, while a controller rewrites flows.

    python -m bench.flow_churn [--json] [--seconds N] ...

On a real switch with a pipeline as OVN's and an offloaded mirror of both directions of a port. A
thread replaces flows: learned addresses, which all do the same, and ports that come and go, which
do not. Meanwhile the mirror has to stay offloaded, until a flow sends to its port twice.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.mirror_log import MirrorLog, MirrorUpdate
from bench.results import WORST, Figure, as_json, as_table
from ovs_ebpf_tap.lab.netns import CommandError, reap
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, reap_pins
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.model.rows import REASON_KEY, STATE_KEY
from ovs_ebpf_tap.util.signals import interruptible
from rewriting import KINDS, Rewriter, add_groups, groups, install, pipeline, repeating
from talking import add_trio

CHURN_CPU = {WORST: 5.0}
"""Percent of a core."""
REST_CPU = {WORST: 0.2}
MOVES = {WORST: 0.5}
"""Changes of the row's state or reason: none."""
NATIVE = {WORST: 1.0}
"""Seconds from the flow's commit until the row says native."""

_MIRROR = "m1"
_CALM = 1.0
"""Percent of a core that the sidecar takes at most when the work after a move is done."""


class ChurnBench:
    """A switch, its sidecar, and the row of an offloaded mirror."""

    def __init__(self, switch: Switch, tap: SidecarProcess, log: MirrorLog, port: int) -> None:
        """`port` is the mirrored one, whose key in the pipeline is 1."""
        self._switch = switch
        self._tap = tap
        self._log = log
        self._repeating = repeating(1, port)

    def cpu(self, seconds: float) -> float:
        """Percent of a core that the sidecar takes in that time."""
        started, before = time.monotonic(), self._cpu_time()
        time.sleep(seconds)
        return (self._cpu_time() - before) / (time.monotonic() - started) * 100

    def wait_calm(self) -> None:
        """Waits until it has nothing to do: hooks get programs of their own some time later."""
        wait_for(lambda: self.cpu(1) < _CALM, 120, "a sidecar that has nothing to do")

    def _cpu_time(self) -> float:
        """Seconds that the sidecar, which has one thread, has run."""
        assert self._tap.process is not None
        return int(Path(f"/proc/{self._tap.process.pid}/schedstat").read_text().split()[0]) / 1e9

    def moves(self, since: float) -> int:
        """How many times the row's state or reason has changed since then."""
        told = [row for row in self._log.told if row.name == _MIRROR]
        before = [row for row in told if row.told < since][-1:]
        shown = [_shown(row) for row in (*before, *(row for row in told if row.told >= since))]
        return sum(one != other for one, other in itertools.pairwise(shown))

    def native(self) -> float:
        """Seconds from a flow that sends to the port twice until the mirror is native."""
        asked = time.time()
        install(self._switch, [self._repeating])
        row = self._log.wait_row(_MIRROR, asked, lambda row: not row.offloaded)
        match = self._repeating.partition(",actions=")[0]
        back = time.time()
        self._switch.ofctl("--strict", "del-flows", "br0", match)
        self._log.wait_row(_MIRROR, back, lambda row: row.offloaded and row.settled)
        return row.told - asked


def _shown(row: MirrorUpdate) -> tuple[str | None, ...]:
    return tuple(row.external_ids.get(key) for key in (STATE_KEY, REASON_KEY))


@contextlib.contextmanager
def _bench(flows: int, say: Callable[[str], None]) -> Iterator[tuple[Switch, ChurnBench]]:
    with Switch("bench") as switch:
        switch.add_bridge()
        a, b, m = add_trio(switch)
        switch.ofctl("del-flows", "br0")
        add_groups(switch, groups())
        made = pipeline(switch, (a, b, m), elsewhere=flows // 20, more=flows * 4 // 5)
        install(switch, made)
        say(f"{len(made)} flows")
        with SidecarProcess(switch) as tap, MirrorLog(switch.db) as log:
            log.wait_row(_MIRROR, 0, lambda row: row.offloaded and row.settled)
            yield switch, ChurnBench(switch, tap, log, switch.ofport(a))


def measure(
    seconds: float, rounds: int, rate: int, flows: int, say: Callable[[str], None]
) -> Iterator[Figure]:
    """Measures everything. Raises what the lab raises."""
    with _bench(flows, say) as (switch, bench):
        bench.wait_calm()
        yield Figure("CPU at rest", "% of a core", [bench.cpu(seconds)], REST_CPU)
        yield Figure("native, at rest", "s", [bench.native() for _ in range(rounds)], NATIVE)
        for kind, rewritten in KINDS.items():
            for bundle in (True, False):
                how = f"{kind}, {'bundles' if bundle else 'one by one'}"
                say(how)
                bench.wait_calm()
                with Rewriter(switch, rewritten(), rate, bundle=bundle) as rewriter:
                    began, replaced = time.time(), rewriter.replaced
                    cpu = bench.cpu(seconds)
                    moves = bench.moves(began)
                    reached = (rewriter.replaced - replaced) / (time.time() - began)
                    say(f"{reached:.0f} flows a second")
                    yield Figure(f"CPU, {how}", "% of a core", [cpu], CHURN_CPU)
                    yield Figure(f"moves, {how}", "", [moves], MOVES)
                    native = [bench.native() for _ in range(rounds)]
                    yield Figure(f"native, {how}", "s", native, NATIVE)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench churn",
        description="Measures the sidecar's CPU time, and the time until it acts, while a "
        "controller rewrites flows.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="time of each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="moves to native of each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--rate", type=int, default=1000, help="flows replaced a second (default: %(default)s)"
    )
    parser.add_argument(
        "--flows", type=int, default=4000, help="flows of the pipeline (default: %(default)s)"
    )
    given = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("bench: root is needed", file=sys.stderr)
        return 1
    try:
        with interruptible(lambda number: SystemExit(128 + number)):
            reap()
            reap_pins()
            figures = list(
                measure(
                    given.seconds,
                    given.rounds,
                    given.rate,
                    given.flows,
                    lambda text: print(f"bench: {text}", file=sys.stderr, flush=True),
                )
            )
    except (CommandError, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"bench: failed: {error}", file=sys.stderr)
        return 1
    print(as_json(figures) if given.json else as_table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
