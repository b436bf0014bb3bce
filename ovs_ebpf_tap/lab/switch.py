"""A real Open vSwitch in a namespace of its own, with hosts around it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovs_ebpf_tap.lab.capture import Capture, Direction
from ovs_ebpf_tap.lab.frames import arp_request
from ovs_ebpf_tap.lab.names import PREFIX, unique_name
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.processes import kill_and_wait, wait_gone
from ovs_ebpf_tap.lab.queues import deepen_queues
from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.tap import TapDevice
from ovs_ebpf_tap.lab.traffic import send
from ovs_ebpf_tap.lab.waiting import patience, wait_for

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
# What `scripts/newer-ovs` makes: the Open vSwitch of Debian 13.
NEWER_OVS = Path("/var/cache/ovs-ebpf-tap/newer-ovs")

# A value for a column: text goes to ovs-vsctl as it is, so that "10,20", "[]" or "@id" work.
Column = str | int | bool | Sequence[str | int] | Mapping[str, str]

# An ovs-vswitchd started earlier after boot takes itself to have no handler threads.
_EARLIEST_UPTIME = 11.0
# In frames; what is more is dropped. Linux 6.1 refuses 32768 and more.
_TAP_QUEUE = 30_000
_OFFLOADS = ("rx", "tx", "sg", "tso", "gso", "gro")


@dataclass(frozen=True)
class Host:
    """A machine at a port of the switch; for an internal port, the switch's own machine.

    Frames go into and out of `device` in namespace `ns`. `port` is the port's and the
    interface's name, and that of the switch's device for it. `ip` has a /24 prefix; at an internal
    port it is not configured on the device unless asked for.
    """

    name: str
    ns: Netns
    device: str
    port: str
    mac: str
    ip: str

    def send(self, frames: Iterable[bytes]) -> int:
        """See `traffic.send`."""
        return send(self, frames)

    def capture(self, direction: Direction = Direction.IN) -> Capture:
        """A capture, to be started, of the frames that reach this host."""
        return Capture.of(self, direction)


@dataclass(frozen=True)
class Bond:
    """A bonded port; each member leads to a host of its own."""

    port: str
    members: tuple[Host, ...]


Port = str | Host | Bond | TapDevice


class Switch(Resource):
    """ovsdb-server and ovs-vswitchd, run in a namespace and a directory made for them.

    `ovs` is a directory with another Open vSwitch than the machine's (`NEWER_OVS`), whose schema
    then is in place of `schema`. `database` is the file of a database to start with, as after a
    reboot, or from a backup.
    """

    def __init__(
        self,
        label: str = "switch",
        schema: Path = SCHEMA,
        prefix: str = PREFIX,
        ovs: Path | None = None,
        database: Path | None = None,
    ) -> None:
        self.ns = Netns(label, prefix)
        self.rundir = Path(tempfile.gettempdir()) / unique_name(label, prefix)
        self.hosts: dict[str, Host] = {}
        self._ovs = ovs
        self._schema = schema if ovs is None else ovs / SCHEMA.relative_to("/")
        self._database = database
        self._prefix = prefix
        self._resources = contextlib.ExitStack()
        self._numbers = 1  # Of hosts, the last that is taken; 1 is a gateway's.

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

    # Life

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
        """Remove the switch and its hosts, with all that runs in them. Again does nothing."""
        self._resources.callback(self.kill_ovsdb)
        self._resources.callback(self.kill_vswitchd)
        self._resources.close()
        self.hosts.clear()

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

    def start_vswitchd(self) -> None:
        """Start ovs-vswitchd and wait until it has taken in the database."""
        _await_uptime()
        self._start("ovs-vswitchd", self.db)
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

    def vswitchd_pid(self) -> int | None:
        """The process id of ovs-vswitchd, None if it does not run."""
        return self._pid("ovs-vswitchd")

    def vswitchd_log(self) -> str:
        """What ovs-vswitchd has logged since the switch was opened."""
        return (self.rundir / "ovs-vswitchd.log").read_text()

    # Tools; each returns what the tool prints and raises CommandError if it fails.

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

    def get(self, table: str, record: str, column: str) -> str:
        """A column's value as ovs-vsctl prints it, without quotes around a single text."""
        printed = self.vsctl("--if-exists", "get", table, record, column)
        return str(json.loads(printed)) if printed.startswith('"') else printed

    def set_columns(self, table: str, record: str, **values: Column) -> None:
        """Set columns of a row; a mapping replaces only the keys that it has."""
        self.vsctl("set", table, record, *_settings(values))

    # Topology

    def add_bridge(
        self, name: str = "br0", datapath_type: str | None = None, **values: Column
    ) -> None:
        """Add a bridge, of datapath type $OVS_EBPF_TAP_DATAPATH or else netdev.

        The device of its local port stays down.
        """
        datapath = datapath_type or os.environ.get("OVS_EBPF_TAP_DATAPATH") or "netdev"
        settings = _settings({"datapath_type": datapath, **values})
        self.vsctl("add-br", name, "--", "set", "Bridge", name, *settings)

    def add_host(
        self,
        name: str,
        bridge: str | None = "br0",
        offloads: bool = False,
        mtu: int | None = None,
        with_ip: bool = True,
        **values: Column,
    ) -> Host:
        """Join a host of its own namespace to the bridge: its eth0 to our `<name>0`.

        `values` are columns of the Port row. `bridge=None` makes the devices but no port.
        Without `offloads` a frame on the wire is whole: cut to the MTU, with its checksums.
        Without `with_ip` its kernel answers nothing: no ARP, no echo, no TCP reset.
        """
        self._need_free(name)
        number = self._next_number()
        ns = self._resources.enter_context(Netns(name, self._prefix))
        host = Host(name, ns, "eth0", f"{name}0", _mac(number), f"10.0.0.{number}")
        self._connect(host, offloads, mtu, with_ip)
        if bridge is not None:
            self._add_port(bridge, host.port, values)
        self.hosts[name] = host
        return host

    def add_internal(
        self, name: str, bridge: str = "br0", with_ip: bool = False, **values: Column
    ) -> Host:
        """Add an internal port; its device is in the switch's own namespace.

        `with_ip` configures its address, which only one port of the namespace should have.
        """
        self._need_free(name)
        number = self._next_number()
        interface = ("--", "set", "Interface", name, "type=internal", f'mac="{_mac(number)}"')
        self._add_port(bridge, name, values, interface)
        return self._internal_host(name, number, with_ip)

    def add_bond(
        self,
        name: str,
        members: Sequence[str],
        bridge: str = "br0",
        with_ip: bool = True,
        **values: Column,
    ) -> Bond:
        """Add a bonded port; each member, so named, is a host as `add_host` makes it."""
        hosts = tuple(self.add_host(each, bridge=None, with_ip=with_ip) for each in members)
        ports = [host.port for host in hosts]
        self.vsctl("add-bond", bridge, name, *ports, *_settings(values))
        return Bond(name, hosts)

    def add_tap(self, name: str, bridge: str = "br0", **values: Column) -> TapDevice:
        """Add a tap device that this process holds open, as a virtual machine's would be."""
        self._need_free(name)
        number = self._next_number()
        tap = self._resources.enter_context(
            TapDevice(self.ns, name, _mac(number), f"10.0.0.{number}", _TAP_QUEUE)
        )
        self._add_port(bridge, name, values)
        return tap

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
        ids = _Identifiers()
        columns["select_src_port"] = ids.of(src)
        columns["select_dst_port"] = ids.of(dst)
        if output is not None:
            columns["output_port"] = ids.of([output])
        create = ("--id=@mirror", "create", "Mirror", *_settings(columns))
        printed = self.vsctl(
            *ids.gets, *create, "--", "add", "Bridge", bridge, "mirrors", "@mirror"
        )
        return printed.split()[-1]

    def remove_mirror(self, name: str, bridge: str = "br0") -> None:
        """Remove a Mirror as an operator does."""
        get = ("--id=@mirror", "get", "Mirror", name)
        self.vsctl("--", *get, "--", "remove", "Bridge", bridge, "mirrors", "@mirror")

    # Waiting

    def learn(self, *hosts: Host | TapDevice, bridge: str = "br0") -> None:
        """Have each host announce itself, and wait until the bridge has learned its address.

        The announcements are flooded, and have passed all hosts when this returns.
        """
        with contextlib.ExitStack() as listening:
            captures = [listening.enter_context(host.capture()) for host in self.hosts.values()]
            for host in hosts:
                host.send([arp_request(host, host.ip)])
            wait_for(lambda: self._know(bridge, hosts), what=f"{bridge} learning its hosts")
            for capture in captures:
                capture.wait_quiet(0.05)

    def wait_until(self, table: str, record: str, *conditions: str) -> None:
        """Wait for conditions on a row, e.g. "external_ids:a=b"; CommandError when in vain."""
        self.vsctl("wait-until", table, record, *conditions)

    def ofport(self, port: Port) -> int:
        """The port's OpenFlow number."""
        return int(self.get("Interface", _port_name(port), "ofport"))

    # Behind all this

    @property
    def _conf_db(self) -> Path:
        return self.rundir / "conf.db"

    def _run(self, *argv: str) -> str:
        return self.ns.run(*argv, env=self.env, timeout=30).stdout.strip()

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

    def _know(self, bridge: str, hosts: Iterable[Host | TapDevice]) -> bool:
        learned = self.appctl("fdb/show", bridge)
        return all(host.mac in learned for host in hosts)

    def _connect(self, host: Host, offloads: bool, mtu: int | None, with_ip: bool) -> None:
        size = () if mtu is None else ("mtu", str(mtu))
        peer = ("peer", "name", host.device, *size, "address", host.mac, "netns", host.ns.name)
        self.ns.run("ip", "link", "add", host.port, *size, "type", "veth", *peer)
        self.ns.run("ip", "link", "set", host.port, "up")
        setup = f"link set {host.device} up\n"
        if with_ip:
            setup += f"addr add {host.ip}/24 dev {host.device}\n"
        host.ns.run("ip", "-batch", "-", stdin=setup)
        if not offloads:
            switched_off = [word for feature in _OFFLOADS for word in (feature, "off")]
            self.ns.run("ethtool", "-K", host.port, *switched_off)
            host.ns.run("ethtool", "-K", host.device, *switched_off)

    def _add_port(
        self, bridge: str, port: str, values: Mapping[str, Column], more: Sequence[str] = ()
    ) -> None:
        self.vsctl("add-port", bridge, port, *_settings(values), *more)
        error = self.get("Interface", port, "error")
        if error != "[]":
            raise RuntimeError(f"port {port} of {bridge}: {error}")

    def _internal_host(self, name: str, number: int, with_ip: bool) -> Host:
        ip = f"10.0.0.{number}"
        setup = f"link set {name} up txqueuelen {_TAP_QUEUE}\n"
        if with_ip:
            setup += f"addr add {ip}/24 dev {name}\n"
        self.ns.run("ip", "-batch", "-", stdin=setup)
        links = json.loads(self.ns.run("ip", "-json", "link", "show", "dev", name).stdout)
        host = Host(name, self.ns, name, name, links[0]["address"], ip)
        self.hosts[name] = host
        return host

    def _next_number(self) -> int:
        self._numbers += 1
        if self._numbers > 254:
            raise RuntimeError("the lab's network has 254 addresses")
        return self._numbers

    def _need_free(self, name: str) -> None:
        if name in self.hosts:
            raise ValueError(f"there is a host {name} already")


class _Identifiers:
    """ovs-vsctl's `--id=@... get Port ...`, once for each port, and the names so given."""

    def __init__(self) -> None:
        self.gets: list[str] = []
        self._names: dict[str, str] = {}

    def of(self, ports: Iterable[Port]) -> list[str]:
        return [self._identifier(_port_name(port)) for port in ports]

    def _identifier(self, port: str) -> str:
        if port not in self._names:
            identifier = f"@port{len(self._names)}"
            self._names[port] = identifier
            self.gets += [f"--id={identifier}", "get", "Port", port, "--"]
        return self._names[port]


def _port_name(port: Port) -> str:
    return port if isinstance(port, str) else port.port


def _settings(values: Mapping[str, Column]) -> list[str]:
    """Columns in ovs-vsctl's syntax; a mapping becomes one setting for each key."""
    settings = []
    for column, value in values.items():
        if isinstance(value, Mapping):
            settings += [f"{column}:{key}={json.dumps(item)}" for key, item in value.items()]
        else:
            settings.append(f"{column}={_value(value)}")
    return settings


def _value(value: str | int | bool | Sequence[str | int]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int):
        return str(value)
    return ",".join(map(str, value)) or "[]"


def _mac(number: int) -> str:
    """A locally administered address."""
    return f"02:00:00:00:00:{number:02x}"


def _alive(pid: int) -> bool:
    """Whether a process runs: one that ended and was not collected yet does not."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state not in ("Z", "X")


def _await_uptime() -> None:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    time.sleep(max(0.0, _EARLIEST_UPTIME - uptime))
