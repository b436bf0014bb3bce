"""What a copy costs: CPU time a frame, over the same device without a mirror.

A sender's frames arrive through a veth pair on a port's device, and are copied to another veth
pair. All of that happens in the sender's own thread, whose CPU time is measured. Hooks of ours and
the kernel's own ways of copying take turns, round by round.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import secrets
import shutil
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from uuid import UUID

from ovs_ebpf_tap import bpf, programs
from ovs_ebpf_tap.datapath import Datapath
from ovs_ebpf_tap.lab.frames import IP_UDP, ethernet, ipv4, udp
from ovs_ebpf_tap.lab.kernel import has_tcx
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.netlink import EGRESS, INGRESS, Netlink
from ovs_ebpf_tap.vlan import ACCESS, KEEP, Edit, vlan_set
from ovs_ebpf_tap.wanted import CLSACT, TCX, Gate, Hook, Rule

SIZES = (64, 1400)
"""Bytes a frame."""

_ROUNDS = 24
_BATCHES = 80
_BATCH = 256
_WARM_UP = 4
_OTHERS = 1000
_QUIET = 0.003
"""Seconds after which a hook that was removed is no longer waited for by the kernel."""

_PRIORITY = 1
_MIRROR = UUID(int=1)

Variant = Callable[[], AbstractContextManager[None]]

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """`struct msghdr`"""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """`struct mmsghdr`"""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint32))


class Sender:
    """Sends the same frame again and again."""

    def __init__(self, ns: Netns, device: str, frame: bytes) -> None:
        self._socket = ns.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((device, 0))
        self._frame = ctypes.create_string_buffer(frame, len(frame))
        self._iov = _Iovec(ctypes.addressof(self._frame), len(frame))
        self._messages = (_Message * _BATCH)()
        for message in self._messages:
            message.header.iov, message.header.iov_length = ctypes.pointer(self._iov), 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def cost(self, batches: int) -> float:
        """The thread's CPU time in ns a frame. Raises OSError if frames are not taken."""
        began = time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID)
        for _ in range(batches):
            if _libc.sendmmsg(self._socket.fileno(), self._messages, _BATCH, 0) != _BATCH:
                raise OSError(ctypes.get_errno(), "not all frames were sent")
        took = time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID) - began
        return took / (batches * _BATCH)


def _bare_clone(output: int) -> bytes:
    """The code of a program that does nothing but `bpf_clone_redirect`."""
    instructions = ((0xB7, 2, output), (0xB7, 3, 0), (0x85, 0, 13), (0xB7, 0, -1), (0x95, 0, 0))
    return b"".join(struct.pack("=BBhi", code, reg, 0, value) for code, reg, value in instructions)


_TRUNK = Edit(
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


class Bench:
    """A port's device, an output's, and what can be done with them."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._machine = stack.enter_context(Netns("bench-vm"))
        self._switch = stack.enter_context(Netns("bench-switch"))
        self._monitor = stack.enter_context(Netns("bench-monitor"))
        self._pair("port", self._machine)
        self._pair("out", self._monitor)
        self.port, self.output = (self._ifindex(device) for device in ("port", "out"))
        self._stack = stack
        self._netlink = self._switch.call(Netlink)
        stack.callback(self._netlink.close)
        self._datapaths = {kind: self._datapath(kind) for kind in (TCX, CLSACT)}
        self._busy = self._datapath(CLSACT)
        codes = {"empty": bpf.EMPTY, "bare": _bare_clone(self.output)}
        self._fds = {name: bpf.load_classifier(code, name) for name, code in codes.items()}
        for fd in self._fds.values():
            stack.callback(os.close, fd)

    def _datapath(self, attach: str) -> Datapath:
        pins = programs.BPFFS / f"ovs-ebpf-tap-bench-{secrets.token_hex(4)}"
        self._stack.callback(shutil.rmtree, pins, ignore_errors=True)
        programs.ensure_bpffs(pins)
        opened = programs.ensure_programs(pins)
        self._stack.callback(opened.close)
        return self._switch.call(lambda: Datapath(pins, self._netlink, opened, attach))

    def _pair(self, device: str, peer: Netns) -> None:
        pair = ("type", "veth", "peer", "name", device, "netns", peer.name)
        self._switch.run("ip", "link", "add", device, *pair)
        for ns in (self._switch, peer):
            ns.run("ip", "link", "set", device, "up", "arp", "off")

    def _ifindex(self, device: str) -> int:
        return self._switch.call(lambda: socket.if_nametoindex(device))

    def sender(self, size: int) -> Sender:
        """Of frames of `size` bytes that arrive on the port."""
        ips, macs = ("10.0.0.1", "10.0.0.2"), ("02:00:00:00:00:0b", "02:00:00:00:00:0a")
        packet = ipv4(*ips, IP_UDP, udp(*ips, 9, 9, bytes(size - 42)))
        return Sender(self._machine, "port", ethernet(*macs, 0x0800, packet))

    # The kernel's own ways.

    @contextlib.contextmanager
    def nothing(self) -> Iterator[None]:
        """No hook at all."""
        yield

    def tcx(self, name: str) -> Variant:
        """A program of our own making on the port's TCX hook."""

        @contextlib.contextmanager
        def attached() -> Iterator[None]:
            program = self._fds[name]
            link = self._switch.call(
                lambda: bpf.create_tcx_link(program, self.port, bpf.TCX_INGRESS)
            )
            try:
                yield
            finally:
                os.close(link)
                time.sleep(_QUIET)

        return attached

    def clsact(self, name: str) -> Variant:
        """The same on its clsact qdisc."""
        return self._with_qdisc(
            lambda: self._netlink.replace_filter(self.port, INGRESS, self._fds[name], "bench")
        )

    def mirred(self) -> Variant:
        """A filter of u32 that takes all, and an action that copies."""
        match = ("protocol", "all", "prio", str(_PRIORITY), "u32", "match", "u32", "0", "0")
        action = ("action", "mirred", "egress", "mirror", "dev", "out", "continue")
        command = ("tc", "filter", "add", "dev", "port", "ingress", *match, *action)
        return self._with_qdisc(lambda: self._switch.run(*command))

    def _with_qdisc(self, add_filter: Callable[[], object]) -> Variant:
        @contextlib.contextmanager
        def attached() -> Iterator[None]:
            self._switch.run("tc", "qdisc", "add", "dev", "port", "clsact")
            try:
                add_filter()
                yield
            finally:
                self._switch.run("tc", "qdisc", "del", "dev", "port", "clsact")

        return attached

    # Ours.

    def rule(self, edit: Edit = _TRUNK, **fields: object) -> Rule:
        """A rule that copies what arrives on the port."""
        plain = Rule(_MIRROR, self.output, self.output, 1, arrival=True, edit=edit)
        return replace(plain, **fields)  # type: ignore[arg-type]

    def ours(self, kind: str, rule: Rule) -> Variant:
        """A hook with one rule."""
        return self._synced(self._datapaths[kind], {Hook(self.port, INGRESS): (rule,)}, {})

    def ours_beside_others(self) -> Variant:
        """The same beside many mirrors on other ports, whose hooks stay."""
        others = self._others()
        self._switch.call(lambda: self._busy.sync(others, set()))
        rules = {Hook(self.port, INGRESS): (self.rule(),), **others}
        return self._synced(self._busy, rules, others)

    def _synced(
        self,
        datapath: Datapath,
        rules: Mapping[Hook, tuple[Rule, ...]],
        afterwards: Mapping[Hook, tuple[Rule, ...]],
    ) -> Variant:
        @contextlib.contextmanager
        def attached() -> Iterator[None]:
            refused = self._switch.call(lambda: datapath.sync(rules, set()))
            if refused:
                raise OSError(0, f"the kernel refuses a hook: {refused}")
            try:
                yield
            finally:
                self._switch.call(lambda: datapath.sync(afterwards, set()))
                time.sleep(_QUIET)

        return attached

    def _others(self) -> dict[Hook, tuple[Rule, ...]]:
        pairs = range(_OTHERS // 2)
        links = "".join(f"link add o{n}a up type veth peer name o{n}b\n" for n in pairs)
        self._switch.run("ip", "-batch", "-", stdin=links, timeout=120)
        names = [f"o{n}{side}" for n in pairs for side in "ab"]
        indexes = self._switch.call(lambda: list(map(socket.if_nametoindex, names)))
        return {
            Hook(index, EGRESS): (self.rule(mirror=UUID(int=number)),)
            for number, index in enumerate(indexes, start=2)
        }


def variants(bench: Bench) -> dict[str, Variant]:
    """All ways to copy, and not to copy, by name."""
    kinds = (TCX, CLSACT) if has_tcx() else (CLSACT,)
    access = replace(_TRUNK, in_mode=ACCESS, in_tag=10)
    rules = {
        "": bench.rule(),
        ", once: arriving": bench.rule(once=True),
        # Of another group: what has arrived would count as what has left.
        ", once: leaving": bench.rule(once=True, arrival=False, group=1),
        ", VLAN": bench.rule(access, gate=Gate(ACCESS, 10, 1)),
        ", not selected": bench.rule(vlans=vlan_set([7])),
    }
    found: dict[str, Variant] = {"none": bench.nothing}
    for kind in kinds:
        kernel = bench.tcx if kind == TCX else bench.clsact
        found[f"{kind} empty"] = kernel("empty")
        found[f"{kind} bare clone"] = kernel("bare")
        for name, rule in rules.items():
            found[f"{kind}{name}"] = bench.ours(kind, rule)
    found["u32 mirred"] = bench.mirred()
    return found


@dataclass(frozen=True)
class Limit:
    """What is to hold of the costs: a ratio or a difference of two."""

    of: str
    to: str
    most: float
    ratio: bool

    def found(self, costs: Mapping[str, float]) -> float:
        """What was measured of it."""
        if self.ratio:
            return costs[self.of] / costs[self.to]
        return costs[self.of] - costs[self.to]


def limits(names: Sequence[str]) -> list[Limit]:
    """Those for the variants that there are."""
    wanted = [Limit(CLSACT, "u32 mirred", 1.10, True)]
    wanted.append(Limit(CLSACT, f"{CLSACT} bare clone", 0.85, True))
    wanted.append(Limit(TCX, f"{TCX} bare clone", 1.05, True))
    for kind in (TCX, CLSACT):
        for more in ("once: arriving", "once: leaving", "VLAN"):
            wanted.append(Limit(f"{kind}, {more}", kind, 100, False))
        wanted.append(Limit(f"{kind}, not selected", f"{kind} empty", 60, False))
    wanted.append(Limit(f"{CLSACT}, beside {_OTHERS}", CLSACT, 1.05, True))
    return [each for each in wanted if each.of in names]


def measure(
    sender: Sender, ways: Mapping[str, Variant], rounds: int, batches: int
) -> dict[str, list[float]]:
    """The cost of each way, in ns a frame over the first one, round by round."""
    order = list(ways)
    found: dict[str, list[float]] = {name: [] for name in order}
    for number in range(rounds):
        costs = {}
        for name in order if number % 2 else reversed(order):
            with ways[name]():
                sender.cost(_WARM_UP)
                costs[name] = sender.cost(batches)
        for name in order:
            found[name].append(costs[name] - costs[order[0]])
    return found


def report(size: int, found: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """The costs and what they come to beside the limits, in lines for people."""
    yield f"{size} bytes a frame: ns a frame over no hook, {len(found['none'])} rounds"
    for name, costs in itertools.islice(found.items(), 1, None):
        low, middle, high = statistics.quantiles(costs, n=4)
        yield f"    {name:<28}{middle:>7.0f}    quartiles {low:.0f} to {high:.0f}"
    costs_of = {name: statistics.median(costs) for name, costs in found.items()}
    for limit in limits(list(found)):
        value, sign = limit.found(costs_of), "/" if limit.ratio else "-"
        number = f"{value:.2f}" if limit.ratio else f"{value:.0f} ns"
        yield f"    {limit.of} {sign} {limit.to}: {number}, at most {limit.most:g}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench copy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--batches", type=int, default=_BATCHES, help=f"of {_BATCH} frames a turn")
    parser.add_argument("--no-others", action="store_true", help=f"not beside {_OTHERS} mirrors")
    parser.add_argument("--json", action="store_true", help="print JSON: ns a frame, by round")
    return parser.parse_args()


def main() -> int:
    """Measures as the command line says; returns the exit status."""
    options = _options()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found: dict[int, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        bench = Bench(stack)
        ways = variants(bench)
        if not options.no_others:
            ways[f"{CLSACT}, beside {_OTHERS}"] = bench.ours_beside_others()
        for size in SIZES:
            with contextlib.closing(bench.sender(size)) as sender:
                found[size] = measure(sender, ways, options.rounds, options.batches)
            if not options.json:
                print("\n".join(report(size, found[size])), flush=True)
    if options.json:
        print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
