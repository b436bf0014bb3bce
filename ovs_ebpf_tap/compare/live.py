"""Compares both ways of a mirror on a running switch, with the traffic that there is."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ovs_ebpf_tap.compare.figures import NATIVE, OFFLOADED, Load, Metric, Reading, Result
from ovs_ebpf_tap.compare.host import datapath_name, describe_devices, describe_host
from ovs_ebpf_tap.compare.metrics import COPIES, CPU, cpu_figures
from ovs_ebpf_tap.compare.mirror_counters import Meter, MirrorCounters, find_counters
from ovs_ebpf_tap.compare.mode_switcher import ModeSwitcher, bridge_of
from ovs_ebpf_tap.compare.readers import (
    Kernel,
    Span,
    between,
    is_vswitchd,
    may_count_otherwise,
    open_kernel,
)
from ovs_ebpf_tap.compare.rounds import orders
from ovs_ebpf_tap.daemon import control
from ovs_ebpf_tap.daemon.runtime import Options, require_root
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.observe.ovsdb import ovs_run_dir
from ovs_ebpf_tap.observe.vswitchd import read_pid
from ovs_ebpf_tap.util.signals import EndingSignals
from ovs_ebpf_tap.util.text import printable

LOAD = Load(
    "live",
    "the traffic that there was",
    (
        Metric("switch_pps", "packets into the switch", "/s", 1, 0, "Packets", "into the switch"),
        Metric("source_pps", "packets in by source ports", "/s"),
        Metric("source_bps", "bits in by source ports", "Mbit/s", 1e-6, 2),
        Metric("destination_pps", "packets out by destination ports", "/s"),
        Metric("destination_bps", "bits out by destination ports", "Mbit/s", 1e-6, 2),
        Metric("due_pps", "copies due", "/s"),
        *COPIES,
        Metric("uncertain", "copies made while it was read"),
        Metric("drops", "packets and copies dropped"),
        *CPU,
    ),
)

_SUPER_PACKETS = (
    "packets may be joined or cut on their way (GRO, GSO), so that devices count them differently"
)


@dataclass(frozen=True)
class LiveRuns:
    """The mirror to compare, in how many rounds, and for how many seconds a run."""

    mirror: str
    seconds: float
    rounds: int


def compare(options: Options, runs: LiveRuns, tell: Callable[[str], None]) -> Result:
    """Switches the mirror's mode round by round, and reads counters in each mode.

    The mode is as before when this returns. `tell` is called with a line before each run. Raises
    TapError.
    """
    require_root()
    if not control.is_running(options.run_dir):
        raise TapError(
            f"no sidecar runs with run directory {options.run_dir}: start ovs-ebpf-tap run first"
        )
    with (
        EndingSignals() as signals,
        _mode_given_back(options, runs, signals) as switcher,
        open_kernel(options.pin_dir, switcher.uuid) as kernel,
    ):
        vswitchd = _find_vswitchd(ovs_run_dir(options.ovsdb))
        counters = _find_counters(switcher, kernel)
        comparison = _Comparison(runs, switcher, kernel, signals, vswitchd, counters)
        return comparison.run(tell)


@contextlib.contextmanager
def _mode_given_back(
    options: Options, runs: LiveRuns, signals: EndingSignals
) -> Iterator[ModeSwitcher]:
    """Switches the mirror's mode, and gives back at the end the one that it had."""
    switcher = ModeSwitcher.open(options, runs.mirror, signals)
    try:
        yield switcher
    except TapError as error:
        raise TapError(f"{error}; {_restore(switcher)}") from None
    except BaseException:
        _restore(switcher)
        raise
    else:
        switcher.restore()
    finally:
        switcher.close()


def _restore(switcher: ModeSwitcher) -> str:
    """Restores the mode; returns the end of an error message: whether that succeeded."""
    try:
        switcher.restore()
    except TapError as error:
        return str(error)
    return "the mirror's mode is as it was"


class _Comparison:
    """One comparison, under way."""

    def __init__(
        self,
        runs: LiveRuns,
        switcher: ModeSwitcher,
        kernel: Kernel,
        signals: EndingSignals,
        vswitchd: int,
        counters: MirrorCounters,
    ) -> None:
        """`vswitchd` is a process id; `counters` are the mirror's as it begins."""
        self._runs = runs
        self._switcher = switcher
        self._kernel = kernel
        self._signals = signals
        self._vswitchd = vswitchd
        self._counters = counters
        self._super_packets = False
        self._proven = False
        """Whether eBPF's copies have always been as many as the counters say are due."""
        self._hooks: dict[str, str] = {}

    def run(self, tell: Callable[[str], None]) -> Result:
        runs, spans = self._runs, []
        for number, order in enumerate(orders((OFFLOADED, NATIVE), runs.rounds)):
            for variant in order:
                tell(f"round {number + 1} of {runs.rounds}: {variant}")
                spans.append((number, variant, self._read(variant)))
        self._proven = all(span.account.exact for _, made_by, span in spans if made_by == OFFLOADED)
        return self._result(tuple(self._reading(*each) for each in spans))

    def _read(self, variant: str) -> Span:
        self._switcher.move(variant, lambda: bool(self._kernel.hooks()))
        counters = _find_counters(self._switcher, self._kernel)
        if not counters.same_mirror(self._counters):
            raise TapError(
                f"mirror {self._switcher.name}, or a device of it, was changed meanwhile"
            )
        self._counters = counters
        self._hooks = self._kernel.hooks() or self._hooks
        begin = self._kernel.look(self._counters, self._vswitchd)
        self._signals.sleep(self._runs.seconds)
        end = self._kernel.look(self._counters, self._vswitchd)
        self._switcher.check_still(variant)
        return between(self._counters, begin, end)

    def _reading(self, number: int, variant: str, span: Span) -> Reading:
        return Reading(number, LOAD.name, variant, span.seconds, self._figures(span), span.raw())

    def _figures(self, span: Span) -> dict[str, float | None]:
        counters, account = span.counters, span.account
        known = self._is_known(span)
        counted = bool(counters.outputs)
        return {
            **_rates("switch", span, counters.switch),
            **_rates("source", span, counters.sources),
            **_rates("destination", span, counters.destinations),
            "due_pps": account.due / span.seconds if known else None,
            "copies_pps": account.copies / span.seconds if counted else None,
            "missing": account.missing if known else None,
            "extra": account.extra if known else None,
            "uncertain": account.uncertain if counted else None,
            "drops": span.drops,
            **cpu_figures(span.cpu, span.seconds, span.packets(counters.switch)),
        }

    def _is_known(self, span: Span) -> bool:
        """Whether it is known how many copies were due.

        It is if the copies are as many. Open vSwitch may make surplus ones: counters that may be
        inexact are used of its copies, too, if eBPF's were as many in every round.
        """
        if span.counters.due is None:
            return False
        if span.account.exact:
            return True
        self._super_packets |= may_count_otherwise(span, self._kernel.devices)
        return (self._proven or span.counters.doubt is None) and not self._super_packets

    def _result(self, readings: tuple[Reading, ...]) -> Result:
        db, mirror = self._switcher.db, self._switcher.mirror
        bridge = bridge_of(db, mirror)
        counters = self._counters
        return Result(
            title=f"Mirror {self._switcher.name}: eBPF beside Open vSwitch",
            about=_in_lines(
                ("Mirror", f"{self._switcher.name} ({mirror.uuid}) on bridge {bridge.name}"),
                ("Source ports' devices", self._devices(counters.sources)),
                ("Destination ports' devices", self._devices(counters.destinations)),
                ("Output port's device", self._devices(counters.outputs)),
                ("Rounds", f"{self._runs.rounds}, {self._runs.seconds:g} s each way"),
            ),
            host=_in_lines(
                *describe_host(),
                ("Open vSwitch", db.ovs_version or "version not known"),
                ("Datapath", datapath_name(bridge.datapath_type)),
                ("Hooks", ", ".join(f"{at} ({kind})" for at, kind in self._hooks.items())),
            ),
            commands=(shlex.join(["ovs-ebpf-tap", *sys.argv[1:]]),),
            variants=(NATIVE, OFFLOADED),
            loads=(LOAD,),
            readings=readings,
            unknown=tuple(self._unknown(readings)),
            notes=tuple(_notes(readings, db.ovs_version)),
        )

    def _unknown(self, readings: tuple[Reading, ...]) -> Iterator[str]:
        if not self._counters.outputs:
            yield "copies: they leave with other packets of the output_vlan"
        if any(each.values["missing"] is None for each in readings):
            why = [self._counters.doubt, _SUPER_PACKETS if self._super_packets else None]
            yield printable("copies missing or extra: " + "; ".join(filter(None, why)))

    def _devices(self, meters: tuple[Meter, ...]) -> str:
        devices = self._kernel.devices
        described = describe_devices(
            (m.device, self._kernel.statistics(m).kind, devices[m.device].mtu) for m in meters
        )
        return described or "none"


def _notes(readings: Iterable[Reading], ovs_version: str | None) -> Iterator[str]:
    """What to mind unless Open vSwitch is known to have made no surplus copies."""
    if any(each.values["extra"] != 0 for each in readings if each.variant == NATIVE):
        yield printable(
            f"Open vSwitch {ovs_version or '(version not known)'} may make surplus copies of "
            "packets that flows change or recirculate, and by balance-tcp bonds; eBPF makes none"
        )


def _in_lines(*pairs: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """The pairs with names that users chose made fit for one line."""
    return tuple((what, printable(how)) for what, how in pairs)


def _rates(name: str, span: Span, meters: tuple[Meter, ...]) -> dict[str, float | None]:
    """Packets and bits a second; not known without a counter."""
    if not meters:
        return {f"{name}_pps": None, f"{name}_bps": None}
    return {
        f"{name}_pps": span.packets(meters) / span.seconds,
        f"{name}_bps": span.bytes(meters) * 8 / span.seconds,
    }


def _find_counters(switcher: ModeSwitcher, kernel: Kernel) -> MirrorCounters:
    db, mirror = switcher.db, switcher.mirror
    return find_counters(db, bridge_of(db, mirror), mirror, kernel.devices)


def _find_vswitchd(run_dir: Path) -> int:
    pid = read_pid(run_dir)
    if pid is None or not is_vswitchd(pid):
        raise TapError(f"no ovs-vswitchd runs that {run_dir}/ovs-vswitchd.pid tells of")
    return pid
