"""`status`: every Mirror with its state, from the database and the kernel.

It reads both itself, so it says the same with and without a running sidecar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from uuid import UUID

from ovs_ebpf_tap.apply.datapath import Datapath
from ovs_ebpf_tap.decide.totals import as_count, total_of
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.desired import NATIVE, OFFLOADED
from ovs_ebpf_tap.model.device import Device
from ovs_ebpf_tap.model.rows import REASON_KEY, STATE_KEY, Bridge, Database, Mirror, mirror_devices
from ovs_ebpf_tap.util.text import align, printable

_NOBODY = (
    "nobody copies: it is parked, and nothing is in the kernel; start a sidecar, or release it"
)


_OTHERS = "nothing of this pin directory copies, but hooks of another ovs-ebpf-tap may: on "

_NO_ROW = "its row is gone, and its hooks copy on: start the sidecar, or ovs-ebpf-tap release --all"


@dataclass(frozen=True)
class MirrorStatus:
    """One mirror; hooks are `device:direction:attachment`.

    `packets` and `bytes` are what Open vSwitch and eBPF have copied in all, which the row's
    statistics show while a sidecar runs; `drops` are eBPF's.
    """

    bridge: str
    name: str
    uuid: str
    state: str
    reason: str | None
    hooks: tuple[str, ...]
    output: str
    packets: int
    bytes: int
    drops: int


def collect(
    db: Database,
    devices: Mapping[str, Device],
    datapath: Datapath | None,
    *,
    nothing_pinned: bool = False,
    foreign: Callable[[Collection[str]], Collection[str]] = lambda _: (),
    elsewhere: str | None = None,
) -> list[MirrorStatus]:
    """The status of all mirrors, in the order of bridges and names.

    With `nothing_pinned`, there are no hooks in the kernel, whatever the rows say. `foreign` tells
    what other sidecars have on devices. `elsewhere` says, if so, that the hooks are not to be seen.
    """
    names = {device.ifindex: device.name for device in devices.values()}
    counters = datapath.counters() if datapath is not None else {}
    hooks = _hooks(datapath, names) if datapath is not None else {}
    found = [
        _status(db, bridge, db.mirrors[uuid], hooks.get(uuid, ()), counters.get(uuid))
        for bridge in db.bridges.values()
        for uuid in bridge.mirrors
        if uuid in db.mirrors
    ]
    known = {each.uuid for each in found}
    found += [
        _orphan(uuid, hooks[uuid], counters.get(uuid, Counters()))
        for uuid in hooks
        if str(uuid) not in known
    ]
    unseen = {
        str(uuid): mirror_devices(db, bridge, db.mirrors[uuid])
        for bridge in db.bridges.values()
        for uuid in bridge.mirrors
        if uuid in db.mirrors and db.mirrors[uuid].parked and uuid not in hooks
    }

    def reason(each: MirrorStatus) -> str | None:
        if each.uuid not in unseen:
            return each.reason
        if elsewhere is not None:
            return elsewhere
        others = foreign(unseen[each.uuid])
        if others:
            return _OTHERS + "; ".join(others)
        return _NOBODY if nothing_pinned else each.reason

    found = [replace(each, reason=reason(each)) for each in found]
    return sorted(found, key=lambda each: (each.bridge, each.name, each.uuid))


def _hooks(datapath: Datapath, names: Mapping[int, str]) -> dict[UUID, tuple[str, ...]]:
    """The hooks that make a mirror's copies, and those that finish them on their outputs."""
    hooks: dict[UUID, set[str]] = {}
    for hook, rules in datapath.rules.items():
        for rule in rules:
            for each in (hook, rule.finishing_hook):
                if each is not None and each in datapath.attached:
                    device = names.get(each.ifindex, str(each.ifindex))
                    text = f"{device}:{each.direction}:{datapath.attached[each]}"
                    hooks.setdefault(rule.mirror, set()).add(text)
    return {uuid: tuple(sorted(texts)) for uuid, texts in hooks.items()}


def _status(
    db: Database, bridge: Bridge, mirror: Mirror, hooks: tuple[str, ...], count: Counters | None
) -> MirrorStatus:
    copied = total_of(mirror, as_count(count)).shown
    output = db.ports.get(mirror.output_port) if mirror.output_port is not None else None
    state = mirror.external_ids.get(STATE_KEY)
    reason = mirror.external_ids.get(REASON_KEY)
    if state is None:
        reason = "no sidecar has looked at it"
    if output is None:
        where = f"vlan {mirror.output_vlan}" if mirror.output_vlan is not None else "-"
    else:
        where = output.name
    return MirrorStatus(
        bridge=bridge.name,
        name=mirror.name,
        uuid=str(mirror.uuid),
        state=state or NATIVE,
        reason=reason,
        hooks=hooks,
        output=where,
        packets=copied.packets,
        bytes=copied.bytes,
        drops=count.drops if count is not None else 0,
    )


def _orphan(uuid: UUID, hooks: tuple[str, ...], count: Counters) -> MirrorStatus:
    """A mirror that is in the kernel, and not in the database."""
    return MirrorStatus(
        bridge="-",
        name=str(uuid),
        uuid=str(uuid),
        state=OFFLOADED,
        reason=_NO_ROW,
        hooks=hooks,
        output="-",
        packets=count.packets,
        bytes=count.bytes,
        drops=count.drops,
    )


def as_json(mirrors: Iterable[MirrorStatus]) -> str:
    """The status as a JSON array of objects."""
    return json.dumps([asdict(mirror) for mirror in mirrors], indent=2)


_COLUMNS = ("BRIDGE", "NAME", "STATE", "OUTPUT", "PACKETS", "BYTES", "DROPS", "HOOKS", "REASON")


def as_table(mirrors: Iterable[MirrorStatus]) -> str:
    """The status as a table for people."""
    return "\n".join(align([_COLUMNS, *map(_row, mirrors)]))


def _row(mirror: MirrorStatus) -> tuple[str, ...]:
    cells = (
        mirror.bridge,
        mirror.name,
        mirror.state,
        mirror.output,
        str(mirror.packets),
        str(mirror.bytes),
        str(mirror.drops),
        ",".join(mirror.hooks) or "-",
        mirror.reason or "-",
    )
    return tuple(printable(cell) for cell in cells)
