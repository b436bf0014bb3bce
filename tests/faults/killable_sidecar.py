"""A sidecar that can be told where to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from faults.points import ARMED, POINT, SIGNAL
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import patience

_HIT = 60.0  # seconds: the programs may have to be compiled
_TESTS = Path(__file__).resolve().parent.parent


class KillableSidecar(SidecarProcess):
    """A sidecar that ends itself at `point` once it is armed; with `point` None it is as any other.

    Of its commands, only those that are started do.
    """

    def __init__(self, switch: Switch, *options: str, pin_dir: Path | None = None) -> None:
        super().__init__(switch, *options, pin_dir=pin_dir)
        self.point: str | None = None
        self.signal = signal.SIGKILL
        self._armed = self.run_dir.with_suffix(".armed")

    def command(self, name: str, *arguments: str) -> list[str]:
        """As its base class does; `run` is one that is killed."""
        command = super().command(name, *arguments)
        return self._killable(command) if name == "run" else command

    def _killable(self, command: list[str]) -> list[str]:
        python, how, module, *others = command
        return [python, how, module if self.point is None else "faults.points", *others]

    def start(self, *, ready: bool = True, env: Mapping[str, str] | None = None) -> None:
        """As its base class does."""
        super().start(ready=ready, env=self._env(env or {}))

    def start_release(self) -> subprocess.Popen[str]:
        """Starts `release --all`, which is killed."""
        command = self._killable(self.command("release", "--all"))
        with self.log_file.open("a") as log:
            return self.switch.ns.popen(*command, stderr=log, stdout=log, env=self._env({}))

    def _env(self, more: Mapping[str, str]) -> dict[str, str]:
        if self.point is None:
            return dict(more)
        paths = (more.get("PYTHONPATH"), str(_TESTS), os.environ.get("PYTHONPATH"))
        return {
            **more,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            POINT: self.point,
            SIGNAL: self.signal.name,
            ARMED: str(self._armed),
        }

    def arm(self) -> None:
        """Has it end at the point, from now on."""
        self._armed.touch()

    def wait_hit(self, process: subprocess.Popen[str] | None = None) -> None:
        """Waits until it, or another process of its, has ended, at the point."""
        process, self.process = process or self.process, None
        assert process is not None
        try:
            status = process.wait(patience(_HIT))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"not reached: {self.point}\n{self.log()}") from None
        assert not self._armed.exists(), f"ended before: {self.point}\n{self.log()}"
        assert status == (-self.signal if self.signal == signal.SIGKILL else 0), self.log()
        self.point = None

    def close(self) -> None:
        """As its base class does."""
        super().close()
        self._armed.unlink(missing_ok=True)
