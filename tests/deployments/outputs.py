"""Output ports of each kind that users have."""

from __future__ import annotations

from deployments.mirrors import OutputKind
from ovs_ebpf_tap.lab.capture import Capture, Direction
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.tap import TapDevice


class Output:
    """An output port, and what is delivered there."""

    def __init__(self, port: str, delivered: Capture | TapDevice) -> None:
        self.port = port
        self.delivered = delivered

    def start(self) -> None:
        """Listens from here on."""
        self.delivered.clear()
        if isinstance(self.delivered, Capture):
            self.delivered.start()

    def stop(self) -> None:
        """Ends that."""
        if isinstance(self.delivered, Capture):
            self.delivered.stop()


def add_output(switch: Switch, bridge: str, kind: OutputKind, name: str) -> Output:
    """Adds an output port; `name` has at most 14 characters."""
    if kind == "tap":
        return Output(name, switch.add_tap(name, bridge))
    if kind == "internal":
        host = switch.add_internal(name, bridge)
        return Output(host.port, host.capture())
    if kind == "dummy":
        made = switch.ns.run("ip", "link", "add", name, "type", "dummy", check=False)
        if made.returncode != 0:
            # A kernel without it; a bridge without ports drops what it is sent, too.
            switch.ns.run("ip", "link", "add", name, "type", "bridge")
        switch.ns.run("ip", "link", "set", name, "up")
        switch.vsctl("add-port", bridge, name)
        return Output(name, Capture(switch.ns, name, Direction.OUT))
    host = switch.add_host(name, bridge, with_ip=False)
    return Output(host.port, host.capture())
