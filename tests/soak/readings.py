"""What the sidecar holds: as a process, and in the kernel beside what it says."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ovs_ebpf_tap.apply import cutter
from ovs_ebpf_tap.daemon import control
from ovs_ebpf_tap.ebpf import bpf, pinning
from ovs_ebpf_tap.ebpf.build import build_id
from ovs_ebpf_tap.ebpf.object import COPY_TAG, MAPS, PROGRAMS
from ovs_ebpf_tap.model.desired import CLSACT, EGRESS, INGRESS, TCX
from ovs_ebpf_tap.model.rows import COUNTED_KEY, OWN_KEYS, SELECT_VLAN_KEY, parse_vlans
from ovs_ebpf_tap.util import namespace
from soak.pair import CANARY, Pair, Row, is_offloaded

MOST_GROWTH = {"memory": 4096, "descriptors": 4, "threads": 0}
"""By how much each may grow over a life of any length, at equal numbers of mirrors.

Two descriptors are of the connections to the bridge, while it has mirrors that may be offloaded,
and one or two of callers that are just being answered.
"""

SHORTEST_LIFE = 12
"""Steps of which growth can be told."""

_INTENT = ("name", "_uuid", "select_all", "select_vlan", "output_vlan", "snaplen", "external_ids")

_HOOK = re.compile(r"([^\s,]+):(ingress|egress):([^\s,]+)")
_OURS = re.compile(r"\bpref (42912|42913)\b")
_THEIRS = re.compile(r"\bpref 5\b")


@dataclass(frozen=True)
class SidecarUsage:
    """The sidecar's process at rest; `hooks` are those that it says it has."""

    pid: int
    mirrors: int
    memory: int
    """KiB resident."""
    descriptors: int
    threads: int
    hooks: int


def read(pair: Pair, rows: Sequence[Row]) -> tuple[SidecarUsage, list[str]]:
    """Counts; returns what is wrong, too: the kernel has to hold just what `status` tells of."""
    process = pair.sidecar.process
    assert process is not None
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
    )
    hooks = _hooks(pair)
    reading = SidecarUsage(
        pid=process.pid,
        mirrors=sum(map(is_offloaded, rows)),
        memory=int(status["VmRSS"].split()[0]),
        descriptors=len(os.listdir(f"/proc/{process.pid}/fd")),
        threads=int(status["Threads"]),
        hooks=len(hooks),
    )
    return reading, list(_problems(pair, hooks))


Place = tuple[str, str, str]
"""A hook: its device's name, direction and attachment."""


def _hooks(pair: Pair) -> set[Place]:
    """Those that the running sidecar tells of."""
    return set(_HOOK.findall(control.call(pair.sidecar.run_dir, "status") or ""))


def _problems(pair: Pair, hooks: set[Place]) -> Iterator[str]:
    ns = pair.tested.switch.ns
    indexes = {name: index for index, name in ns.call(socket.if_nameindex)}
    links, filters = (
        {f"{indexes[device]}-{way}" for device, way, kind in hooks if kind == wanted}
        for wanted in (TCX, CLSACT)
    )
    filtered = {device for device, _, kind in hooks if kind == CLSACT}
    yield from _pin_problems(pair.sidecar.pin_dir, links)
    yield from _entry_problems(pair, links | filters, {indexes[device] for device in filtered})
    count = len(links) + len(pair.foreign.links)
    found = ns.call(lambda: sum(bpf.count_tcx(index) for index in indexes.values()))
    if found != count:
        yield f"{found} TCX programs on devices, not {count}"
    yield from _filter_problems(pair, indexes, filters, filtered)
    yield from _protected_problems(pair)
    yield from _intent_problems(pair)


def _pin_problems(pin_dir: Path, links: set[str]) -> Iterator[str]:
    yield from _unlike("pins of links", links, _names(pin_dir / pinning.LINKS))
    build = pin_dir / build_id()
    wanted = {build.name, namespace.NOTE, *_links_directory(pin_dir)}
    yield from _unlike("pins", wanted, _names(pin_dir))
    yield from _unlike("pins of the build", {*PROGRAMS, *MAPS, COPY_TAG}, _names(build))


def _entry_problems(pair: Pair, hooks: set[str], filtered: set[int]) -> Iterator[str]:
    with pair.maps() as maps:
        keys = {
            f"{int.from_bytes(key, sys.byteorder)}-{way}"
            for way in (INGRESS, EGRESS)
            for key in maps[way].items()
        }
        noted = {int.from_bytes(key, sys.byteorder) for key in maps["qdiscs"].items()}
    yield from _unlike("entries of hooks", hooks, keys)
    yield from _unlike("entries of qdiscs", filtered, noted)


def _filter_problems(
    pair: Pair, indexes: Mapping[str, int], filters: set[str], filtered: set[str]
) -> Iterator[str]:
    ns, foreign = pair.tested.switch.ns, pair.foreign
    qdiscs = json.loads(ns.run("tc", "-json", "qdisc", "show").stdout)
    with_clsact = {
        each["dev"]
        for each in qdiscs
        if each["kind"] == "clsact" and not each["dev"].startswith(cutter.PREFIX)
    }
    yield from _unlike("devices with clsact", filtered | foreign.qdiscs, with_clsact)
    shown = {
        (device, way): ns.run("tc", "filter", "show", "dev", device, way).stdout
        for device in with_clsact
        for way in (INGRESS, EGRESS)
    }
    ours = {f"{indexes[d]}-{way}" for (d, way), text in shown.items() if _OURS.search(text)}
    yield from _unlike("filters", filters, ours)
    theirs = {d for (d, way), text in shown.items() if way == EGRESS and _THEIRS.search(text)}
    yield from _unlike("filters of others", foreign.filters, theirs)


def _intent_problems(pair: Pair) -> Iterator[str]:
    """Whether each mirror is the user's but for what the sidecar writes."""
    tested, oracle = (_intents(twin.rows("Mirror", *_INTENT)) for twin in pair.twins)
    for name in sorted(tested.keys() | oracle.keys()):
        if tested.get(name) != oracle.get(name):
            yield f"mirror {name} is {tested.get(name)}, and was to be {oracle.get(name)}"


def _intents(rows: Sequence[Row]) -> dict[str, Row]:
    found = {}
    for row in rows:
        if row["name"] == CANARY:
            continue
        ids = dict(row.pop("external_ids")[1])
        if SELECT_VLAN_KEY in ids:
            row["select_vlan"] = parse_vlans(ids[SELECT_VLAN_KEY])
        else:
            vlans = row["select_vlan"]
            row["select_vlan"] = tuple(vlans[1]) if isinstance(vlans, list) else (vlans,)
        ours = (*OWN_KEYS, COUNTED_KEY)
        row["others"] = {key: value for key, value in ids.items() if key not in ours}
        found[row["name"]] = row
    return found


def _protected_problems(pair: Pair) -> Iterator[str]:
    """Whether each port's `protected` is the user's."""
    for row in pair.tested.rows("Port", "name", "protected"):
        port = pair.scene.ports.get(row["name"])
        if port is not None and port.protected != row["protected"]:
            yield f"port {row['name']}: protected is {row['protected']}"


def _links_directory(pin_dir: Path) -> set[str]:
    """It stays once it was needed."""
    return {pinning.LINKS} if (pin_dir / pinning.LINKS).is_dir() else set()


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def _unlike(what: str, wanted: set[str] | set[int], found: set[str] | set[int]) -> Iterator[str]:
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    if missing or extra:
        yield f"{what}: {missing or 'none'} missing, {extra or 'none'} left over"


# Over time.


def lives(readings: Sequence[SidecarUsage]) -> list[list[SidecarUsage]]:
    """The readings of each process that lived long enough to tell."""
    by_pid: dict[int, list[SidecarUsage]] = {}
    for reading in readings:
        by_pid.setdefault(reading.pid, []).append(reading)
    return [life for life in by_pid.values() if len(life) >= SHORTEST_LIFE]


def growth(life: Sequence[SidecarUsage], what: str) -> float:
    """How much a member grew from the first third of the readings to the last.

    At equal numbers of mirrors: the median over these, 0 if no number is in both.
    """
    third = len(life) // 3
    first, last = _medians(life[:third], what), _medians(life[-third:], what)
    both = first.keys() & last.keys()
    return median(last[number] - first[number] for number in both) if both else 0.0


def _medians(readings: Sequence[SidecarUsage], what: str) -> dict[int, float]:
    values: dict[int, list[int]] = {}
    for reading in readings:
        values.setdefault(reading.mirrors, []).append(getattr(reading, what))
    return {number: median(each) for number, each in values.items()}
