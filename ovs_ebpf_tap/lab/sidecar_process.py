"""A sidecar beside a lab's switch, as an operator would run it."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ovs_ebpf_tap.apply import rcu
from ovs_ebpf_tap.apply.cutter import PREFIX
from ovs_ebpf_tap.daemon import control
from ovs_ebpf_tap.ebpf import bpf, pinning
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.lab.names import is_leftover, unique_name
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.model.desired import OFFLOADED, keys_agree
from ovs_ebpf_tap.model.rows import REASON_KEY, STATE_KEY

BPFFS = Path("/sys/fs/bpf")
_READY = 60.0  # seconds: the programs may have to be compiled


def hook_count(switch: Switch) -> int:
    """How many TCX programs and clsact qdiscs the switch's devices have, anybody's."""
    devices = switch.ns.call(socket.if_nameindex)
    tcx = switch.ns.call(lambda: sum(bpf.count_tcx(index) for index, _ in devices))
    return tcx + switch.ns.run("tc", "qdisc", "show").stdout.count("clsact")


def cutters(switch: Switch) -> list[str]:
    """The names of the devices of cutters in the switch's namespace."""
    names = [name for _, name in switch.ns.call(socket.if_nameindex)]
    return sorted(name for name in names if name.startswith(PREFIX))


def reap_pins() -> None:
    """Removes the pins of sidecars whose tests were killed."""
    for path in BPFFS.iterdir():
        if is_leftover(path.name):
            remove_pins(path)


def remove_pins(path: Path) -> None:
    """Removes what is pinned there, also after a process that was killed midway."""
    for directory in pinning.builds(path):
        rcu.restore(directory)
    shutil.rmtree(path, ignore_errors=True)


class SidecarProcess:
    """The sidecar's process, and its command line; pins and run files are removed at the end.

    It runs in the switch's network namespace, but in our mount namespace: `ip netns exec`
    would hide the bpffs.
    """

    def __init__(self, switch: Switch, *options: str, pin_dir: Path | None = None) -> None:
        """Keeps `pin_dir`, if given: compiled programs are at hand for the next."""
        self.switch = switch
        self.options = options
        name = unique_name("sidecar")
        self._keep_pins = pin_dir is not None
        self.pin_dir = pin_dir or BPFFS / name
        self.run_dir = Path(tempfile.gettempdir()) / name
        self.log_file = self.run_dir.with_suffix(".log")
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def places(self) -> tuple[str, ...]:
        """The options that say where things are."""
        return (
            "--ovsdb",
            self.switch.db,
            "--run-dir",
            str(self.run_dir),
            "--pin-dir",
            str(self.pin_dir),
        )

    def command(self, name: str, *arguments: str) -> list[str]:
        """A command line of ovs-ebpf-tap.

        `run` does not wait for others to police new devices, unless `arguments` say so.
        """
        sooner = ("--clsact-delay", "0") if name == "run" else ()
        return [sys.executable, "-m", "ovs_ebpf_tap", name, *self.places, *sooner, *arguments]

    def start(self, *, ready: bool = True, env: Mapping[str, str] | None = None) -> None:
        """Starts the sidecar; waits until it has looked at the whole database.

        `env` adds to its environment.
        """
        known = len(self.log())
        with self.log_file.open("a") as log:
            self.process = self.switch.ns.popen(
                *self.command("run", *self.options), stderr=log, stdout=log, env=env
            )
        if ready:
            wait_for(
                lambda: "event=ready" in self.log()[known:] or self._ended(),
                _READY,
                "a ready sidecar",
            )

    def _ended(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the sidecar ended: {self.log()}")
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends the sidecar; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(patience(20))
        self.process = None
        return status

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        """Ends it in good order and starts another."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Ends it, and removes what it may have left."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if not self._keep_pins:
            remove_pins(self.pin_dir)
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.log_file.unlink(missing_ok=True)

    def log(self) -> str:
        """What it has logged, over all starts."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, whatever its exit status."""
        return self.switch.ns.run(*self.command(name, *arguments), check=False, timeout=60)

    def status(self) -> list[dict[str, Any]]:
        """What `status --json` prints."""
        done = self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def release(self, *mirrors: str) -> subprocess.CompletedProcess[str]:
        """Gives mirrors back, or all."""
        return self.run("release", *(mirrors or ("--all",)))

    # What the database says of a mirror.

    def external_ids(self, mirror: str) -> dict[str, str]:
        """The keys of the row."""
        row = json.loads(
            self.switch.vsctl(
                "--format=json", "--columns=external_ids", "find", "Mirror", f"name={mirror}"
            )
        )
        return dict(row["data"][0][0][1])

    def state(self, mirror: str) -> str | None:
        """`ebpf-tap-state` of the row."""
        return self.external_ids(mirror).get(STATE_KEY)

    def reason(self, mirror: str) -> str | None:
        """`ebpf-tap-reason` of the row."""
        return self.external_ids(mirror).get(REASON_KEY)

    def wait_settled(self, mirror: str, state: str, seconds: float = 10.0) -> None:
        """As `wait_state`; for a mirror that is given back, until its hooks are gone, too."""
        self.wait_state(mirror, state, seconds)
        if state != "offloaded":
            wait_for(lambda: not self._hooks(mirror), seconds, f"no hooks of {mirror}")

    def _hooks(self, mirror: str) -> list[str]:
        return [hook for row in self.status() if row["name"] == mirror for hook in row["hooks"]]

    def wait_state(self, mirror: str, state: str, seconds: float = 10.0) -> None:
        """Waits until the row has that state; hooks of a mirror given back may still be there."""
        try:
            wait_for(lambda: self._is(mirror, state), seconds, f"mirror {mirror} {state}")
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.external_ids(mirror)}\n{self.log()}") from None

    def _is(self, mirror: str, state: str) -> bool:
        ids = self.external_ids(mirror)
        if ids.get(STATE_KEY) != state or not keys_agree(ids):
            return False
        return state != OFFLOADED or not self.is_moving()

    def is_moving(self) -> bool:
        """Whether the sidecar has work left: running flows may not follow a move yet."""
        try:
            return not control.is_settled(self.run_dir)
        except TapError:  # It does not answer.
            return True

    def set_mode(self, mirror: str, mode: str) -> None:
        """Sets the mirror's mode as a user does."""
        self.switch.vsctl("set", "Mirror", mirror, f"external_ids:ebpf-tap-mode={mode}")

    def offload(self, *mirrors: str) -> None:
        """Sets the mode to offload and waits until the mirrors are."""
        for mirror in mirrors:
            self.set_mode(mirror, "offload")
        for mirror in mirrors:
            self.wait_state(mirror, "offloaded")

    def native(self, *mirrors: str) -> None:
        """Sets the mode to native and waits until the mirrors are."""
        for mirror in mirrors:
            self.set_mode(mirror, "native")
        for mirror in mirrors:
            self.wait_settled(mirror, "native")
