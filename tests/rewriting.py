"""A pipeline as OVN's, and controllers that keep rewriting flows."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from ovs_ebpf_tap.lab.switch import Host, Switch

_FIRST, _LAST = 9, 39
"""Tables that packets pass one after the other."""
_FLOOD = 0x8000
_GROUPS = 4
_STEPS = 20
"""Lots of changes in a second."""
_AT_ONCE = 400
"""Flows of a controller that are there together."""


def pipeline(switch: Switch, hosts: Sequence[Host], elsewhere: int, more: int) -> list[str]:
    """Flows from and to each of the hosts, and as many numbers of ports that are not there.

    `more` are further flows, of which each sets a register.
    """
    ports = {key: (switch.ofport(host), host.mac) for key, host in enumerate(hosts, 1)}
    ports |= {key: (100 + key, _mac(key)) for key in range(100, 100 + elsewhere)}
    flows = [flow for key, (port, mac) in ports.items() for flow in flows_of(key, port, mac)]
    flood = ",".join(f"load:{key}->NXM_NX_REG15[],resubmit(,42)" for key in ports)
    flows += [
        f"table=40,priority=90,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,"
        f"actions=load:{_FLOOD}->NXM_NX_REG15[],resubmit(,41)",
        f"table=41,priority=90,metadata=1,reg15={_FLOOD},actions={flood}",
    ]
    flows += [
        f"table={table},priority=0,actions=resubmit(,{following})"
        for table, following in [
            *itertools.pairwise(range(_FIRST, _LAST + 2)),
            (41, 42),
            (42, 43),
            (43, 65),
        ]
    ]
    flows += [
        f"table={_FIRST + number % (_LAST - _FIRST)},priority=50,metadata=1,udp,"
        f"nw_src=172.16.{number >> 8}.{number & 255},actions=load:{number}->NXM_NX_REG0[],"
        f"resubmit(,{_FIRST + number % (_LAST - _FIRST) + 1})"
        for number in range(more)
    ]
    return flows + [
        f"table=10,priority=60,udp,nw_dst=10.96.0.{group},actions=group:{group}"
        for group in groups()
    ]


def groups() -> dict[int, str]:
    """Those that the pipeline uses, by number."""
    bucket = "bucket=weight:1,actions=mod_nw_dst:192.168.0.{},resubmit(,11)"
    buckets = ",".join(bucket.format(number) for number in (1, 2))
    return {number: f"group_id={number},type=select,{buckets}" for number in range(1, 1 + _GROUPS)}


def flows_of(key: int, port: int, mac: str) -> list[str]:
    """What a port needs, with its key in the registers."""
    return [
        f"table=0,priority=100,in_port={port},"
        f"actions=load:1->OXM_OF_METADATA[],load:{key}->NXM_NX_REG14[],resubmit(,{_FIRST})",
        f"table=40,priority=50,metadata=1,dl_dst={mac},"
        f"actions=load:{key}->NXM_NX_REG15[],resubmit(,41)",
        f"table=42,priority=50,metadata=1,reg14={key},reg15={key},actions=drop",
        f"table=65,priority=100,metadata=1,reg15={key},actions=output:{port}",
    ]


def repeating(key: int, port: int) -> str:
    """A flow that sends what is for the port of that key there twice."""
    return (
        f"table=65,priority=200,metadata=1,reg15={key},udp,tp_dst=9,"
        f"actions=output:{port},output:{port}"
    )


def learned() -> Iterator[str]:
    """Flows of ever new addresses, that all do the same."""
    for number in itertools.count():
        yield f"table=39,priority=70,dl_src={_mac(number)},actions=load:1->NXM_NX_REG10[6]"


def arriving_ports() -> Iterator[str]:
    """Flows of ever new ports."""
    for number in itertools.count():
        yield from flows_of(1000 + number, 1000 + number % 30000, _mac(number))


KINDS = {"learned addresses": learned, "new ports": arriving_ports}


def install(switch: Switch, flows: Sequence[str], *, bundle: bool = True) -> None:
    """Changes flows, in one bundle or one after the other; flows may begin with a command."""
    file = switch.rundir / f"flows-{threading.get_ident()}"
    file.write_text("".join(f"{flow}\n" for flow in flows))
    switch.ofctl(*(["--bundle"] if bundle else []), "add-flows", "br0", str(file))


def add_groups(switch: Switch, made: Mapping[int, str]) -> None:
    """Adds groups, one after the other."""
    for text in made.values():
        switch.ofctl("-O", "OpenFlow15", "add-group", "br0", text)


class Rewriter:
    """Replaces flows at a rate while the with-block runs: each new one has an old one deleted."""

    def __init__(self, switch: Switch, flows: Iterator[str], rate: int, *, bundle: bool) -> None:
        """`rate` is in flows replaced a second."""
        self._switch = switch
        self._flows = flows
        self._lot = rate // _STEPS
        self._bundle = bundle
        self._there: deque[str] = deque()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="rewriter", daemon=True)
        self.replaced = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._stopping.wait(max(0.0, due - time.monotonic())):
                due += 1 / _STEPS
                self._replace()
        except Exception as error:  # Raised by whoever started it.
            self._failure = error

    def _replace(self) -> None:
        lot: list[str] = []
        for flow in itertools.islice(self._flows, self._lot):
            lot.append(f"add {flow}")
            self._there.append(flow)
            if len(self._there) > _AT_ONCE:
                match = self._there.popleft().partition(",actions=")[0]
                lot.append(f"delete_strict {match}")
        install(self._switch, lot, bundle=self._bundle)
        self.replaced += self._lot


def _mac(number: int) -> str:
    """A locally administered address."""
    return "06:" + ":".join(f"{number >> shift & 255:02x}" for shift in (32, 24, 16, 8, 0))
