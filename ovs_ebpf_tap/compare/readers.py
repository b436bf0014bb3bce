"""Reads what the kernel counts: devices' packets, copies of programs, CPU time."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from ovs_ebpf_tap.apply.datapath import Datapath
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.compare.counting import Account, Edge, account
from ovs_ebpf_tap.compare.mirror_counters import RX, Meter, MirrorCounters
from ovs_ebpf_tap.ebpf import programs
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.observe import ethtool
from ovs_ebpf_tap.observe.devices import DeviceMonitor
from ovs_ebpf_tap.observe.links import Statistics, read_statistics

_UNDER_WAY = 0.05
"""Seconds within which an arrived packet is copied, by programs or by Open vSwitch."""

_HEADERS = 22  # bytes: Ethernet's, and two VLAN tags' beside the MTU
_TICK = 1 / os.sysconf("SC_CLK_TCK")

# Of the fields of `/proc/stat`: user, nice, system, irq, softirq; guests' time is in user's.
_BUSY = (0, 1, 2, 5, 6)
_SOFTIRQ = 6


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU time, of all CPUs together: of ovs-vswitchd, in softirqs, of all that ran."""

    vswitchd: float
    softirq: float
    host: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(
            self.vswitchd - other.vswitchd, self.softirq - other.softirq, self.host - other.host
        )


def read_cpu(vswitchd: int) -> Cpu:
    """The CPU time until now; `vswitchd` is a process id. Raises TapError if it is gone."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    ticks = [int(each) for each in fields]
    try:
        # The clock of a process with all its threads, in ns: clock_getcpuclockid(3).
        own = time.clock_gettime(~vswitchd << 3 | 2)
    except OSError:
        raise TapError("ovs-vswitchd has ended") from None
    return Cpu(own, ticks[_SOFTIRQ] * _TICK, sum(ticks[i] for i in _BUSY) * _TICK)


def is_vswitchd(pid: int) -> bool:
    """Whether the process is an ovs-vswitchd: a pid file may be of another pid namespace."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    # Of one that is not installed, the first word may be the dynamic loader.
    return any(word.rpartition(b"/")[2] == b"ovs-vswitchd" for word in words)


@dataclass(frozen=True)
class Sample:
    """What was read at one end of a run."""

    when: float
    devices: Mapping[str, Statistics]
    programs: Counters
    cpu: Cpu
    copies: Edge


@dataclass(frozen=True)
class Span:
    """What was counted between two ends of a run, of a mirror."""

    seconds: float
    counters: MirrorCounters
    devices: Mapping[str, Statistics]
    programs: Counters
    cpu: Cpu
    account: Account

    def packets(self, meters: Iterable[Meter]) -> int:
        """How many packets the counters together have counted."""
        return self._count(meters, "packets")

    def bytes(self, meters: Iterable[Meter]) -> int:
        """How many bytes the counters together have counted."""
        return self._count(meters, "bytes")

    def _count(self, meters: Iterable[Meter], what: str) -> int:
        """The sum over the meters; devices that came or went during the run are left out."""
        there = (m for m in meters if m.device in self.devices)
        return sum(getattr(self.devices[m.device], f"{m.side}_{what}") for m in there)

    @property
    def drops(self) -> int:
        """What the mirror's devices, and its programs, have dropped."""
        counters = self.counters
        meters = {*counters.sources, *counters.destinations, *counters.outputs}
        return self._count(meters, "dropped") + self.programs.drops

    def raw(self) -> dict[str, Any]:
        """All members as plain data for JSON."""
        return {
            "devices": {name: asdict(each) for name, each in self.devices.items()},
            "programs": asdict(self.programs),
            "cpu_seconds": asdict(self.cpu),
            "copies": asdict(self.account),
        }


class Kernel:
    """What the kernel tells of a mirror, in the network namespace of the caller."""

    def __init__(self, mirror: UUID, monitor: DeviceMonitor, datapath: Datapath) -> None:
        self._mirror = mirror
        self._monitor = monitor
        self._datapath = datapath

    @property
    def devices(self) -> Mapping[str, Device]:
        """The devices there are."""
        self._monitor.refresh()
        return self._monitor.devices

    def hooks(self) -> dict[str, str]:
        """The hooks that copy for the mirror, as `device:direction`, and their kinds."""
        self._datapath.read()
        names = {device.ifindex: device.name for device in self.devices.values()}
        return {
            f"{names.get(hook.ifindex, hook.ifindex)}:{hook.direction}": kind
            for hook, kind in self._datapath.attached.items()
            if any(rule.mirror == self._mirror for rule in self._datapath.rules.get(hook, ()))
        }

    def statistics(self, meter: Meter) -> Statistics:
        """What its device has counted. Raises TapError if it is gone."""
        try:
            return read_statistics(meter.ifindex)
        except OSError as error:
            raise TapError(f"device {meter.device}: {error.strerror}") from None

    def look(self, counters: MirrorCounters, vswitchd: int) -> Sample:
        """Reads all counters, which takes `_UNDER_WAY` and a little. Raises TapError."""
        early = self._copies(counters)
        meters = {
            *counters.sources,
            *counters.destinations,
            *counters.outputs,
            *(counters.due or ()),
        }
        devices = {m.device: self.statistics(m) for m in meters}
        due = sum(getattr(devices[m.device], f"{m.side}_packets") for m in counters.due or ())
        counted = self._datapath.counters().get(self._mirror, Counters())
        for meter in counters.switch:
            if meter.device not in devices:
                with contextlib.suppress(TapError):  # It went away.
                    devices[meter.device] = self.statistics(meter)
        when, cpu = time.monotonic(), read_cpu(vswitchd)
        time.sleep(_UNDER_WAY)
        edge = Edge(early, due, self._copies(counters))
        return Sample(when, devices, counted, cpu, edge)

    def _copies(self, counters: MirrorCounters) -> int:
        copies = sum(getattr(self.statistics(m), f"{m.side}_packets") for m in counters.outputs)
        if counters.internal_output:
            copies += self._datapath.counters().get(self._mirror, Counters()).packets
        return int(copies)


@contextlib.contextmanager
def open_kernel(pin_dir: Path, mirror: UUID) -> Iterator[Kernel]:
    """Opens what is pinned, for the block's time.

    Raises TapError if the sidecar's programs are not to be found.
    """
    opened = programs.open_programs(pin_dir)
    if opened is None:
        raise TapError(
            f"no programs of this version in {pin_dir}: is it the running sidecar's --pin-dir?"
        )
    with (
        contextlib.closing(opened),
        contextlib.closing(DeviceMonitor.open()) as monitor,
        contextlib.closing(TrafficControl.open()) as traffic_control,
    ):
        yield Kernel(mirror, monitor, Datapath.open(pin_dir, monitor, traffic_control, opened))


def counted_between(
    begin: Mapping[str, Statistics], end: Mapping[str, Statistics]
) -> dict[str, Statistics]:
    """What devices have counted in between, those that were there at both ends.

    Raises TapError if a counter began anew.
    """
    devices = {}
    for name in begin.keys() & end.keys():
        before, after = begin[name], end[name]
        counted = {
            key: value - getattr(before, key)
            for key, value in asdict(after).items()
            if isinstance(value, int)
        }
        if min(counted.values()) < 0:
            raise TapError(f"device {name} was replaced while it was read")
        devices[name] = Statistics(kind=after.kind, **counted)
    return devices


def between(counters: MirrorCounters, begin: Sample, end: Sample) -> Span:
    """What was counted in between. Raises TapError if a counter began anew."""
    devices = counted_between(begin.devices, end.devices)
    copied = {key: n - getattr(begin.programs, key) for key, n in asdict(end.programs).items()}
    return Span(
        seconds=end.when - begin.when,
        counters=counters,
        devices=devices,
        programs=Counters(**copied),
        cpu=end.cpu - begin.cpu,
        account=account(begin.copies, end.copies),
    )


def may_count_otherwise(span: Span, devices: Mapping[str, Device]) -> bool:
    """Whether packets due may be counted in other units than copies: as super-packets.

    What is one packet of up to 64 KB to a virtual device is many to a wire, and the kernel joins
    what came by a wire (GRO) after the device has counted it.
    """
    for meter in span.counters.due or ():
        packets, length = span.packets([meter]), span.bytes([meter])
        longest = devices[meter.device].mtu + _HEADERS if meter.device in devices else 0
        if packets and length / packets > longest:
            return True
        if meter.side == RX and ethtool.has_gro(meter.device):
            return True
    return False
