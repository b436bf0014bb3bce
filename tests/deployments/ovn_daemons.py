"""OVN beside the lab's switches: its databases, ovn-northd, and an ovn-controller on each chassis.

The databases listen on Unix sockets in the first chassis' directory, which all reach.
"""

from __future__ import annotations

from pathlib import Path

from ovs_ebpf_tap.lab.processes import wait_gone
from ovs_ebpf_tap.lab.switch import Switch
from parity.case import datapath_type

_SCHEMAS = Path("usr/share/ovn")
_WAIT = "--timeout=60"


class Ovn:
    """OVN's databases and ovn-northd. `ovs` is the directory that has OVN's programs."""

    def __init__(self, chassis: Switch, ovs: Path) -> None:
        self._chassis = chassis
        self._ovs = ovs

    @property
    def southbound(self) -> str:
        """The address of the database that ovn-controller connects to."""
        return self._address("sb")

    def start(self) -> None:
        """Starts all; they end with the chassis' namespace."""
        for name in ("nb", "sb"):
            database = str(self._chassis.rundir / f"ovn-{name}.db")
            schema = str(self._ovs / _SCHEMAS / f"ovn-{name}.ovsschema")
            self._run("ovsdb-tool", "create", database, schema)
            listening = f"--remote=p{self._address(name)}"
            _start(self._chassis, "ovsdb-server", f"ovn-{name}", database, listening)
        databases = (f"--ovnnb-db={self._address('nb')}", f"--ovnsb-db={self._address('sb')}")
        _start(self._chassis, "ovn-northd", "ovn-northd", *databases)
        self.nbctl("init")

    def nbctl(self, *arguments: str) -> str:
        """Runs ovn-nbctl, and returns what it prints."""
        return self._run("ovn-nbctl", f"--db={self._address('nb')}", _WAIT, *arguments)

    def sync(self) -> None:
        """Waits until every chassis has taken in all changes."""
        self.nbctl("--wait=hv", "sync")

    def _address(self, name: str) -> str:
        return f"unix:{self._chassis.rundir}/ovn-{name}.sock"

    def _run(self, *argv: str) -> str:
        switch = self._chassis
        return switch.ns.run(*argv, env=switch.env, timeout=90).stdout.strip()


def join(chassis: Switch, southbound: str, name: str, ip: str, mappings: str) -> None:
    """Has a switch be a chassis: its tunnels end at `ip`; `mappings` are its bridge mappings."""
    chassis.set_columns(
        "Open_vSwitch",
        ".",
        external_ids={
            "system-id": name,
            "ovn-remote": southbound,
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": ip,
            "ovn-bridge-datapath-type": datapath_type(),
            "ovn-bridge-mappings": mappings,
        },
    )
    _start(chassis, "ovn-controller", "ovn-controller", chassis.db)


def restart_controller(chassis: Switch) -> None:
    """As an upgrade does, which leaves flows and rows where they are."""
    pid = int((chassis.rundir / "ovn-controller.pid").read_text())
    control = str(chassis.rundir / f"ovn-controller.{pid}.ctl")
    chassis.appctl("-t", control, "exit", "--restart")
    wait_gone(pid)
    _start(chassis, "ovn-controller", "ovn-controller", chassis.db)


def _start(switch: Switch, daemon: str, name: str, *arguments: str) -> None:
    # The command returns when the daemon is ready: with --detach they say so themselves.
    options = ("--detach", "--no-chdir", f"--pidfile={switch.rundir}/{name}.pid")
    logs = (f"--log-file={switch.rundir}/{name}.log", "-vconsole:off", "-vsyslog:off")
    env = dict.fromkeys(("OVN_RUNDIR", "OVN_LOGDIR", "OVN_SYSCONFDIR"), str(switch.rundir))
    switch.ns.run(daemon, *arguments, *options, *logs, env={**switch.env, **env})
