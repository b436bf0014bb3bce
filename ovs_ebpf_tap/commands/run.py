"""`run`: the sidecar, for as long as it is wanted."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import time

import ovs.poller
import structlog
import tenacity

from ovs_ebpf_tap.apply import foreign, rcu
from ovs_ebpf_tap.daemon import control, mirror_status
from ovs_ebpf_tap.daemon.runtime import (
    ANSWER,
    Options,
    Runtime,
    check_kernel,
    lock,
    open_runtime,
    require_root,
)
from ovs_ebpf_tap.daemon.sidecar import Sidecar
from ovs_ebpf_tap.daemon.supervisor import Supervisor
from ovs_ebpf_tap.ebpf import object_cache, pinning
from ovs_ebpf_tap.model.desired import CLSACT, TCX
from ovs_ebpf_tap.model.rows import mirror_devices
from ovs_ebpf_tap.observe.ovsdb import Ovsdb
from ovs_ebpf_tap.observe.schema import fetch_schema
from ovs_ebpf_tap.util import unexpected
from ovs_ebpf_tap.util.signals import EndingSignals, Interrupted

_MAX_BACKOFF = 5.0  # seconds
_START = 2 * (ANSWER + _MAX_BACKOFF)
"""Seconds for a step of the start, such as an attempt to reach the database."""

log = structlog.get_logger()


def run(options: Options) -> None:
    """Runs the sidecar until it is told to stop. Raises TapError."""
    require_root()
    # As of nohup or a script, they may be ignored: it is to end even so.
    with EndingSignals((signal.SIGTERM, signal.SIGINT), ignored=True) as signals:
        _run(options, signals)


def _run(options: Options, signals: EndingSignals) -> None:
    supervisor = Supervisor.open()
    run_dir = control.RunDir.take(options.run_dir)
    released = False
    try:
        released = _serve(options, signals, supervisor)
    except Interrupted:
        log.info("stopped")
    finally:
        run_dir.release()
    if released:
        log.info("released")


def _serve(options: Options, signals: EndingSignals, supervisor: Supervisor) -> bool:
    """Runs the loop; returns whether it ended because all was released."""
    gc.disable()
    check_kernel(options)
    schema = _await_schema(options.ovsdb, signals, supervisor)
    ovsdb = _await_lock(options.ovsdb, schema, signals, supervisor)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(contextlib.closing(ovsdb))
        # Before there are pins, which would be left if it failed.
        server = stack.enter_context(contextlib.closing(control.Server.listen(options.run_dir)))
        pinning.ensure_bpffs(options.pin_dir)
        supervisor.starting(_START + object_cache.COMPILE_TIMEOUT)
        with open_runtime(options, opened) as runtime:
            return _serve_on(runtime, server, options, signals, supervisor)


def _serve_on(
    runtime: Runtime,
    server: control.Server,
    options: Options,
    signals: EndingSignals,
    supervisor: Supervisor,
) -> bool:
    if options.fast_attach and runtime.attach == TCX and not rcu.may_expedite():
        log.warning("--fast-attach has no effect", reason=f"cannot write {rcu.EXPEDITED}")
    if runtime.attach == CLSACT:
        log.info(
            "on devices that are mirrored, other programs' `tc qdisc add dev DEVICE ingress` fails",
            reason="an ingress qdisc and clsact, which hooks are attached to, exclude each other",
            remedy="ebpf-tap-mode=native for that time, or TCX (Linux 6.6 or later)",
        )
    requests = _Requests()
    server.register("status", lambda: mirror_status.as_table(runtime.status()))
    server.register("settled", lambda: "yes" if runtime.sidecar.idle else "no")
    server.register("exit", requests.ask_stop)
    server.register("release", requests.ask_release)
    runtime.sidecar.on_first_pass = lambda: _tell_ready(runtime, supervisor)
    _loop(runtime, server, requests, signals, supervisor)
    supervisor.stopping()
    if requests.release or options.restore_on_exit:
        runtime.give_back()
    else:
        runtime.finish()
    if requests.release:
        runtime.forget()
        runtime.remove_all()
    else:
        log.info("stopped")
    return requests.release


def _tell_ready(runtime: Runtime, supervisor: Supervisor) -> None:
    """Says so; what is there by now stays, and later passes shall not wait for its collection."""
    _warn_of_foreign_hooks(runtime)
    log.info("ready", attach=runtime.attach, owner=f"{runtime.traffic_control.owner:x}")
    supervisor.ready()
    gc.freeze()
    gc.enable()


def _warn_of_foreign_hooks(runtime: Runtime) -> None:
    """They may be those of a sidecar that worked here before, and copy on."""
    db, devices = runtime.ovsdb.snapshot(), runtime.monitor.devices
    names = {
        name
        for bridge in db.bridges.values()
        for uuid in bridge.mirrors & db.mirrors.keys()
        for name in mirror_devices(db, bridge, db.mirrors[uuid])
    }
    ours = [devices[name] for name in sorted(names & devices.keys())]
    hooks = foreign.find(runtime.options.pin_dir, ours)
    for name, found in itertools.groupby(hooks, lambda each: each.device):
        each = list(found)
        log.warning(
            "hooks of another ovs-ebpf-tap on a device of a mirror may copy its packets again",
            device=name,
            hooks=",".join(hook.direction for hook in each),
            remedy=f"if that one is gone, rm -r {each[0].pin_dir or foreign.UNKNOWN}",
        )


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


def _loop(
    runtime: Runtime,
    server: control.Server,
    requests: _Requests,
    signals: EndingSignals,
    supervisor: Supervisor,
) -> None:
    while signals.taken is None and not requests.stop:
        _step(runtime.sidecar)
        supervisor.status(runtime.sidecar.summary)
        if runtime.sidecar.healthy:
            supervisor.alive()
        server.run()
        poller = ovs.poller.Poller()
        runtime.sidecar.wait(poller)
        supervisor.wait(poller)
        server.wait(poller)
        signals.wait(poller)
        poller.block()
    server.run()


def _step(sidecar: Sidecar) -> None:
    """Survives whatever a step comes upon."""
    try:
        sidecar.step()
    except Exception as error:
        why = str(error) if isinstance(error, OSError) else unexpected.reason("pass", error)
        log.error("pass failed", error=why, again_in_seconds=sidecar.pause(error))


def _await_lock(
    remote: str, schema: dict[str, object], signals: EndingSignals, supervisor: Supervisor
) -> Ovsdb:
    """A client that has the database's lock. Raises TapError if another sidecar keeps it."""
    overdue = time.monotonic() + ANSWER

    def wait(ovsdb: Ovsdb) -> None:
        nonlocal overdue
        signals.check()
        if time.monotonic() > overdue:
            overdue = float("inf")
            log.warning("the database does not answer: waiting for its lock")
        supervisor.status("waiting for the database's lock")
        supervisor.starting(_START)
        poller = ovs.poller.Poller()
        ovsdb.wait(poller)
        signals.wait(poller)
        poller.timer_wait(100)
        poller.block()
        ovsdb.run()

    return lock(remote, schema, wait)


def _await_schema(remote: str, signals: EndingSignals, supervisor: Supervisor) -> dict[str, object]:
    """Waits for the database, for as long as it takes."""

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0
        log.warning("database not there", error=str(error), again_in_seconds=round(wait, 1))
        supervisor.status(f"waiting for the database: {error}")
        supervisor.starting(_START)

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(ConnectionError),
        wait=tenacity.wait_exponential(multiplier=0.1, max=_MAX_BACKOFF),
        before_sleep=tell,
    )
    def fetch() -> dict[str, object]:
        return fetch_schema(remote, ANSWER)

    with signals.interruptible():
        return fetch()
