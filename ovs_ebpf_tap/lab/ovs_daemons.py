"""ovsdb-server and ovs-vswitchd: how they start and end."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from ovs_ebpf_tap.lab.ovs_tools import OvsTools
from ovs_ebpf_tap.lab.processes import kill_and_wait, wait_gone
from ovs_ebpf_tap.lab.resource import Resource

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
# What `scripts/fetch-ovs` makes: Open vSwitch and OVN of Debian 12 and of Debian 13.
DEBIAN_12_OVS = Path("/var/cache/ovs-ebpf-tap/debian-12")
NEWER_OVS = Path("/var/cache/ovs-ebpf-tap/debian-13")

# An ovs-vswitchd started earlier after boot takes itself to have no handler threads.
_EARLIEST_UPTIME = 11.0


class OvsDaemons(OvsTools, Resource):
    """Both daemons, and the database's file. See `Switch` for the parameters."""

    def __init__(
        self, label: str, schema: Path, prefix: str, ovs: Path | None, database: Path | None
    ) -> None:
        super().__init__(label, prefix, ovs)
        self._schema = schema if ovs is None else ovs / SCHEMA.relative_to("/")
        self._database = database
        self._resources = contextlib.ExitStack()

    def open(self) -> None:
        """Start the switch, without a bridge."""
        try:
            self.rundir.mkdir(mode=0o700)
            self._resources.callback(shutil.rmtree, self.rundir, ignore_errors=True)
            self._resources.enter_context(self.ns)
            if self._database is None:
                self._run("ovsdb-tool", "create", str(self._conf_db), str(self._schema))
            else:
                shutil.copy(self._database, self._conf_db)
            self.start_ovsdb()
            self._init_db()
            self.start_vswitchd()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the switch with all that runs in it. Again does nothing."""
        self._resources.callback(self.kill_ovsdb)
        self._resources.callback(self.kill_vswitchd)
        self._resources.close()

    def backup(self, path: Path) -> None:
        """Write the database to a file as it is."""
        text = self.ns.run("ovsdb-client", "backup", self.db, env=self.env).stdout
        path.write_text(text)

    def start_ovsdb(self) -> None:
        """Start ovsdb-server and wait until it listens."""
        self._start("ovsdb-server", str(self._conf_db), f"--remote=p{self.db}")

    def stop_ovsdb(self) -> None:
        """End ovsdb-server in order."""
        self._stop("ovsdb-server")

    def kill_ovsdb(self) -> None:
        """End ovsdb-server as a crash would."""
        self._kill("ovsdb-server")

    def restart_ovsdb(self) -> None:
        """Stop and start ovsdb-server."""
        self.stop_ovsdb()
        self.start_ovsdb()

    def start_vswitchd(self, *options: str) -> None:
        """Start ovs-vswitchd and wait until it has taken in the database."""
        _await_uptime()
        self._start("ovs-vswitchd", self.db, *options)
        self._deepen_queues()

    def stop_vswitchd(self) -> None:
        """End ovs-vswitchd in order; a kernel datapath stays and goes on forwarding."""
        self._stop("ovs-vswitchd")

    def kill_vswitchd(self) -> None:
        """End ovs-vswitchd as a crash would."""
        self._kill("ovs-vswitchd")

    def restart_vswitchd(self) -> None:
        """Stop and start ovs-vswitchd."""
        self.stop_vswitchd()
        self.start_vswitchd()

    def upgrade(self, ovs: Path) -> None:
        """Restart ovsdb-server with another Open vSwitch, and its schema, which goes for
        ovs-vswitchd from its next start on: it has to be stopped.
        """
        self.stop_ovsdb()
        self._ovs = ovs
        self._schema = ovs / SCHEMA.relative_to("/")
        self._run("ovsdb-tool", "convert", str(self._conf_db), str(self._schema))
        self.start_ovsdb()
        self._init_db()

    @property
    def _conf_db(self) -> Path:
        return self.rundir / "conf.db"

    def _init_db(self) -> None:
        """Write what ovs-ctl writes before it starts ovs-vswitchd."""
        version = self._run("ovs-vswitchd", "--version").splitlines()[0].split()[-1]
        settings = ("set", "Open_vSwitch", ".", f"ovs_version={version}")
        self._run("ovs-vsctl", f"--db={self.db}", "--no-wait", "init", "--", *settings)

    def _start(self, daemon: str, *args: str) -> None:
        # The command returns when the daemon is ready: with --detach they say so themselves.
        options = ("--detach", "--no-chdir", "--pidfile", f"--log-file={self.rundir}/{daemon}.log")
        self._run(daemon, *args, *options, "-vconsole:off", "-vsyslog:off")

    def _stop(self, daemon: str) -> None:
        pid = self._pid(daemon)
        if pid is not None:
            self.appctl("-t", daemon, "exit")
            wait_gone(pid)

    def _kill(self, daemon: str) -> None:
        pid = self._pid(daemon)
        if pid is not None:
            kill_and_wait(pid)


def _await_uptime() -> None:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    time.sleep(max(0.0, _EARLIEST_UPTIME - uptime))
