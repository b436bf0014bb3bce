"""The demonstration's machines, and a round of traffic between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from ovs_ebpf_tap.lab.capture import Capture, Direction
from ovs_ebpf_tap.lab.demo_output import say
from ovs_ebpf_tap.lab.differences import difference
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.traffic import iperf, ping

_PINGS = 10
_RATE = "20M"


class DemoError(Exception):
    """Something did not happen as it should have."""


@dataclass(frozen=True)
class TrafficRound:
    """One round of traffic: how many frames the machines sent, and the copies of vm1's."""

    copier: str
    sent: int
    expected: Counter[bytes]
    seen: Counter[bytes]
    by_ebpf: int

    @property
    def missing(self) -> int:
        """Copies that should be there and are not."""
        return (self.expected - self.seen).total()

    @property
    def extra(self) -> int:
        """Copies that should not be there."""
        return (self.seen - self.expected).total()

    @property
    def faults(self) -> list[str]:
        """What is wrong, in words."""
        found = []
        if not self.expected:
            found.append("no traffic passed")
        if self.missing or self.extra:
            found.append(str(difference(self.expected, self.seen)))
        should = self.seen.total() if self.copier == "eBPF" else 0
        if self.by_ebpf != should:
            found.append(f"the programs counted {self.by_ebpf} copies, not {should}")
        return found

    def cells(self) -> tuple[str, ...]:
        """The round as a row of the table."""
        numbers = (
            self.sent,
            self.expected.total(),
            self.seen.total(),
            self.missing,
            self.extra,
            self.by_ebpf,
        )
        return (self.copier, *map(str, numbers))


@dataclass(frozen=True)
class DemoMachines:
    """`vm1`, `vm2` and the switch's own host talk; `monitor` gets copies of vm1's frames."""

    vm1: Host
    vm2: Host
    host: Host
    monitor: Host

    @classmethod
    def connect(cls, switch: Switch) -> Self:
        """Adds them to the switch's bridge."""
        machines = cls(
            vm1=switch.add_host("vm1-eth"),
            vm2=switch.add_host("vm2-eth"),
            host=switch.add_internal("host", with_ip=True),
            # It only listens: an answer of its own would be a frame that nobody expects.
            monitor=switch.add_host("monitor-eth", with_ip=False),
        )
        switch.learn(machines.vm1, machines.vm2, machines.host)
        return machines

    def play(self, copier: str, count_copies: Callable[[], int]) -> TrafficRound:
        """Sends a round of traffic; `count_copies` tells what the programs have copied so far."""
        before = count_copies()
        # Each round resolves addresses first, and no machine asks again at its end.
        for machine in (self.vm1, self.vm2, self.host):
            machine.ns.run("ip", "neigh", "flush", "dev", machine.device)
        with (
            Capture.of(self.monitor) as copies,
            Capture.of(self.vm1, Direction.BOTH) as passed,
            Capture.of(self.vm2, Direction.OUT) as from_vm2,
            Capture.of(self.host, Direction.OUT) as from_host,
        ):
            self._talk()
            for capture in (from_vm2, from_host, passed, copies):
                capture.wait_quiet()
        from_vm1 = [record for record in passed.records() if record.outgoing]
        return TrafficRound(
            copier,
            len(from_vm1) + len(from_vm2.records()) + len(from_host.records()),
            passed.multiset(),
            copies.multiset(),
            count_copies() - before,
        )

    def _talk(self) -> None:
        for name, source, target in (
            ("vm1 to vm2", self.vm1, self.vm2),
            ("vm2 to host, not selected", self.vm2, self.host),
        ):
            replies = ping(source, target, _PINGS)
            say(f"ping {name}: {replies} of {_PINGS} replies")
            if not replies:
                raise DemoError(f"no reply to ping {name}")
        tcp = iperf(self.vm1, self.vm2, "tcp", seconds=1, bandwidth=_RATE)
        say(f"iperf3 TCP vm1 to vm2: {tcp.bits_per_second / 1e6:.1f} Mbit/s")
        udp = iperf(self.vm2, self.vm1, "udp", seconds=1, bandwidth=_RATE)
        say(f"iperf3 UDP vm2 to vm1: {udp.packets} datagrams, {udp.lost_packets} lost")
