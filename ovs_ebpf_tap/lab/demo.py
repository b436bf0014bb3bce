"""The demonstration: the sidecar beside a real switch, with every frame counted.

    python -m ovs_ebpf_tap.lab.demo [--datapath netdev|system]

Machines at a bridge: `vm1`, `vm2` and the switch's own host talk, `monitor` gets the copies of
all that passes vm1's port. The same traffic is sent while eBPF copies and while Open vSwitch
does. What vm1's own device saw is what `monitor` has to get, frame by frame. Exits with 1 if it
did not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ovs_ebpf_tap.daemon import control
from ovs_ebpf_tap.daemon.mirror_status import MirrorStatus
from ovs_ebpf_tap.daemon.runtime import Options, pinned_counters
from ovs_ebpf_tap.lab.capture import CaptureLossError
from ovs_ebpf_tap.lab.demo_output import heading, say, say_command
from ovs_ebpf_tap.lab.demo_traffic import DemoError, DemoMachines, TrafficRound
from ovs_ebpf_tap.lab.names import is_leftover, unique_name
from ovs_ebpf_tap.lab.netns import CommandError, reap
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.util.signals import interruptible

_PREFIX = "tap-demo"
_BPFFS = Path("/sys/fs/bpf")
_MIRROR = "demo"
_LOG_LINES = 5


class Demo:
    """The switch with its machines, and the sidecar beside it."""

    def __init__(
        self, switch: Switch, machines: DemoMachines, datapath: str, pin_dir: Path
    ) -> None:
        self._switch = switch
        self._machines = machines
        self._pin_dir = pin_dir
        self._run_dir = switch.rundir / "sidecar"
        self._log = switch.rundir / "sidecar.log"
        self._sidecar: subprocess.Popen[str] | None = None
        self._rounds: list[TrafficRound] = []
        self._datapath = datapath

    # What is shown, in order.

    def show(self) -> None:
        """Show everything. Raises DemoError and what the lab raises."""
        self._show_switch()
        self._show_sidecar()
        self._show_mirror()
        self._send("eBPF", "ping, TCP and UDP, copied by eBPF")
        self._show_state()
        self._flip("native", "Flip the mirror to native, same traffic: Open vSwitch copies")
        self._flip("offload", "Flip it back, same traffic: eBPF copies")
        self._show_release()
        self._show_table()

    def _show_switch(self) -> None:
        version = self._switch.appctl("version").split()[-1]
        kind = {"netdev": "userspace", "system": "kernel"}[self._datapath]
        heading("A private Open vSwitch with vm1, vm2, monitor, and its own host")
        say(f"Open vSwitch {version}, {kind} datapath, Linux {platform.release()}")
        say("bridge br0, ports vm1-eth0, vm2-eth0, monitor-eth0, and the internal port host")
        say(f"its tools find it by OVS_RUNDIR={self._switch.rundir}")

    def _show_sidecar(self) -> None:
        heading("Start the sidecar")
        arguments = ("run", "--run-dir", str(self._run_dir), "--pin-dir", str(self._pin_dir))
        say_command("ovs-ebpf-tap", *arguments)
        with self._log.open("w") as log:
            self._sidecar = self._switch.ns.popen(
                *_tap_command(*arguments), stderr=log, env=self._switch.env
            )
        say(wait_for(self._ready, 60, "the sidecar's first pass over the database") or "")

    def _show_mirror(self) -> None:
        heading("Create a mirror as always: both directions of vm1's port, to the monitor")
        self._vsctl(
            *("--", "--id=@vm1", "get", "Port", self._machines.vm1.port),
            *("--", "--id=@monitor", "get", "Port", self._machines.monitor.port),
            *("--", "--id=@mirror", "create", "Mirror", f"name={_MIRROR}"),
            *("select_src_port=@vm1", "select_dst_port=@vm1", "output_port=@monitor"),
            *("--", "add", "Bridge", "br0", "mirrors", "@mirror"),
        )
        self._await_state("offloaded")

    def _show_state(self) -> None:
        heading("What an operator sees")
        say(self._vsctl("list", "Mirror", _MIRROR))
        say("")
        say(self._tap("status", "--pin-dir", str(self._pin_dir)))

    def _flip(self, mode: str, title: str) -> None:
        heading(title)
        self._vsctl("set", "Mirror", _MIRROR, f"external_ids:ebpf-tap-mode={mode}")
        self._await_state("native" if mode == "native" else "offloaded")
        self._send("Open vSwitch" if mode == "native" else "eBPF")

    def _show_release(self) -> None:
        heading("Give every mirror back to Open vSwitch, same traffic: nothing of ours is left")
        places = ("--run-dir", str(self._run_dir), "--pin-dir", str(self._pin_dir))
        say(self._tap("release", "--all", *places))
        self._check_nothing_left()
        self._send("Open vSwitch")

    def _show_table(self) -> None:
        heading("Every frame counted")
        say("sent: by vm1, vm2 and host; expected: what passed vm1's own device, both ways;")
        say("seen: what reached the monitor, compared frame by frame; eBPF: the programs' count")
        say("")
        head = ("COPIED BY", "SENT", "EXPECTED", "SEEN", "MISSING", "EXTRA", "eBPF")
        for row in (head, *(each.cells() for each in self._rounds)):
            say(row[0].ljust(13) + "".join(cell.rjust(10) for cell in row[1:]))
        faults = [fault for each in self._rounds for fault in each.faults]
        if faults:
            raise DemoError("\n".join(faults))
        say("")
        say("Nothing missing, nothing extra.")

    def _send(self, copier: str, title: str | None = None) -> None:
        """Send a round of traffic and count it."""
        if title is not None:
            heading(title)
        done = self._machines.play(copier, self._count_copies)
        self._rounds.append(done)
        say(
            f"{done.expected.total()} frames passed vm1's port, "
            f"{done.seen.total()} copies reached the monitor"
        )

    # The sidecar and its mirror.

    def _ready(self) -> str | None:
        """The log line that says so; DemoError if the sidecar has ended instead."""
        lines = self._log.read_text().splitlines()
        ready = next((line for line in lines if "event=ready" in line.split()), None)
        if ready is None and self._sidecar is not None and self._sidecar.poll() is not None:
            raise DemoError("the sidecar ended: " + "\n".join(lines[-_LOG_LINES:]))
        return ready

    def _await_state(self, state: str) -> None:
        """Wait until the mirror has moved there for good."""
        self._switch.wait_until("Mirror", _MIRROR, f"external_ids:ebpf-tap-state={state}")

        def settled() -> MirrorStatus | None:
            if not control.is_settled(self._run_dir):
                return None
            status = self._read_status()
            return status if bool(status.hooks) == (state == "offloaded") else None

        status = wait_for(settled, what=f"the end of the mirror's move to {state}")
        hooks = ", ".join(status.hooks) if status is not None and status.hooks else "none"
        say(f"state: {state}; hooks: {hooks}")

    def _count_copies(self) -> int:
        """What the programs have counted; `status` has Open vSwitch's copies, too."""
        options = Options(self._switch.db, self._run_dir, self._pin_dir)
        return sum(each.packets for each in pinned_counters(options).values())

    def _read_status(self) -> MirrorStatus:
        places = ("--run-dir", str(self._run_dir), "--pin-dir", str(self._pin_dir))
        command = _tap_command("status", "--json", *places)
        printed = self._switch.ns.run(*command, env=self._switch.env).stdout
        return MirrorStatus(**json.loads(printed)[0])

    def _check_nothing_left(self) -> None:
        """Raises DemoError unless the kernel, the database and the disk are as before."""
        if self._sidecar is not None and self._sidecar.wait(patience(10)) != 0:
            raise DemoError(f"the sidecar ended with status {self._sidecar.returncode}")
        for path in (self._pin_dir, self._run_dir):
            if path.exists():
                raise DemoError(f"{path} is left")
        qdiscs = self._switch.ns.run("tc", "qdisc", "show").stdout
        if "clsact" in qdiscs:
            raise DemoError(f"a clsact qdisc is left: {qdiscs}")
        columns = ("select_vlan", "external_ids:ebpf-tap-mode")
        found = tuple(self._switch.get("Mirror", _MIRROR, column) for column in columns)
        if found != ("[]", "native"):
            raise DemoError(f"the Mirror row has {found}")
        say("sidecar: ended; hooks, pinned programs and maps, run directory: gone")
        say(f"Mirror row: select_vlan={found[0]}, external_ids={found[1]}")

    # Commands, shown as they are run.

    def _vsctl(self, *arguments: str) -> str:
        say_command("ovs-vsctl", *arguments)
        return self._switch.ns.run("ovs-vsctl", *arguments, env=self._switch.env).stdout.strip()

    def _tap(self, *arguments: str) -> str:
        say_command("ovs-ebpf-tap", *arguments)
        return self._switch.ns.run(*_tap_command(*arguments), env=self._switch.env).stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Moves a mirror between Open vSwitch and eBPF, and counts every frame.",
    )
    parser.add_argument(
        "--datapath",
        choices=("netdev", "system"),
        default="netdev",
        help="Open vSwitch's userspace or kernel datapath (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("demo: root is needed", file=sys.stderr)
        return 1
    try:
        with interruptible(_interrupted):
            _remove_leftovers()
            with _pin_directory() as pin_dir, Switch("switch", prefix=_PREFIX) as switch:
                switch.add_bridge("br0", arguments.datapath)
                machines = DemoMachines.connect(switch)
                Demo(switch, machines, arguments.datapath, pin_dir).show()
    except (
        DemoError,
        CommandError,
        CaptureLossError,
        OSError,
        RuntimeError,
        subprocess.TimeoutExpired,
    ) as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupted(number: signal.Signals) -> SystemExit:
    print("demo: interrupted, cleaning up", file=sys.stderr)
    return SystemExit(128 + number)


def _remove_leftovers() -> None:
    """Remove what earlier runs left that were killed."""
    reap(_PREFIX)
    for path in _BPFFS.glob(f"{_PREFIX}-*"):
        if is_leftover(path.name, _PREFIX):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _pin_directory() -> Iterator[Path]:
    """A name for a pin directory, which is gone afterwards; programs go with their pins."""
    path = _BPFFS / unique_name("pins", _PREFIX)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _tap_command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "ovs_ebpf_tap", *arguments)


if __name__ == "__main__":
    sys.exit(main())
