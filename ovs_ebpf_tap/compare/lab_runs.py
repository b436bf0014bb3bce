"""Compares no mirror, Open vSwitch's and eBPF's on a switch, hosts and traffic of its own.

A host, in the role of a virtual machine, sends to another; a mirror copies what it sends to a
monitor. Totals are read at rest, before and after a run; rates and CPU time during it.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from ovs_ebpf_tap.compare.figures import (
    NATIVE,
    NONE,
    OFFLOADED,
    TC,
    Load,
    Metric,
    Reading,
    Result,
)
from ovs_ebpf_tap.compare.host import datapath_name, describe_devices, describe_host
from ovs_ebpf_tap.compare.metrics import COPIES, CPU, cpu_figures
from ovs_ebpf_tap.compare.readers import Cpu, counted_between, read_cpu
from ovs_ebpf_tap.compare.rounds import orders
from ovs_ebpf_tap.daemon.runtime import require_root
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.lab.frames import SEQUENCE_PORT
from ovs_ebpf_tap.lab.netns import CommandError, reap
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count, reap_pins
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.traffic import Flood, Stream, round_trips, tcp_load
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.observe.links import Statistics, list_devices, read_statistics
from ovs_ebpf_tap.util.quantiles import percentile
from ovs_ebpf_tap.util.signals import interruptible

_VARIANTS = (NONE, NATIVE, OFFLOADED)
_MODES = {NATIVE: "native", OFFLOADED: "offload"}
_MIRROR = "lab"

_TOOLS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "iperf3", "ping", "ethtool", "ip", "tc")

_WARM_UP = 0.2
"""Seconds of traffic before anything is read."""
_REST = 0.15
"""Seconds without a packet after which all is at rest."""
_DRAINED = 60.0
"""Seconds until the switch has drained its queues, which are deep here."""

_LATENCY_RATE = 5_000
_LATENCY_SIZE = 512
_PING_INTERVAL = 0.005

_LATENCY = "latency"
_PERCENTILES = (50, 90, 99)

_COPIES = {"copies_pps": "Copies", "missing": "Copies missing"}
_TRAFFIC = (
    Metric("sent_pps", "packets that the VM sent", "/s"),
    Metric("forwarded_pps", "packets forwarded", "/s", panel="Packets forwarded"),
    Metric("forwarded_bps", "bits forwarded", "Mbit/s", 1e-6, 1),
    Metric("lost", "packets of the VM that were lost"),
    *(replace(metric, panel=_COPIES.get(metric.key, "")) for metric in COPIES),
    # With as much as there can be the CPUs are busy; what a packet takes is what tells.
    *(replace(metric, panel=metric.panel if metric.unit == "ns" else "") for metric in CPU),
)
_TIMES = tuple(
    Metric(
        f"p{percent}",
        f"round trip of pings, {percent}th percentile",
        "us",
        1e6,
        panel="Round trip of pings",
        row=f"{percent}th percentile",
    )
    for percent in _PERCENTILES
)


@dataclass(frozen=True)
class _LabRuns:
    """`datapath` is None for the lab's usual one; `seconds` are of each run."""

    datapath: str | None
    seconds: float
    rounds: int
    variants: tuple[str, ...]


@dataclass(frozen=True)
class _Traffic:
    """A load, and how it is made for as long as a block lasts."""

    load: Load
    make: Callable[[Host, Host], contextlib.AbstractContextManager[object]]


def _flood(size: int) -> _Traffic:
    load = Load(f"udp-{size}", f"UDP, frames of {size} bytes, no limit", _TRAFFIC)
    return _Traffic(load, lambda vm, peer: Flood(vm, peer, size))


_LOADS = (
    _Traffic(Load("tcp", "TCP, iperf3, one connection", _TRAFFIC), tcp_load),
    *map(_flood, (64, 512, 1400)),
    _Traffic(
        Load(
            _LATENCY,
            f"pings beside UDP, {_LATENCY_RATE} frames/s of {_LATENCY_SIZE} bytes",
            # Its rate is given, so the rest would say little in a plot.
            (*_TIMES, *(replace(metric, panel="") for metric in _TRAFFIC)),
        ),
        lambda vm, peer: Stream(vm, peer, _LATENCY_RATE, _LATENCY_SIZE),
    ),
)


def _loads_of(number: int) -> tuple[_Traffic, ...]:
    """The loads, rotated by one each round: the first one suffers from the change of mode."""
    shift = number % len(_LOADS)
    return (*_LOADS[shift:], *_LOADS[:shift])


def compare(
    datapath: str | None,
    seconds: float,
    rounds: int,
    tell: Callable[[str], None],
    variants: tuple[str, ...] = _VARIANTS,
) -> Result:
    """Builds a lab, sends through it, and takes it down again.

    `datapath` is netdev or system, None for the lab's usual; `tell` is told of each run before it
    begins. Raises TapError.
    """
    require_root()
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise TapError(f"the lab needs {', '.join(missing)}: install the packages they are in")
    runs = _LabRuns(datapath, seconds, rounds, variants)
    with interruptible():
        reap()
        reap_pins()
        try:
            with Switch() as switch, _Lab(switch, runs) as lab:
                return lab.run(tell)
        except (
            CommandError,
            RuntimeError,
            AssertionError,
            OSError,
            subprocess.SubprocessError,
        ) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise TapError(f"the lab failed: {line}") from None


@dataclass(frozen=True)
class _LabSample:
    when: float
    devices: Mapping[str, Statistics]
    cpu: Cpu


class _Lab:
    """Two machines and a monitor at a switch, with a sidecar beside it."""

    def __init__(self, switch: Switch, runs: _LabRuns) -> None:
        self._switch = switch
        self._runs = runs
        self._resources = contextlib.ExitStack()
        self._hooks: list[str] = []

    def __enter__(self) -> _Lab:
        with contextlib.ExitStack() as stack:
            self._build(stack)
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def _build(self, stack: contextlib.ExitStack) -> None:
        switch = self._switch
        switch.add_bridge("br0", self._runs.datapath)
        self._vm, self._peer, self._monitor = map(switch.add_host, ("vm", "peer", "monitor"))
        for one, other in ((self._vm, self._peer), (self._peer, self._vm)):
            neighbour = (other.ip, "lladdr", other.mac, "dev", one.device, "nud", "permanent")
            one.ns.run("ip", "neigh", "replace", *neighbour)
        # Takes what is sent, so that the peer does not answer that nobody does.
        sink = stack.enter_context(self._peer.ns.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sink.bind((self._peer.ip, SEQUENCE_PORT))
        self._ports = [host.port for host in (self._vm, self._peer, self._monitor)]
        # A thread is in the namespace of the one that starts it.
        self._inside = stack.enter_context(ThreadPoolExecutor(1))
        devices = switch.ns.call(lambda: self._inside.submit(list_devices).result())
        self._devices = {device.name: device for device in devices}
        pid = switch.vswitchd_pid()
        if pid is None:
            raise TapError("the lab's ovs-vswitchd has ended")
        self._vswitchd = pid
        self._tap = stack.enter_context(SidecarProcess(switch))
        self._variant = NONE

    # Runs.

    def run(self, tell: Callable[[str], None]) -> Result:
        runs, readings = self._runs, []
        for number, order in enumerate(orders(runs.variants, runs.rounds)):
            for variant in order:
                tell(f"round {number + 1} of {runs.rounds}: {variant}")
                self._change(variant)
                readings += [self._read(number, variant, each) for each in _loads_of(number)]
        return self._result(tuple(readings))

    def _change(self, variant: str) -> None:
        """Removes what copies, and sets up the variant's mirror or filter."""
        self._end_copies()
        self._variant = variant
        if variant == TC:
            self._filter("add")
        elif variant != NONE:
            mode = {"ebpf-tap-mode": _MODES[variant]}
            self._switch.mirror(_MIRROR, src=[self._vm], output=self._monitor, external_ids=mode)
            self._tap.wait_settled(_MIRROR, variant)
        if variant == OFFLOADED:
            self._hooks = self._tap.status()[0]["hooks"]
        self._switch.learn(self._vm, self._peer)
        # Flows that are there do not notice that a mirror has come or gone.
        self._switch.appctl("revalidator/purge")

    def _end_copies(self) -> None:
        if self._variant == TC:
            self._filter("del")
        elif self._variant != NONE:
            self._switch.remove_mirror(_MIRROR)
            wait_for(lambda: not hook_count(self._switch), what="an end of the hooks")

    def _filter(self, command: str) -> None:
        """Adds or deletes (`del`) a tc filter that copies what the VM sends."""
        run, where = self._switch.ns.run, ("dev", self._vm.port)
        run("tc", "qdisc", command, *where, "clsact")
        if command == "add":
            match = ("protocol", "all", "u32", "match", "u32", "0", "0")
            action = ("action", "mirred", "egress", "mirror", "dev", self._monitor.port)
            run("tc", "filter", "add", *where, "ingress", *match, *action)

    def _read(self, number: int, variant: str, traffic: _Traffic) -> Reading:
        first = self._at_rest()
        trips: list[float] = []
        with traffic.make(self._vm, self._peer):
            time.sleep(patience(_WARM_UP))
            begin = self._look()
            if traffic.load.name == _LATENCY:
                count = max(1, round(self._runs.seconds / _PING_INTERVAL))
                trips = round_trips(self._vm, self._peer, count, _PING_INTERVAL)
            else:
                time.sleep(self._runs.seconds)
            end = self._look()
        last = self._at_rest()
        seconds, cpu = end.when - begin.when, end.cpu - begin.cpu
        during = counted_between(begin.devices, end.devices)
        altogether = counted_between(first, last)
        forwarded = [during[host.port] for host in (self._vm, self._peer)]
        packets = sum(each.tx_packets for each in forwarded)
        sent = altogether[self._vm.port].rx_packets
        copies = altogether[self._monitor.port].tx_packets
        copied = during[self._monitor.port].tx_packets / seconds
        values: dict[str, float | None] = {
            "sent_pps": during[self._vm.port].rx_packets / seconds,
            "forwarded_pps": packets / seconds,
            "forwarded_bps": sum(each.tx_bytes for each in forwarded) * 8 / seconds,
            "lost": max(0, sent - altogether[self._peer.port].tx_packets),
            "copies_pps": copied if variant != NONE else None,
            "missing": max(0, sent - copies) if variant != NONE else None,
            "extra": max(0, copies - sent) if variant != NONE else copies,
            **cpu_figures(cpu, seconds, packets),
            **{f"p{n}": percentile(trips, n) for n in _PERCENTILES if trips},
        }
        raw = {
            "devices": {name: asdict(each) for name, each in during.items()},
            "devices_altogether": {name: asdict(each) for name, each in altogether.items()},
            "cpu_seconds": asdict(cpu),
            "round_trips": trips,
        }
        return Reading(number, traffic.load.name, variant, seconds, values, raw)

    def _look(self) -> _LabSample:
        return _LabSample(time.monotonic(), self._statistics(), read_cpu(self._vswitchd))

    def _statistics(self) -> dict[str, Statistics]:
        def read() -> dict[str, Statistics]:
            return {p: read_statistics(self._devices[p].ifindex) for p in self._ports}

        return self._inside.submit(read).result()

    def _at_rest(self) -> dict[str, Statistics]:
        """The devices' counters, once they have stopped changing."""
        last, since = self._statistics(), time.monotonic()

        def rests() -> bool:
            nonlocal last, since
            now = self._statistics()
            if now != last:
                last, since = now, time.monotonic()
            return time.monotonic() - since >= patience(_REST)

        wait_for(rests, _DRAINED, "rest in the lab")
        return last

    # What was found.

    def _result(self, readings: tuple[Reading, ...]) -> Result:
        switch, runs = self._switch, self._runs
        datapath = switch.get("Bridge", "br0", "datapath_type")
        devices = [(port, "veth", self._devices[port].mtu) for port in self._ports]
        return Result(
            title="A lab: no mirror, Open vSwitch's, and eBPF's",
            about=(
                ("Mirror", "what a VM sends, copied to a monitor; it sends to a peer"),
                ("Rounds", f"{runs.rounds}, {runs.seconds:g} s a run"),
            ),
            host=(
                *describe_host(),
                ("Open vSwitch", switch.get("Open_vSwitch", ".", "ovs_version")),
                ("Datapath", datapath_name(datapath)),
                ("Devices", describe_devices(devices)),
                ("Hooks", ", ".join(self._hooks)),
            ),
            commands=(shlex.join(["ovs-ebpf-tap", *sys.argv[1:]]),),
            variants=runs.variants,
            loads=tuple(traffic.load for traffic in _LOADS),
            readings=readings,
        )
