"""Takes over what an older build has in the kernel: each build has maps of its own."""

from __future__ import annotations

from pathlib import Path

from ovs_ebpf_tap.apply import cutter
from ovs_ebpf_tap.apply.attachment import Attachment
from ovs_ebpf_tap.apply.datapath import Datapath
from ovs_ebpf_tap.apply.dummy import Dummies
from ovs_ebpf_tap.apply.hook_table import DesiredHook
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.ebpf import pinning, programs
from ovs_ebpf_tap.ebpf.build import build_id
from ovs_ebpf_tap.util.probes import probe


def older_builds(pin_dir: Path) -> list[programs.Programs]:
    """The pinned programs of other versions, which this one replaces; the caller closes them."""
    opened = []
    for directory in pinning.builds(pin_dir):
        if directory.name != build_id():
            try:
                opened.append(programs.Programs.open(directory))
                probe("older build found")
            except FileNotFoundError:
                pinning.remove_build(directory)  # Half of a build is of no use to anybody.
    return opened


def adopt(ours: Datapath, older: Datapath, kind: str, traffic_control: TrafficControl) -> None:
    """Takes over rules, mirrors and qdiscs of an older build, and attaches to its hooks.

    `kind` says how, `TCX` or `CLSACT`.
    """
    qdiscs = older.parts.filters.qdiscs
    for ifindex, made in qdiscs.items():
        ours.parts.filters.note(ifindex, made)
    ours.read()
    ours.parts.slots.ensure(older.mirrors)
    ours.ensure_cutter(older.rules)
    shared = Attachment(kind)
    ours.attacher.attach({h: DesiredHook(rules, shared) for h, rules in older.rules.items()})
    probe("older hooks taken over")
    for ifindex in qdiscs:
        traffic_control.remove_former(ifindex)
    for uuid, count in older.counters().items():
        ours.parts.slots.take_over(uuid, count)
        probe("older counters taken over")
    cutter.remove_all(Dummies(traffic_control), keep=ours.cutter.name)
    ours.read()
    probe("older build taken over")
