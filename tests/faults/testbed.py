"""Where faults happen: a switch, hosts, a mirror, and a sidecar."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from faults.killable_sidecar import KillableSidecar
from faults.mirror_rows import Rows, read_rows
from ovs_ebpf_tap.ebpf.pinning import LINKS
from ovs_ebpf_tap.lab.names import unique_name
from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.sidecar_process import BPFFS, hook_count, remove_pins
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.model.desired import OFFLOADED
from ovs_ebpf_tap.model.rows import MODE_KEY


class Testbed(Resource):
    """A switch with hosts that talk, and with monitors; `tap` is its sidecar.

    `wanted` is the state that each mirror is to be in when all is right; of one that is to have
    nothing of the sidecar's on it, None.
    """

    __test__ = False

    def __init__(self, attach: str) -> None:
        self.attach = attach
        self.switch = Switch("faults")
        self.wanted: dict[str, str | None] = {}
        self._pin_dir = BPFFS / unique_name("faults")
        self._resources = contextlib.ExitStack()

    def open(self) -> None:
        """Makes switch and hosts; neither a mirror nor a sidecar."""
        try:
            self._resources.callback(self.forget_programs)
            self._resources.enter_context(self.switch)
            self.switch.add_bridge()
            self.hosts = [self.switch.add_host(name, with_ip=False) for name in "abcmn"]
            self.a, self.b, self.c, self.monitor, self.other_monitor = self.hosts
            self.switch.learn(self.a, self.b, self.c)
            self.tap = self._make_tap()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Removes all of it."""
        self._resources.close()

    def _make_tap(self) -> KillableSidecar:
        tap = KillableSidecar(
            self.switch, "--attach", self.attach, "--fast-attach", pin_dir=self._pin_dir
        )
        self._resources.callback(tap.close)
        return tap

    def forget_programs(self) -> None:
        """Has the next sidecar load them; the kernel takes 1.7 s of CPU time to verify them."""
        remove_pins(self._pin_dir)

    def mirror(self, name: str = "m", state: str = OFFLOADED, dst: Iterable[Host] = ()) -> None:
        """Adds a mirror of what `a` sends, and waits until it is `state`."""
        self.switch.mirror(
            name, src=[self.a], dst=dst, output=self.monitor, external_ids=_mode(state)
        )
        # Flows of an earlier mirror's time may still be there, which OVS does not revalidate.
        self.switch.appctl("revalidator/purge")
        self.wanted[name] = state
        self.wait_right()

    def move(self, name: str, state: str) -> None:
        """Asks for the mirror to be moved, and does not wait."""
        ((key, mode),) = _mode(state).items()
        self.switch.vsctl("--no-wait", "set", "Mirror", name, f"external_ids:{key}={mode}")
        self.wanted[name] = state

    def rows(self) -> Rows:
        """The database's rows. Raises OSError if the database is not there."""
        return read_rows(self.switch.db)

    def is_right(self) -> bool:
        """Whether each mirror is as wanted, no port is protected, and no hook is too much."""
        try:
            rows = self.rows()
        except OSError:
            return False
        if rows.mirrors.keys() != self.wanted.keys():
            return False
        states = {name: row.is_right(self.wanted[name]) for name, row in rows.mirrors.items()}
        if not all(states.values()) or rows.protected:
            return False
        return OFFLOADED in self.wanted.values() or not hook_count(self.switch)

    def namespaces(self) -> set[int]:
        """The inodes of the network namespaces that its processes are in."""
        all_ = (self.switch.ns, *(host.ns for host in self.hosts))
        return {Path("/run/netns", ns.name).stat().st_ino for ns in all_}

    def dropped(self) -> int:
        """How many frames the kernel has dropped that were sent to the output's device."""
        shown = self.switch.ns.run(
            "ip", "-json", "-stats", "link", "show", "dev", self.monitor.port, check=False
        ).stdout
        return int(json.loads(shown)[0]["stats64"]["tx"]["dropped"]) if shown.strip() else 0

    def wait_right(self, seconds: float = 10.0) -> None:
        """Waits until all is right. Raises AssertionError."""
        try:
            wait_for(self.is_right, seconds, f"{self.wanted}", every=0.005)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.rows()}\n{self.tap.log()}") from None

    def reset(self) -> None:
        """Ends the sidecar, and removes mirrors and hooks. Programs stay, for the next test."""
        self.tap.close()
        shutil.rmtree(self._pin_dir / LINKS, ignore_errors=True)
        self.wanted = {}
        ports = [host.port for host in self.hosts]
        words = ["clear", "Bridge", "br0", "mirrors"]
        for port in ports:
            words += ["--", "--may-exist", "add-port", "br0", port]
            words += ["--", "set", "Port", port, "protected=false", "tag=[]"]
        self.switch.vsctl(*words)
        for port in ports:
            self.switch.ns.run("tc", "qdisc", "del", "dev", port, "clsact", check=False)
        wait_for(lambda: not hook_count(self.switch), what="no hooks")
        self.tap = self._make_tap()


def _mode(state: str) -> dict[str, str]:
    return {MODE_KEY: "offload" if state == OFFLOADED else "native"}
