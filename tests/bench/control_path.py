"""How fast mirrors move to the hooks, and what the sidecar takes.

    python -m bench.control_path [--json] [--rounds N] ...

On a real switch, with the sidecar as a process of its own: first alone with one mirror, then
with many ports and mirrors. A commit is when the database tells of it. Which copy is the first of
our hooks is known by counting: they copy everything from then on, and the maps tell how many that
were.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from bench.mirror_log import MirrorLog, MirrorUpdate
from bench.results import MEDIAN, P99, WORST, Figure, as_json, as_table
from ovs_ebpf_tap.daemon import control
from ovs_ebpf_tap.daemon.runtime import Options, pinned_counters
from ovs_ebpf_tap.lab.capture import Capture, CaptureLossError
from ovs_ebpf_tap.lab.frames import parse_seq
from ovs_ebpf_tap.lab.netns import CommandError, Netns, reap
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, reap_pins
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.model.rows import MODE_KEY
from ovs_ebpf_tap.util.signals import interruptible

FIRST_COPY = {MEDIAN: 10.0, P99: 40.0}
"""Milliseconds from the commit to the first copy."""
COLD_START = {WORST: 3.0}
"""Seconds from the start of the process until all mirrors are offloaded, programs at hand."""
RESTART = {WORST: 1.0}
"""Seconds from the start of the process to `ready`, over mirrors that are offloaded."""
MEMORY_ONE = {WORST: 48.0}
MEMORY_MANY = {WORST: 96.0}
"""MiB resident."""
IDLE = {WORST: 0.2}
"""Percent of a core."""

RATE = 2_000
"""Frames a second: enough to see a copy within half a millisecond, and little work for OVS."""

_SETTLED = 2.0
"""Seconds after a start or a move in which its last work is done."""

_CALM = 0.02
"""Seconds that it runs in a second at most, when it has nothing to do."""

_BATCH = 100
_MIRROR = "measured"


@dataclass(frozen=True)
class Size:
    """How much is measured: moves of each kind, starts, seconds without traffic."""

    rounds: int
    starts: int
    idle: float
    ports: int
    mirrors: int
    options: tuple[str, ...] = ()
    """Of the sidecar."""


class ControlBench:
    """A switch where `a` sends to `b`, a mirror's output `monitor`, and the sidecar."""

    def __init__(
        self,
        switch: Switch,
        tap: SidecarProcess,
        log: MirrorLog,
        far: Netns,
        hosts: tuple[Host, Host, Host],
    ) -> None:
        """`far` is where the other ends of further ports are; `hosts` are a, b and monitor."""
        self._switch = switch
        self._far = far
        self._tap = tap
        self._log = log
        self._mirrors = 0
        self._a, self._b, self._monitor = hosts

    def add_ports(self, count: int) -> None:
        """Adds as many ports, each with a silent machine's device at its other end."""
        names = [f"p{number}" for number in range(count)]
        peer = f"peer netns {self._far.name} name"
        pairs = "".join(f"link add {name} type veth {peer} {name}\n" for name in names)
        ups = "".join(f"link set {name} up\n" for name in names)
        self._switch.ns.run("ip", "-batch", "-", stdin=pairs + ups)
        self._far.run("ip", "-batch", "-", stdin=ups)
        for first in range(0, count, _BATCH):
            words = (("--", "add-port", "br0", name) for name in names[first : first + _BATCH])
            self._switch.vsctl(*(word for some in words for word in some))

    def add_mirrors(self, count: int, ports: int) -> None:
        """Adds mirrors of one port each, both ways; some share an output."""
        outputs = max(1, ports // 16)
        self._mirrors = count
        for first in range(0, count, _BATCH):
            words: list[str] = []
            for number in range(first, min(first + _BATCH, count)):
                selected = f"p{number % (ports - outputs)}"
                output = f"p{ports - 1 - number % outputs}"
                words += [
                    *("--", f"--id=@s{number}", "get", "Port", selected),
                    *("--", f"--id=@o{number}", "get", "Port", output),
                    *("--", f"--id=@m{number}", "create", "Mirror", f"name=m{number}"),
                    f"select_src_port=@s{number}",
                    f"select_dst_port=@s{number}",
                    f"output_port=@o{number}",
                    *("--", "add", "Bridge", "br0", "mirrors", f"@m{number}"),
                ]
            self._switch.vsctl(*words)

    # Measurements.

    def create(self) -> float:
        """Milliseconds from the commit of a new mirror to its first copy."""
        taken = self._time_copy(self._add_measured, lambda _row: True)
        self._switch.remove_mirror(_MIRROR)
        return taken

    def flip(self) -> float:
        """Milliseconds from the commit of a mirror's mode to its first copy."""
        self._add_measured("native")
        self._log.wait_row(_MIRROR, 0, lambda row: row.settled)
        taken = self._time_copy(
            lambda: self._set_mode("Mirror", _MIRROR, "offload"),
            lambda row: row.external_ids[MODE_KEY] == "offload",
        )
        self._switch.remove_mirror(_MIRROR)
        return taken

    def _add_measured(self, mode: str = "offload") -> None:
        ids = {MODE_KEY: mode}
        self._switch.mirror(_MIRROR, src=[self._a], output=self._monitor, external_ids=ids)

    def _set_mode(self, table: str, record: str, mode: str) -> None:
        self._switch.vsctl("--no-wait", "set", table, record, f"external_ids:{MODE_KEY}={mode}")

    def _time_copy(
        self, change: Callable[[], object], committed: Callable[[MirrorUpdate], bool]
    ) -> float:
        with Capture.of(self._monitor) as copies:
            with Stream(self._a, self._b, rate=RATE) as stream:
                time.sleep(patience(0.05))
                asked = time.time()
                change()
                commit = self._log.wait_row(_MIRROR, asked, committed).told
                self._log.wait_row(_MIRROR, asked, lambda row: row.offloaded and row.settled)
                wait_for(self._count_copies, 30, "copies by our hooks")
            copies.wait_quiet()
            first = stream.sent - self._count_copies()
            for record in copies.records():
                if parse_seq(record.frame) == (stream.stream_id, first):
                    return (record.time_ns / 1e9 - commit) * 1e3
        raise RuntimeError(f"frame {first} of {stream.sent} was not copied, as it should have been")

    def _count_copies(self) -> int:
        """How many copies the hooks have made, without those of Open vSwitch."""
        uuid = UUID(self._switch.get("Mirror", _MIRROR, "_uuid"))
        counters = pinned_counters(Options(self._switch.db, pin_dir=self._tap.pin_dir))
        return counters[uuid].packets if uuid in counters else 0

    def cold_start(self) -> float:
        """Seconds from the start of the sidecar until all mirrors are offloaded."""
        self._set_mode("Open_vSwitch", ".", "native")
        self._log.wait_all(self._mirrors, lambda row: row.settled and not row.offloaded)
        wait_for(lambda: self._no_hooks, 30, "mirrors without hooks")
        self._tap.stop()
        self._switch.vsctl("--no-wait", "remove", "Open_vSwitch", ".", "external_ids", MODE_KEY)
        started = time.time()
        self._tap.start(ready=False)
        return self._log.wait_all(self._mirrors, lambda row: row.offloaded) - started

    @property
    def _no_hooks(self) -> bool:
        return "tcx" not in (status := control.call(self._tap.run_dir, "status") or "tcx") and (
            "clsact" not in status
        )

    def restart(self) -> float:
        """Seconds from the start of the sidecar until it is ready, over offloaded mirrors."""
        self._log.wait_all(self._mirrors, lambda row: row.offloaded and row.settled)
        self._tap.stop()
        started = time.monotonic()
        self._tap.start()
        return time.monotonic() - started

    def memory(self) -> float:
        """MiB that the sidecar has resident."""
        (line,) = (line for line in self._proc("status").splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def idle(self, seconds: float) -> float:
        """Percent of a core that the sidecar takes in that time, without traffic."""
        time.sleep(_SETTLED)
        # Hooks get programs of their own one after the other.
        wait_for(self._is_calm, 120, "a sidecar that has nothing to do")
        started, before = time.monotonic(), self._cpu_time()
        time.sleep(seconds)
        return (self._cpu_time() - before) / (time.monotonic() - started) * 100

    def _is_calm(self) -> bool:
        before = self._cpu_time()
        time.sleep(1)
        return self._cpu_time() - before < _CALM

    def _cpu_time(self) -> float:
        """Seconds that the sidecar, which has one thread, has run."""
        return int(self._proc("schedstat").split()[0]) / 1e9

    def _proc(self, name: str) -> str:
        assert self._tap.process is not None
        return Path(f"/proc/{self._tap.process.pid}/{name}").read_text()

    @contextlib.contextmanager
    def one_mirror(self) -> Iterator[None]:
        """The measured mirror, offloaded."""
        self._add_measured()
        self._log.wait_row(_MIRROR, 0, lambda row: row.offloaded and row.settled)
        yield
        self._switch.remove_mirror(_MIRROR)


@contextlib.contextmanager
def _bench(options: tuple[str, ...]) -> Iterator[ControlBench]:
    with Switch("bench") as switch, Netns("far") as far:
        switch.add_bridge()
        with SidecarProcess(switch, *options) as tap, MirrorLog(switch.db) as log:
            # They answer nothing, so that there is no traffic but ours.
            a, b, monitor = (switch.add_host(name, with_ip=False) for name in ("a", "b", "monitor"))
            switch.learn(a, b)
            yield ControlBench(switch, tap, log, far, (a, b, monitor))


def measure(size: Size, say: Callable[[str], None]) -> list[Figure]:
    """Measures everything. Raises what the lab raises."""
    return [*_measure_alone(size, say), *_measure_many(size, say)]


def _measure_alone(size: Size, say: Callable[[str], None]) -> Iterator[Figure]:
    with _bench(size.options) as bench:
        yield from _first_copies(bench, size, "alone", say)
        say("memory and idle CPU with one mirror")
        with bench.one_mirror():
            idle = [bench.idle(size.idle)]
            yield Figure("resident memory, one mirror", "MiB", [bench.memory()], MEMORY_ONE)
            yield Figure("idle CPU, one mirror", "% of a core", idle, IDLE)


def _measure_many(size: Size, say: Callable[[str], None]) -> Iterator[Figure]:
    where = f"{size.ports} ports, {size.mirrors} mirrors"
    with _bench(size.options) as bench:
        say(f"making {where}")
        bench.add_ports(size.ports)
        bench.add_mirrors(size.mirrors, size.ports)
        say("starts")
        cold = [bench.cold_start() for _ in range(size.starts)]
        yield Figure(f"cold start until {size.mirrors} are offloaded", "s", cold, COLD_START)
        restarts = [bench.restart() for _ in range(size.starts)]
        yield Figure(f"restart over {size.mirrors} until ready", "s", restarts, RESTART)
        say("idle CPU")
        yield Figure(f"idle CPU, {where}", "% of a core", [bench.idle(size.idle)], IDLE)
        yield from _first_copies(bench, size, f"beside {where}", say)
        yield Figure(f"resident memory, {where}", "MiB", [bench.memory()], MEMORY_MANY)


def _first_copies(
    bench: ControlBench, size: Size, where: str, say: Callable[[str], None]
) -> Iterator[Figure]:
    for what, once in (("mirror created", bench.create), ("mode set", bench.flip)):
        say(f"{what} to first copy, {where}")
        times = [once() for _ in range(size.rounds)]
        yield Figure(f"{what} to first copy, {where}", "ms", times, FIRST_COPY)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench control",
        description="Measures the time from a change of a mirror to its first copy, and the "
        "sidecar's start, memory and CPU time.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--rounds", type=int, default=100, help="moves of each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--starts", type=int, default=5, help="starts of each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--idle", type=float, default=60.0, help="seconds at rest (default: %(default)s)"
    )
    parser.add_argument("--ports", type=int, default=1000, help="ports of the large switch")
    parser.add_argument("--mirrors", type=int, default=256, help="mirrors of the large switch")
    parser.add_argument(
        "--fast-attach", action="store_true", help="run the sidecar with --fast-attach"
    )
    arguments = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("bench: root is needed", file=sys.stderr)
        return 1
    size = Size(
        rounds=arguments.rounds,
        starts=arguments.starts,
        idle=arguments.idle,
        ports=arguments.ports,
        mirrors=arguments.mirrors,
        options=("--fast-attach",) if arguments.fast_attach else (),
    )
    try:
        with interruptible(lambda number: SystemExit(128 + number)):
            reap()
            reap_pins()
            figures = measure(
                size, lambda text: print(f"bench: {text}", file=sys.stderr, flush=True)
            )
    except (
        CommandError,
        CaptureLossError,
        OSError,
        RuntimeError,
        subprocess.TimeoutExpired,
    ) as error:
        print(f"bench: failed: {error}", file=sys.stderr)
        return 1
    print(as_json(figures) if arguments.json else as_table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
