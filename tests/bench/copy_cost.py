"""What a copy costs: CPU time per frame, in addition to the same device without a mirror.

Frames arrive through a veth pair on a port's device, and are copied to another veth pair. All of
that runs in the sender's thread, whose CPU time is measured. Each way of copying, ours and the
kernel's own, has devices of its own; they take turns, round by round. Where code and data lie in
memory, and which way ran before, changes the figures: two ways of the same kind may differ by
20 ns. So the devices are set up anew after some rounds, in another order.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import secrets
import shutil
import socket
import statistics
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self
from uuid import UUID

from bench.batch_sender import BATCH, BatchSender
from bench.clone_programs import BARE_PUSH, MARKED_PUSH, bare_clone, marked_clone
from ovs_ebpf_tap.apply.datapath import Datapath
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.decide.mirror_filter import parse as parse_filter
from ovs_ebpf_tap.ebpf import bpf, pinning, programs
from ovs_ebpf_tap.lab.frames import IP_UDP, ethernet, ipv4, udp
from ovs_ebpf_tap.lab.kernel import has_tcx
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.model.desired import CLSACT, EGRESS, INGRESS, TCX, Hook, Rule, VlanIngressPolicy
from ovs_ebpf_tap.model.frame_rewrite import ACCESS, KEEP, FrameRewrite, vlan_set
from ovs_ebpf_tap.observe.devices import DeviceMonitor
from ovs_ebpf_tap.util.quantiles import quantiles

SIZES = (64, 1400)
"""Bytes a frame."""

_SNAPLEN, _SHORT_SNAPLEN = 60, 20
"""Bytes of a copy: behind the headers of the frames, and within them."""

_SETUPS = 16
_ROUNDS = 12
"""Rounds a set-up."""
_BATCHES = 10
_WARM_UP = 2
_OTHERS = 1000

_NONE = "none"
_EMPTY = " empty"
_CLONE = " bare clone"
_PUSH = " bare clone and push"
_TOLD = " bare clone and push, told by a mark"
_MIRRED = "u32 mirred"

_PRIORITY = 1
_MIRROR = UUID(int=1)


TRUNK = FrameRewrite(
    in_mode=KEEP,
    in_tag=0,
    in_tpid=0x8100,
    set_vid=None,
    out_mode=KEEP,
    out_tag=0,
    priority=0,
    limit=1,
    snaplen=0,
    max_len=1514,
    netdev=True,
    no_dei=True,
)
"""From a trunk port to a trunk port."""


_RULE = Rule(_MIRROR, output=0, group=0, selection=1, arrival=True, rewrite=TRUNK)
"""Copies what arrives on a port."""


@dataclass(frozen=True)
class DevicePair:
    """The devices of one way to copy: its port's, and its output's, by index."""

    name: str
    port: int
    output: int

    @property
    def hook(self) -> Hook:
        """That of what arrives on the port."""
        return Hook(self.port, INGRESS)


class CopyBench:
    """Devices of a switch, between a machine and a monitor, and what can be done with them."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        machine: Netns,
        switch: Netns,
        monitor: Netns,
        traffic_control: TrafficControl,
    ) -> None:
        """`stack` takes what has to be closed."""
        self._stack = stack
        self._machine = machine
        self._switch = switch
        self._monitor = monitor
        self._traffic_control = traffic_control
        self._pairs: dict[str, DevicePair] = {}

    @classmethod
    def open(cls, stack: contextlib.ExitStack) -> Self:
        """With namespaces of its own, and no devices yet."""
        names = ("bench-vm", "bench-switch", "bench-monitor")
        machine, switch, monitor = (stack.enter_context(Netns(name)) for name in names)
        traffic_control = switch.call(TrafficControl.open)
        stack.callback(traffic_control.close)
        return cls(stack, machine, switch, monitor, traffic_control)

    def make_pairs(self, ways: Sequence[str]) -> None:
        """Makes the devices of each way to copy, one after the other."""
        for number, way in enumerate(ways):
            self._pairs[way] = self._make_pair(number)

    def _make_pair(self, number: int) -> DevicePair:
        port, output = f"port{number}", f"out{number}"
        for device, peer in ((port, self._machine), (output, self._monitor)):
            ends = ("type", "veth", "peer", "name", device, "netns", peer.name)
            self._switch.run("ip", "link", "add", device, *ends)
            for ns in (self._switch, peer):
                ns.run("ip", "link", "set", device, "up", "arp", "off")
        return DevicePair(port, *map(self._ifindex, (port, output)))

    def _ifindex(self, device: str) -> int:
        return self._switch.call(lambda: socket.if_nametoindex(device))

    def sender(self, way: str, size: int) -> BatchSender:
        """Of frames of `size` bytes that arrive on the way's port."""
        ips, macs = ("10.0.0.1", "10.0.0.2"), ("02:00:00:00:00:0b", "02:00:00:00:00:0a")
        packet = ipv4(*ips, IP_UDP, udp(*ips, 9, 9, bytes(size - 42)))
        return BatchSender.open(
            self._machine, self._pairs[way].name, ethernet(*macs, 0x0800, packet)
        )

    # The kernel's own ways.

    def _load(self, name: str, code: bytes) -> int:
        fd = bpf.load_classifier(code, name)
        self._stack.callback(os.close, fd)
        return fd

    def bare(self, kind: str) -> None:
        """Programs on hooks of that kind, as short as they can be."""
        self._attach(kind, self._pairs[kind + _EMPTY].port, INGRESS, self._load("empty", bpf.EMPTY))
        self._clone_and_push(kind, _CLONE, bare_clone, None)
        self._clone_and_push(kind, _PUSH, bare_clone, BARE_PUSH)
        self._clone_and_push(kind, _TOLD, marked_clone, MARKED_PUSH)

    def _clone_and_push(
        self, kind: str, way: str, clone: Callable[[int], bytes], push: bytes | None
    ) -> None:
        pair = self._pairs[kind + way]
        self._attach(kind, pair.port, INGRESS, self._load("clone", clone(pair.output)))
        if push is not None:
            self._attach(kind, pair.output, EGRESS, self._load("push", push))

    def _attach(self, kind: str, device: int, direction: str, program: int) -> None:
        if kind == TCX:
            at = bpf.TCX_INGRESS if direction == INGRESS else bpf.TCX_EGRESS
            link = self._switch.call(lambda: bpf.create_tcx_link(program, device, at))
            self._stack.callback(os.close, link)
        else:
            self._switch.call(lambda: self._traffic_control.ensure_clsact(device))
            self._switch.call(
                lambda: self._traffic_control.replace_filter(device, direction, program, "bench")
            )

    def mirred(self) -> None:
        """A filter of u32 that takes all, and an action that copies."""
        pair = self._pairs[_MIRRED]
        output = f"out{pair.name.removeprefix('port')}"
        match = ("protocol", "all", "prio", str(_PRIORITY), "u32", "match", "u32", "0", "0")
        action = ("action", "mirred", "egress", "mirror", "dev", output, "continue")
        self._switch.run("tc", "qdisc", "add", "dev", pair.name, "clsact")
        self._switch.run("tc", "filter", "add", "dev", pair.name, "ingress", *match, *action)

    # Ours.

    def ours(self, kind: str, ways: Mapping[str, Rule], others: int = 0) -> None:
        """Hooks of that kind with one rule each, beside as many mirrors of other ports."""
        rules: dict[Hook, tuple[Rule, ...]] = {}
        for way, rule in ways.items():
            pair = self._pairs[f"{kind}{way}"]
            rules[pair.hook] = (replace(rule, output=pair.output, group=pair.output),)
        rules.update(self._others(others))
        pins = pinning.BPFFS / f"ovs-ebpf-tap-bench-{secrets.token_hex(4)}"
        self._stack.callback(shutil.rmtree, pins, ignore_errors=True)
        pinning.ensure_bpffs(pins)
        opened = programs.ensure_programs(pins)
        self._stack.callback(opened.close)
        monitor = self._switch.call(DeviceMonitor.open)
        self._stack.callback(monitor.close)
        owner = pinning.owner(pins)
        traffic_control = self._switch.call(lambda: TrafficControl.open(owner))
        self._stack.callback(traffic_control.close)
        datapath = self._switch.call(
            lambda: Datapath.open(pins, monitor, traffic_control, opened, kind)
        )
        begun = True
        while begun or datapath.unfinished:
            if refused := self._switch.call(lambda: datapath.sync(rules, set())):
                raise OSError(0, f"the kernel refuses a hook: {refused}")
            begun = False

    def _others(self, count: int) -> dict[Hook, tuple[Rule, ...]]:
        pairs = range(count // 2)
        links = "".join(f"link add o{n}a up type veth peer name o{n}b\n" for n in pairs)
        self._switch.run("ip", "-batch", "-", stdin=links, timeout=120)
        names = [f"o{n}{side}" for n in pairs for side in "ab"]
        indexes = self._switch.call(lambda: list(map(socket.if_nametoindex, names)))
        return {
            Hook(index, EGRESS): (replace(_RULE, mirror=UUID(int=number), output=index),)
            for number, index in enumerate(indexes, start=2)
        }


_ACCESS = replace(TRUNK, in_mode=ACCESS, in_tag=10)
_RULES = {
    "": _RULE,
    ", once: arriving": replace(_RULE, dedup=True),
    ", once: leaving": replace(_RULE, dedup=True, arrival=False),
    ", VLAN": replace(_RULE, rewrite=_ACCESS, ingress_policy=VlanIngressPolicy(ACCESS, 10, 1)),
    ", cut in place": replace(_RULE, rewrite=replace(TRUNK, snaplen=_SNAPLEN)),
    ", cut on the cutter": replace(_RULE, rewrite=replace(TRUNK, snaplen=_SHORT_SNAPLEN)),
    ", other VLAN": replace(_RULE, vlans=vlan_set([7])),
    ", filtered out": replace(_RULE, match=parse_filter("tcp,tp_dst=80")),
}
_BESIDE = f", beside {_OTHERS}"


def set_up(bench: CopyBench, others: int) -> list[str]:
    """Makes all ways to copy, and not to copy; returns their names."""
    kinds = (TCX, CLSACT) if has_tcx() else (CLSACT,)
    ways = [
        _NONE,
        *(kind + what for kind in kinds for what in (_EMPTY, _CLONE, _PUSH, _TOLD, *_RULES)),
        _MIRRED,
    ]
    if others:
        ways.append(CLSACT + _BESIDE)
    bench.make_pairs(random.sample(ways, len(ways)))
    for kind in kinds:
        bench.bare(kind)
        bench.ours(kind, dict(random.sample([*_RULES.items()], len(_RULES))))
    bench.mirred()
    if others:
        bench.ours(CLSACT, {_BESIDE: _RULE}, others)
    return ways


@dataclass(frozen=True)
class Limit:
    """What is to hold of the costs of two ways: their ratio, or their difference in ns."""

    of: str
    to: str
    most: float
    ratio: bool

    def found(self, costs: Mapping[str, Sequence[float]]) -> float:
        """What was measured of it: the median of all rounds."""
        pairs = zip(costs[self.of], costs[self.to], strict=True)
        return statistics.median(of / to if self.ratio else of - to for of, to in pairs)


def limits(names: Collection[str]) -> list[Limit]:
    """Those for the ways that there are."""
    wanted = [Limit(CLSACT, _MIRRED, 1.10, True)]
    wanted.append(Limit(CLSACT, CLSACT + _CLONE, 0.85, True))
    wanted.append(Limit(TCX, TCX + _CLONE, 1.05, True))
    for kind in (TCX, CLSACT):
        for more in ("once: arriving", "once: leaving", "VLAN"):
            wanted.append(Limit(f"{kind}, {more}", kind, 100, False))
        for less in ("other VLAN", "filtered out"):
            wanted.append(Limit(f"{kind}, {less}", kind + _EMPTY, 60, False))
    wanted.append(Limit(CLSACT + _BESIDE, CLSACT, 1.05, True))
    return [each for each in wanted if each.of in names]


def measure(
    senders: Mapping[str, BatchSender], rounds: int, batches: int
) -> dict[str, list[float]]:
    """The cost of each way, in ns a frame over none, round by round."""
    found: dict[str, list[float]] = {name: [] for name in senders}
    for _ in range(rounds):
        costs = {}
        for name in random.sample([*senders], len(senders)):
            senders[name].cost(_WARM_UP)
            costs[name] = senders[name].cost(batches)
        for name in senders:
            found[name].append(costs[name] - costs[_NONE])
    return found


def report(size: int, found: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """The costs and what they come to beside the limits, in lines for people."""
    yield f"{size} bytes a frame: ns a frame over no hook, {len(found[_NONE])} rounds"
    for name, costs in itertools.islice(found.items(), 1, None):
        low, middle, high = quantiles(costs, 4)
        yield f"    {name:<40}{middle:>7.0f}    quartiles {low:.0f} to {high:.0f}"
    for limit in limits(found):
        value, sign = limit.found(found), "/" if limit.ratio else "-"
        number = f"{value:.2f}" if limit.ratio else f"{value:.0f} ns"
        yield f"    {limit.of} {sign} {limit.to}: {number}, at most {limit.most:g}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench copy", description=__doc__)
    parser.add_argument(
        "--setups", type=int, default=_SETUPS, help="how often devices are set up anew"
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="rounds per set-up")
    parser.add_argument(
        "--batches", type=int, default=_BATCHES, help=f"batches of {BATCH} frames per turn"
    )
    parser.add_argument(
        "--no-others", action="store_true", help=f"leave out the {_OTHERS} other mirrors"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: ns per frame, by round")
    return parser.parse_args()


def _measure_anew(options: argparse.Namespace) -> dict[int, dict[str, list[float]]]:
    """Sets everything up, and measures it; by size."""
    found = {}
    with contextlib.ExitStack() as stack:
        bench = CopyBench.open(stack)
        ways = set_up(bench, 0 if options.no_others else _OTHERS)
        for size in SIZES:
            with contextlib.ExitStack() as closing:
                senders = {way: bench.sender(way, size) for way in ways}
                for sender in senders.values():
                    closing.callback(sender.close)
                found[size] = measure(senders, options.rounds, options.batches)
    return found


def main() -> int:
    """Measures as the command line says; returns the exit status."""
    options = _options()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    setups = [_measure_anew(options) for _ in range(options.setups)]
    found = {
        size: {name: [cost for each in setups for cost in each[size][name]] for name in ways}
        for size, ways in setups[0].items()
    }
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(line for size in found for line in report(size, found[size])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
