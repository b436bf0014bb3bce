"""The tools of an Open vSwitch, which is in a namespace and a directory of its own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ovs_ebpf_tap.lab.names import unique_name
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.queues import deepen_queues
from ovs_ebpf_tap.lab.vsctl_arguments import (
    Column,
    Port,
    PortReferences,
    column_settings,
    port_name,
)
from ovs_ebpf_tap.lab.waiting import patience


class OvsTools:
    """Runs the tools; each returns what the tool prints and raises CommandError if it fails.

    `ovs` is a directory with another Open vSwitch than the machine's.
    """

    def __init__(self, label: str, prefix: str, ovs: Path | None) -> None:
        self.ns = Netns(label, prefix)
        self.rundir = Path(tempfile.gettempdir()) / unique_name(label, prefix)
        self._ovs = ovs

    @property
    def db(self) -> str:
        """The database's address."""
        return f"unix:{self.rundir}/db.sock"

    @property
    def env(self) -> dict[str, str]:
        """The environment that leads OVS's own tools, and a sidecar, to this switch."""
        variables = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        env = dict.fromkeys(variables, str(self.rundir))
        if self._ovs is not None:
            env["PATH"] = f"{self._ovs}/bin:{os.environ.get('PATH', os.defpath)}"
        return env

    def vsctl(self, *args: str) -> str:
        """Run ovs-vsctl, which waits for ovs-vswitchd, if that runs, to do what is asked."""
        wait = () if self._pid("ovs-vswitchd") else ("--no-wait",)
        limit = f"--timeout={int(patience(20))}"
        printed = self._run("ovs-vsctl", f"--db={self.db}", limit, *wait, *args)
        self._deepen_queues()
        return printed

    def ofctl(self, *args: str) -> str:
        """Run ovs-ofctl; a bridge goes by its name."""
        return self._run("ovs-ofctl", *args)

    def appctl(self, *args: str) -> str:
        """Run ovs-appctl, on ovs-vswitchd unless `-t` says otherwise."""
        return self._run("ovs-appctl", *args)

    def dpctl(self, *args: str) -> str:
        """Run ovs-appctl's dpctl/..., e.g. `dpctl("dump-flows")`, for either datapath."""
        return self.appctl(f"dpctl/{args[0]}", *args[1:])

    def vswitchd_pid(self) -> int | None:
        """The process id of ovs-vswitchd, None if it does not run."""
        return self._pid("ovs-vswitchd")

    def vswitchd_log(self) -> str:
        """What ovs-vswitchd has logged since the switch was opened."""
        return (self.rundir / "ovs-vswitchd.log").read_text()

    # Rows of the database.

    def get(self, table: str, record: str, column: str) -> str:
        """A column's value as ovs-vsctl prints it, without quotes around a single text."""
        printed = self.vsctl("--if-exists", "get", table, record, column)
        return str(json.loads(printed)) if printed.startswith('"') else printed

    def set_columns(self, table: str, record: str, **values: Column) -> None:
        """Set columns of a row; a mapping replaces only the keys that it has."""
        self.vsctl("set", table, record, *column_settings(values))

    def mirror(
        self,
        name: str,
        bridge: str = "br0",
        src: Iterable[Port] = (),
        dst: Iterable[Port] = (),
        select_all: bool = False,
        output: Port | None = None,
        **values: Column,
    ) -> str:
        """Add a Mirror as an operator does, and return its UUID.

        `values` are further columns, `output_vlan` or `external_ids` for example.
        """
        columns: dict[str, Column] = {"name": name, "select_all": select_all, **values}
        ids = PortReferences()
        columns["select_src_port"] = ids.of(src)
        columns["select_dst_port"] = ids.of(dst)
        if output is not None:
            columns["output_port"] = ids.of([output])
        create = ("--id=@mirror", "create", "Mirror", *column_settings(columns))
        printed = self.vsctl(
            *ids.gets, *create, "--", "add", "Bridge", bridge, "mirrors", "@mirror"
        )
        return printed.split()[-1]

    def remove_mirror(self, name: str, bridge: str = "br0") -> None:
        """Remove a Mirror as an operator does."""
        get = ("--id=@mirror", "get", "Mirror", name)
        self.vsctl("--", *get, "--", "remove", "Bridge", bridge, "mirrors", "@mirror")

    def wait_until(self, table: str, record: str, *conditions: str) -> None:
        """Wait for conditions on a row, e.g. "external_ids:a=b"; CommandError when in vain."""
        self.vsctl("wait-until", table, record, *conditions)

    def ofport(self, port: Port) -> int:
        """The port's OpenFlow number."""
        return int(self.get("Interface", port_name(port), "ofport"))

    # Behind all this.

    def _run(self, *argv: str) -> str:
        return self.ns.run(*argv, env=self.env, timeout=30).stdout.strip()

    def _pid(self, daemon: str) -> int | None:
        """The daemon's process id if it runs; the file of a killed one stays behind."""
        try:
            pid = int((self.rundir / f"{daemon}.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        # Of another Open vSwitch than the machine's, the first word is the dynamic loader.
        names = {Path(word).name for word in command.split("\0")}
        return pid if daemon in names and _alive(pid) else None

    def _deepen_queues(self) -> None:
        """Let the switch's sockets hold what comes while it is busy: it is to lose no frame."""
        pid = self._pid("ovs-vswitchd")
        if pid is not None:
            deepen_queues(pid)


def _alive(pid: int) -> bool:
    """Whether a process runs: one that ended and was not collected yet does not."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state not in ("Z", "X")
