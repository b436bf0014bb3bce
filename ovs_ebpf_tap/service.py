"""What the commands do: `run` for as long as it is wanted, `release`, `status`."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from uuid import UUID

import ovs.poller
import structlog
import tenacity

from ovs_ebpf_tap import control, programs, status
from ovs_ebpf_tap.datapath import Datapath, choose_attach, older_builds
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.handover import forget_edits
from ovs_ebpf_tap.model import MODE_KEY, STATE_KEY, Database, Mirror
from ovs_ebpf_tap.netlink import Netlink
from ovs_ebpf_tap.ovsdb import Edits, MirrorEdit, Ovsdb, fetch_schema, ovs_run_dir
from ovs_ebpf_tap.plan import OFFLOADED
from ovs_ebpf_tap.sidecar import Sidecar

DEFAULT_PIN_DIR = programs.BPFFS / "ovs-ebpf-tap"

_ANSWER = 5.0  # seconds for the database's first answer
_PATIENCE = 10.0  # seconds for what OVS takes milliseconds to do
_MAX_BACKOFF = 5.0  # seconds

log = structlog.get_logger()


@dataclass(frozen=True)
class Options:
    """Where things are, and how to attach."""

    ovsdb: str
    run_dir: Path = control.DEFAULT_RUN_DIR
    pin_dir: Path = DEFAULT_PIN_DIR
    attach: str = "auto"
    restore_on_exit: bool = False


class _Stop(Exception):  # noqa: N818 - it is no error
    """SIGTERM or SIGINT came while nothing else was under way."""


class _Signals:
    """SIGTERM and SIGINT, as a flag and as something a poll loop wakes up for."""

    def __init__(self) -> None:
        self.stop = False
        self.waiting = False
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self.stop = True
        if self.waiting:
            raise _Stop

    def wait(self, poller: ovs.poller.Poller) -> None:
        poller.fd_wait(self._read, ovs.poller.POLLIN)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise TapError("not root: programs on the ports' devices need it")


# run


def run(options: Options) -> None:
    """Runs the sidecar until it is told to stop. Raises TapError."""
    _require_root()
    signals = _Signals()
    lock = control.RunDir(options.run_dir)
    released = False
    try:
        released = _serve(options, signals)
    except _Stop:
        log.info("stopped")
    finally:
        lock.release()
    if released:
        log.info("released")


def _serve(options: Options, signals: _Signals) -> bool:
    """Runs the loop; returns whether it ended because all was released."""
    _check_kernel(options)
    schema = _await_schema(options.ovsdb, signals)
    programs.ensure_bpffs(options.pin_dir)
    with _open(options, schema) as parts:
        server = control.Server(options.run_dir)
        requests = _Requests()
        server.register("status", lambda: status.as_table(parts.status()))
        server.register("exit", requests.ask_stop)
        server.register("release", requests.ask_release)
        parts.sidecar.on_first_pass = lambda: log.info("ready", attach=parts.attach)
        try:
            _loop(parts, server, requests, signals)
            if requests.release or options.restore_on_exit:
                _give_back(parts)
        finally:
            server.close()
        if requests.release:
            _forget(parts)
            parts.remove_all()
        else:
            log.info("stopped")
        return requests.release


class _Requests:
    """What was asked for on the control socket."""

    def __init__(self) -> None:
        self.stop = False
        self.release = False

    def ask_stop(self) -> str:
        self.stop = True
        return ""

    def ask_release(self) -> str:
        self.stop = self.release = True
        return ""


def _loop(parts: _Parts, server: control.Server, requests: _Requests, signals: _Signals) -> None:
    while not signals.stop and not requests.stop:
        try:
            parts.sidecar.step()
        except OSError as error:
            log.error("pass failed", error=str(error), again_in_seconds=parts.sidecar.pause())
        server.run()
        poller = ovs.poller.Poller()
        parts.sidecar.wait(poller)
        server.wait(poller)
        signals.wait(poller)
        poller.block()
    server.run()


def _check_kernel(options: Options) -> None:
    programs.check_kernel()
    try:
        choose_attach(options.attach)
    except ValueError as error:
        raise TapError(str(error)) from None


def _await_schema(remote: str, signals: _Signals) -> dict[str, object]:
    """Waits for the database, for as long as it takes."""

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0
        log.warning("database not there", error=str(error), again_in_seconds=round(wait, 1))

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(ConnectionError),
        wait=tenacity.wait_exponential(multiplier=0.1, max=_MAX_BACKOFF),
        before_sleep=tell,
    )
    def fetch() -> dict[str, object]:
        return fetch_schema(remote, _ANSWER)

    signals.waiting = True
    try:
        if signals.stop:
            raise _Stop
        return fetch()
    finally:
        signals.waiting = False


class _Parts:
    """The parts of a sidecar, open."""

    def __init__(self, options: Options, schema: dict[str, object]) -> None:
        self.options = options
        self.attach = choose_attach(options.attach)
        self.netlink = Netlink()
        self.programs = programs.ensure_programs(options.pin_dir)
        self.datapath = Datapath(options.pin_dir, self.netlink, self.programs, self.attach)
        self._adopt()
        self.ovsdb = Ovsdb(options.ovsdb, schema)
        self.sidecar = Sidecar(
            self.ovsdb, self.netlink, self.datapath, self.attach, ovs_run_dir(options.ovsdb)
        )

    def _adopt(self) -> None:
        for older in older_builds(self.options.pin_dir):
            log.info("replacing an older build", build=older.build)
            self.datapath.adopt(Datapath(self.options.pin_dir, self.netlink, older))
            older.close()
            programs.remove_build(self.options.pin_dir / older.build)

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.ovsdb.close()
        self.netlink.close()
        self.programs.close()

    def status(self) -> list[status.MirrorStatus]:
        """The status of all mirrors."""
        return status.collect(self.ovsdb.snapshot(), self.netlink.devices, self.datapath)

    def remove_all(self) -> None:
        """Leaves nothing of ours in the kernel."""
        self.datapath.sync({}, set())
        remove_pins(self.options.pin_dir)

    def drive(self, done: Callable[[], bool], what: str) -> None:
        """Steps the sidecar until `done`. Raises TapError if that takes too long."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            self.sidecar.step()
            if done():
                return
            if time.monotonic() > deadline:
                raise TapError(f"{what} took over {_PATIENCE:.0f} s: is ovs-vswitchd running?")
            poller = ovs.poller.Poller()
            self.sidecar.wait(poller)
            poller.timer_wait(int(_PATIENCE * 100))
            poller.block()


_open = _Parts


def remove_pins(pin_dir: Path) -> None:
    """Removes the pin directory and all that is in it."""
    shutil.rmtree(pin_dir, ignore_errors=True)


def _give_back(parts: _Parts) -> None:
    """Has OVS copy everything again."""
    parts.sidecar.restoring = True
    parts.sidecar.wake()
    parts.drive(lambda: parts.sidecar.idle and not parts.datapath.mirrors, "giving mirrors back")


def _forget(parts: _Parts) -> None:
    """Removes our keys from the rows."""
    edits = forget_edits(parts.ovsdb.snapshot())
    if edits:
        _transact(parts.ovsdb, edits)


def _transact(ovsdb: Ovsdb, edits: Edits) -> None:
    deadline = time.monotonic() + _PATIENCE
    while ovsdb.busy or not ovsdb.connected:
        _turn(ovsdb, deadline)
    ovsdb.commit(edits)
    while ovsdb.busy:
        _turn(ovsdb, deadline)


def _turn(ovsdb: Ovsdb, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TapError(f"the database did not answer within {_PATIENCE:.0f} s")
    ovsdb.run()
    poller = ovs.poller.Poller()
    ovsdb.wait(poller)
    poller.timer_wait(100)
    poller.block()


# status


def show_status(options: Options) -> list[status.MirrorStatus]:
    """The status of all mirrors, read from the database and the kernel. Raises TapError."""
    ovsdb = _connect(options.ovsdb)
    try:
        netlink = Netlink()
        opened = programs.open_programs(options.pin_dir) if os.geteuid() == 0 else None
        datapath = Datapath(options.pin_dir, netlink, opened) if opened is not None else None
        return status.collect(ovsdb.snapshot(), netlink.devices, datapath)
    finally:
        ovsdb.close()


def _connect(remote: str) -> Ovsdb:
    """A connected client. Raises TapError if the database does not answer."""
    try:
        schema = fetch_schema(remote, _ANSWER)
    except ConnectionError as error:
        raise TapError(str(error)) from None
    ovsdb = Ovsdb(remote, schema)
    deadline = time.monotonic() + _PATIENCE
    while not ovsdb.connected:
        _turn(ovsdb, deadline)
    return ovsdb


# release


def release(options: Options, names: tuple[str, ...]) -> list[str]:
    """Gives the named mirrors, or all, back to OVS; returns a line for each.

    Raises TapError if a name is unknown, or OVS does not take the mirrors back.
    """
    _require_root()
    ovsdb = _connect(options.ovsdb)
    try:
        chosen = _choose(ovsdb.snapshot(), names)
        edits = [
            MirrorEdit(mirror.uuid, set_ids={MODE_KEY: "native"})
            for mirror in chosen
            if mirror.external_ids.get(MODE_KEY) != "native"
        ]
        if edits:
            _transact(ovsdb, Edits(tuple(edits)))
        if names:
            _release_some(options, ovsdb, {mirror.uuid for mirror in chosen})
        else:
            _release_all(options)
    finally:
        ovsdb.close()
    return [f"{mirror.name}: native" for mirror in chosen]


def _choose(db: Database, names: tuple[str, ...]) -> list[Mirror]:
    mirrors = sorted(db.mirrors.values(), key=lambda mirror: mirror.name)
    for name in names:
        if not any(_is_called(mirror, name) for mirror in mirrors):
            raise TapError(f"no mirror {name}: see ovs-vsctl list Mirror")
    return [m for m in mirrors if not names or any(_is_called(m, name) for name in names)]


def _is_called(mirror: Mirror, name: str) -> bool:
    return name in (mirror.name, str(mirror.uuid))


def _release_all(options: Options) -> None:
    """A running sidecar does it and ends; else we are the sidecar for a moment."""
    if control.call(options.run_dir, "release") is None:
        _without_sidecar(options, None)
        return
    deadline = time.monotonic() + 2 * _PATIENCE
    while (options.run_dir / control.SOCKET).exists() or options.pin_dir.exists():
        if time.monotonic() > deadline:
            raise TapError("the running sidecar did not give the mirrors back: see its log")
        time.sleep(0.02)


def _release_some(options: Options, ovsdb: Ovsdb, chosen: set[UUID]) -> None:
    if control.call(options.run_dir, "status") is None:
        _without_sidecar(options, chosen)
        return
    deadline = time.monotonic() + _PATIENCE
    while any(_is_offloaded(ovsdb.snapshot(), uuid) for uuid in chosen):
        _turn(ovsdb, deadline)


def _is_offloaded(db: Database, uuid: UUID) -> bool:
    mirror = db.mirrors.get(uuid)
    return mirror is not None and (mirror.parked or mirror.external_ids.get(STATE_KEY) == OFFLOADED)


def _without_sidecar(options: Options, chosen: set[UUID] | None) -> None:
    lock = control.RunDir(options.run_dir)
    try:
        _check_kernel(options)
        schema = fetch_schema(options.ovsdb, _ANSWER)
        programs.ensure_bpffs(options.pin_dir)
        with _open(options, schema) as parts:
            if chosen is None:
                _give_back(parts)
                _forget(parts)
                parts.remove_all()
            else:
                held = chosen
                parts.drive(
                    lambda: parts.sidecar.idle and not parts.datapath.mirrors & held,
                    "giving mirrors back",
                )
    finally:
        lock.release()
