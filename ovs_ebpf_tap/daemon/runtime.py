"""What the commands share: options, the parts of a sidecar, and waiting for the database."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import ovs.poller
import structlog

from ovs_ebpf_tap.apply import rcu
from ovs_ebpf_tap.apply.adoption import adopt, older_builds
from ovs_ebpf_tap.apply.attachment import choose_attach
from ovs_ebpf_tap.apply.datapath import Datapath
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.daemon import control, mirror_status
from ovs_ebpf_tap.daemon.sidecar import Sidecar
from ovs_ebpf_tap.daemon.statistics_writer import StatisticsWriter
from ovs_ebpf_tap.decide import policing
from ovs_ebpf_tap.decide.handover import forget_edits
from ovs_ebpf_tap.ebpf import pinning, programs
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.transaction import Transaction
from ovs_ebpf_tap.observe.devices import DeviceMonitor
from ovs_ebpf_tap.observe.ovsdb import Ovsdb, ovs_run_dir
from ovs_ebpf_tap.observe.schema import fetch_schema
from ovs_ebpf_tap.util import namespace, unexpected
from ovs_ebpf_tap.util.probes import probe
from ovs_ebpf_tap.util.reserve_fd import ReserveFd

DEFAULT_PIN_DIR = pinning.BPFFS / "ovs-ebpf-tap"

ANSWER = 5.0
"""Seconds for the database's first answer."""

PATIENCE = 10.0
"""Seconds for what OVS takes milliseconds to do."""

_LOCK = 3.0
"""Seconds for the database to notice that the sidecar which had its lock has ended."""

_FINISH = 1.0
"""Seconds for moves to end when the sidecar is told to."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Options:
    """Where things are, and how to attach."""

    ovsdb: str
    run_dir: Path = control.DEFAULT_RUN_DIR
    pin_dir: Path = DEFAULT_PIN_DIR
    attach: str = "auto"
    clsact_delay: float = policing.COOL_DOWN
    restore_on_exit: bool = False
    fast_attach: bool = False


def require_root() -> None:
    """Raises TapError unless we are root."""
    if os.geteuid() != 0:
        raise TapError("not root: programs on the ports' devices need it")


def check_kernel(options: Options) -> None:
    """Raises TapError if the kernel lacks what the options need; makes nothing."""
    programs.check_kernel()
    try:
        choose_attach(options.attach)
    except ValueError as error:
        raise TapError(str(error)) from None


@dataclass(frozen=True)
class Runtime:
    """The parts of a sidecar, open: see `open_runtime`."""

    options: Options
    attach: str
    """`TCX` or `CLSACT`."""
    ovsdb: Ovsdb
    monitor: DeviceMonitor
    traffic_control: TrafficControl
    datapath: Datapath
    sidecar: Sidecar

    def status(self) -> list[mirror_status.MirrorStatus]:
        """The status of all mirrors."""
        return mirror_status.collect(self.ovsdb.snapshot(), self.monitor.devices, self.datapath)

    def remove_all(self) -> None:
        """Leaves nothing of ours in the kernel."""
        probe("pins about to be removed")
        self.datapath.sync({}, set())
        shutil.rmtree(self.options.pin_dir, ignore_errors=True)
        probe("pins removed")

    def give_back(self) -> None:
        """Has OVS copy everything again. Raises TapError if it does not take the mirrors."""
        self.sidecar.give_back_all()
        self.run_until(
            lambda: self.sidecar.idle and not self.datapath.mirrors, "giving mirrors back"
        )
        probe("all given back")

    def finish(self) -> None:
        """Ends moves that are under way, as nobody else may for long; or says that it did not."""
        self.sidecar.record_all()
        try:
            self.run_until(lambda: not self.sidecar.moving, "ending moves", _FINISH)
        except (TapError, OSError) as error:
            log.warning("moves not ended", error=str(error))

    def forget(self) -> None:
        """Removes our keys from the rows."""
        probe("keys about to be forgotten")
        edits = forget_edits(self.ovsdb.snapshot())
        if edits:
            transact(self.ovsdb, edits)
        probe("keys forgotten")

    def run_until(self, done: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Steps the sidecar until `done`. Raises TapError if that takes too long, and OSError."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.sidecar.step()
            except OSError:
                raise
            except Exception as error:
                raise TapError(unexpected.reason(what, error)) from None
            if done():
                return
            if time.monotonic() > deadline:
                raise TapError(f"{what} took over {seconds:.0f} s: is ovs-vswitchd running?")
            poller = ovs.poller.Poller()
            self.sidecar.wait(poller)
            poller.timer_wait(int(seconds * 100))
            poller.block()


@contextlib.contextmanager
def open_runtime(options: Options, ovsdb: Ovsdb) -> Iterator[Runtime]:
    """Opens a sidecar beside the database, which stays the caller's; closes it at the end.

    Takes over what an older build has in the kernel. Raises TapError and OSError.
    """
    namespace.check(options.pin_dir)
    attach = choose_attach(options.attach)
    with contextlib.ExitStack() as stack:
        monitor = DeviceMonitor.open()
        stack.callback(monitor.close)
        traffic_control = TrafficControl.open(pinning.owner(options.pin_dir))
        stack.callback(traffic_control.close)
        opened = programs.ensure_programs(options.pin_dir)
        stack.callback(opened.close)
        namespace.note(options.pin_dir)
        rcu.restore(opened.directory)
        datapath = Datapath.open(
            options.pin_dir,
            monitor,
            traffic_control,
            opened,
            attach,
            fast_attach=options.fast_attach,
        )
        _adopt_older_builds(options.pin_dir, monitor, traffic_control, datapath, attach)
        statistics = StatisticsWriter.open(options.ovsdb)
        stack.callback(statistics.close)
        reserve = ReserveFd()
        reserve.keep()
        stack.callback(reserve.lend)
        sidecar = Sidecar.make(
            ovsdb,
            monitor,
            datapath,
            attach,
            ovs_run_dir(options.ovsdb),
            statistics,
            reserve,
            options.clsact_delay,
        )
        stack.callback(sidecar.close)
        yield Runtime(options, attach, ovsdb, monitor, traffic_control, datapath, sidecar)


def _adopt_older_builds(
    pin_dir: Path,
    monitor: DeviceMonitor,
    traffic_control: TrafficControl,
    datapath: Datapath,
    attach: str,
) -> None:
    for older in older_builds(pin_dir):
        log.info("replacing an older build", build=older.build)
        rcu.restore(older.directory)
        hooks = Datapath.open(pin_dir, monitor, traffic_control, older)
        adopt(datapath, hooks, attach, traffic_control)
        older.close()
        pinning.remove_build(pin_dir / older.build)
        probe("older build removed")


def lock(remote: str, schema: dict[str, object], wait: Callable[[Ovsdb], None]) -> Ovsdb:
    """A connected client that has the lock of the one sidecar beside the database.

    `wait` waits a moment for the database. Raises TapError if another sidecar has the lock and
    does not end soon.
    """
    ovsdb = Ovsdb(remote, schema, exclusive=True)
    deadline = float("inf")
    try:
        while not ovsdb.connected:
            wait(ovsdb)
            now = time.monotonic()
            deadline = min(deadline, now + _LOCK) if ovsdb.locked_out else float("inf")
            if now > deadline:
                raise TapError(
                    f"another ovs-ebpf-tap runs beside the database {remote}, and two would copy "
                    "packets twice: release --all with its --run-dir and --pin-dir ends it"
                )
    except BaseException:
        ovsdb.close()
        raise
    return ovsdb


def connect(remote: str) -> Ovsdb:
    """A connected client. Raises TapError if the database does not answer."""
    try:
        schema = fetch_schema(remote, ANSWER)
    except ConnectionError as error:
        raise TapError(str(error)) from None
    ovsdb = Ovsdb(remote, schema)
    deadline = time.monotonic() + PATIENCE
    while not ovsdb.connected:
        wait_db(ovsdb, deadline)
    return ovsdb


def transact(ovsdb: Ovsdb, edits: Transaction) -> None:
    """Writes the edits. Raises TapError if the database does not take them in time."""
    deadline = time.monotonic() + PATIENCE
    while ovsdb.busy or not ovsdb.connected:
        wait_db(ovsdb, deadline)
    ovsdb.commit(edits)
    while ovsdb.busy:
        wait_db(ovsdb, deadline)


def wait_db(ovsdb: Ovsdb, deadline: float) -> None:
    """Waits a moment for the database. Raises TapError after the (monotonic) deadline."""
    if time.monotonic() > deadline:
        raise TapError(f"the database did not answer within {PATIENCE:.0f} s")
    poller = ovs.poller.Poller()
    ovsdb.wait(poller)
    poller.timer_wait(100)
    poller.block()
    ovsdb.run()


def pinned_counters(options: Options) -> Mapping[UUID, Counters]:
    """What the maps that are pinned have counted; nothing where they can't be opened."""
    found: dict[UUID, Counters] = {}
    for directory in pinning.builds(options.pin_dir):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            monitor = stack.enter_context(contextlib.closing(DeviceMonitor.open()))
            traffic_control = stack.enter_context(contextlib.closing(TrafficControl.open()))
            opened = stack.enter_context(contextlib.closing(programs.Programs.open(directory)))
            found |= Datapath.open(options.pin_dir, monitor, traffic_control, opened).counters()
    return found
