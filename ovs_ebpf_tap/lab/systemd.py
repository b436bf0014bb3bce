"""A systemd beside a lab's switch, in the switch's network namespace."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ovs_ebpf_tap.ebpf import build
from ovs_ebpf_tap.lab.names import is_leftover, unique_name
from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import patience, wait_for

SYSTEMD = Path("/lib/systemd/systemd")
PREFIX = Path("/opt/ovs-ebpf-tap")
"""Where README installs the sidecar."""

_CHECKOUT = Path(__file__).resolve().parents[2]
_SOURCE = Path("/opt/checkout")
_UNITS = Path("/etc/systemd/system")

# What common services depend on by default, without what these targets have on a machine.
_TARGETS = ("basic", "default", "shutdown", "sysinit")
_TARGET = "[Unit]\nDefaultDependencies=no\n"
_SWITCH = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"

# In a mount namespace: a cgroup for all that follows, to be removed by its name.
_OUTER = """
mount -t cgroup2 cgroup2 "$1/cgroup"
mkdir "$1/cgroup/$2"
echo $$ >"$1/cgroup/$2/cgroup.procs"
exec unshare --cgroup --pid --fork --kill-child --mount sh -euc "$4" sh "$@"
"""
# In namespaces of mounts, processes and cgroups; the old /proc has the pid for those outside.
_INNER = """
read -r pid _ </proc/self/stat
mount -t proc proc /proc
umount "$1/cgroup"
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf -o mode=700 bpf /sys/fs/bpf
for each in /run /opt /var/cache /etc/systemd/system; do
    mount -t tmpfs -o mode=755 tmpfs "$each"
done
mkdir /run/openvswitch /opt/checkout
mount --bind "$3" /run/openvswitch
mount --bind "$5" /opt/checkout
cp -r "$1/units/." /etc/systemd/system
cp -r "$1/opt" "$1/cache" /run
cp -r /run/opt/. /opt
cp -r /run/cache/. /var/cache
echo "$pid" >"$1/pid"
exec env -i PATH="$PATH" container=lab SYSTEMD_UNIT_PATH=/etc/systemd/system \\
    "$6" --system --show-status=no --log-target=console --default-standard-output=null
"""
_REMOVE = """
mount -t cgroup2 cgroup2 "$1"
cd "$1"
shift
for each; do
    find "$each" -depth -type d -exec rmdir {} + || :
done
"""


class Systemd(Resource):
    """systemd in namespaces of its own but for the switch's network, with units that are given.

    Its bpffs, `/run`, `/var/cache` and `/opt` are empty, but for the switch's run directory at
    its usual place, and for a sidecar at PREFIX that is this checkout's.
    """

    def __init__(self, switch: Switch, units: Iterable[Path], *, compiled: bool = True) -> None:
        """`compiled` gives it what this machine's sidecars have compiled."""
        self.switch = switch
        self._name = unique_name("systemd")
        self.directory = Path(tempfile.gettempdir()) / self._name
        self._units = list(units)
        self._compiled = compiled
        self._process: subprocess.Popen[str] | None = None

    def open(self) -> None:
        """Start it, without a service."""
        try:
            self._fill()
            arguments = (
                *(str(self.directory), self._name, str(self.switch.rundir), _INNER),
                *(str(_CHECKOUT), str(SYSTEMD)),
            )
            with (self.directory / "log").open("w") as log:
                self._process = self.switch.ns.popen(
                    *("unshare", "--mount", "--propagation", "slave"),
                    *("sh", "-euc", _OUTER, "sh", *arguments),
                    stdout=log,
                    stderr=log,
                )
            wait_for(self._answers, 20, "systemd")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it with all its services."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(patience(10))
            self._process = None
            wait_for(self._is_gone, what="systemd's end")
            _remove_cgroups([self._name])
        shutil.rmtree(self.directory, ignore_errors=True)

    def _fill(self) -> None:
        for name in ("units", "opt", "cache", "cgroup"):
            (self.directory / name).mkdir(mode=0o755, parents=True)
        for target in _TARGETS:
            (self.directory / "units" / f"{target}.target").write_text(_TARGET)
        (self.directory / "units" / "openvswitch-switch.service").write_text(_SWITCH)
        for unit in self._units:
            shutil.copy(unit, self.directory / "units")
        command = self.directory / "opt" / PREFIX.name / "bin" / "ovs-ebpf-tap"
        command.parent.mkdir(parents=True)
        python = _SOURCE / Path(sys.executable).relative_to(_CHECKOUT)
        command.write_text(f'#!/bin/sh\nPYTHONPATH={_SOURCE} exec {python} -m ovs_ebpf_tap "$@"\n')
        command.chmod(0o755)
        if self._compiled and build.CACHE.is_dir():
            shutil.copytree(build.CACHE, self.directory / "cache" / PREFIX.name / "programs")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"systemd ended: {self.log()}")
        if not (self.directory / "pid").exists():
            return False
        return self.run("systemctl", "list-jobs", check=False).returncode == 0

    def _is_gone(self) -> bool:
        pid = self._pid()
        return pid is None or not Path(f"/proc/{pid}").exists()

    def _pid(self) -> int | None:
        try:
            return int((self.directory / "pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def log(self) -> str:
        """What systemd has said."""
        return (self.directory / "log").read_text()

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program where systemd's services would be seen, but without their limits."""
        there = ("nsenter", "--mount", "--pid", f"--target={self._pid()}")
        return self.switch.ns.run(*there, *argv, check=check, timeout=60)

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl; return what it prints. Raises CommandError if it fails."""
        return self.run("systemctl", *arguments).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)


def reap_cgroups() -> None:
    """Removes the cgroups of tests that were killed."""
    places = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    names = {path.name for place in places for path in Path(place).glob("*")}
    _remove_cgroups(filter(is_leftover, names))


def _remove_cgroups(names: Iterable[str]) -> None:
    names = list(names)
    if not names:
        return
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(
            ("unshare", "--mount", "sh", "-euc", _REMOVE, "sh", place, *names),
            capture_output=True,
            check=True,
        )
