"""What `status` shows of odd rows."""

from __future__ import annotations

import json
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from builders import World, switch
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.daemon.mirror_status import MirrorStatus, as_json, as_table, collect
from ovs_ebpf_tap.model.counters import Counters
from ovs_ebpf_tap.model.desired import EGRESS, INVALID, NATIVE, OFFLOADED, Hook
from ovs_ebpf_tap.model.rows import COUNTED_KEY, REASON_KEY, STATE_KEY, Database

HEAD = "BRIDGE  NAME  STATE  OUTPUT  PACKETS  BYTES  DROPS  HOOKS  REASON"


def row(**columns: Any) -> MirrorStatus:
    plain: dict[str, Any] = {
        "bridge": "br0",
        "name": "m",
        "uuid": str(UUID(int=1)),
        "state": OFFLOADED,
        "reason": None,
        "hooks": ("a:ingress:tcx",),
        "output": "out",
        "packets": 1,
        "bytes": 60,
        "drops": 0,
    }
    return MirrorStatus(**{**plain, **columns})


def datapath(world: World, counts: dict[str, Counters], attached: dict[Hook, str]) -> Any:
    """What `collect` looks at of a Datapath."""
    return SimpleNamespace(
        counters=lambda: {world.mirrors[name].uuid: count for name, count in counts.items()},
        rules=dict(world.plan().hooks),
        attached=attached,
    )


def test_no_mirrors() -> None:
    assert as_table([]) == HEAD
    assert json.loads(as_json([])) == []


def test_a_table() -> None:
    lines = as_table(
        [row(), row(name="longer", state=NATIVE, reason="snaplen", hooks=())]
    ).splitlines()
    assert lines == [
        "BRIDGE  NAME    STATE      OUTPUT  PACKETS  BYTES  DROPS  HOOKS          REASON",
        "br0     m       offloaded  out     1        60     0      a:ingress:tcx  -",
        "br0     longer  native     out     1        60     0      -              snaplen",
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("m", "m"),
        ("Sp\u00efegel \u955c\u5b50", "Sp\u00efegel \u955c\u5b50"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\u202eback", r"\u202eback"),
        ("\u2028", r"\u2028"),
        ("it's", "it's"),
    ],
)
def test_names_cannot_move_the_cursor(name: str, shown: str) -> None:
    for column in ("name", "bridge", "output"):
        assert shown in as_table([row(**{column: name})])


@given(st.text(), st.text(), st.text())
def test_a_row_is_one_line_for_any_names(bridge: str, name: str, output: str) -> None:
    table = as_table([row(bridge=bridge, name=name, output=output), row()])
    assert len(table.splitlines()) == 3
    assert all(line.isprintable() for line in table.splitlines())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_holds_any_name(name: str) -> None:
    (read,) = json.loads(as_json([row(name=name)]))
    assert read["name"] == name
    assert read["hooks"] == ["a:ingress:tcx"]
    assert read["reason"] is None


def test_json_has_what_the_contract_names() -> None:
    (read,) = json.loads(as_json([row()]))
    assert {
        "bridge",
        "name",
        "state",
        "reason",
        "hooks",
        "output",
        "packets",
        "bytes",
        "drops",
    } <= set(read)


@pytest.mark.parametrize(
    ("ids", "state", "reason"),
    [
        ({}, NATIVE, "no sidecar has looked at it"),
        ({STATE_KEY: OFFLOADED}, OFFLOADED, None),
        ({STATE_KEY: NATIVE, REASON_KEY: "why"}, NATIVE, "why"),
        ({STATE_KEY: INVALID, REASON_KEY: "why"}, INVALID, "why"),
    ],
)
def test_states(ids: dict[str, str], state: str, reason: str | None) -> None:
    world = switch("a out").add_mirror(src="a", out="out", external_ids=ids)
    (found,) = collect(world.db, world.devices, None)
    assert (found.state, found.reason) == (state, reason)


@pytest.mark.parametrize(
    ("columns", "output"),
    [({}, "-"), ({"output_vlan": 7}, "vlan 7"), ({"output_port": UUID(int=0xDEAD)}, "-")],
)
def test_outputs(columns: dict[str, Any], output: str) -> None:
    world = switch("a out").add_mirror(src="a")
    world.set_mirror("m", **columns)
    (found,) = collect(world.db, world.devices, None)
    assert found.output == output


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("parked", [True, False])
def test_a_mirror_without_a_hook_of_ours(parked: bool, pinned: bool) -> None:
    """What is told of a parked one: where its hooks are, whose are on its devices, or nobody's."""
    world = switch("a b out other").add_mirror(src="a", dst="b", out="out")
    world.set_mirror("m", select_vlan=(4095,) if parked else ())
    asked: list[set[str]] = []

    def look(names: Collection[str], found: tuple[str, ...]) -> tuple[str, ...]:
        asked.append(set(names))
        return found

    def reason(foreign: tuple[str, ...] = (), elsewhere: str | None = None) -> str | None:
        (found,) = collect(
            world.db,
            world.devices,
            None,
            nothing_pinned=not pinned,
            foreign=lambda names: look(names, foreign),
            elsewhere=elsewhere,
        )
        return found.reason

    plain, other, elsewhere = reason(), reason(("a (ingress)",)), reason(("a",), "elsewhere")
    assert all(names == {"a", "b", "out"} for names in asked)
    if not parked:
        assert plain == other == elsewhere == "no sidecar has looked at it"
        return
    assert str(plain).startswith("no sidecar" if pinned else "nobody copies")
    assert str(other).endswith("may: on a (ingress)")
    assert elsewhere == "elsewhere"


def test_mirrors_are_sorted() -> None:
    world = switch("a").add_bridge("br1").add_mirror("z").add_mirror("b")
    world.add_mirror("a", bridge="br1")
    found = collect(world.db, world.devices, None)
    assert [(each.bridge, each.name) for each in found] == [
        ("br0", "b"),
        ("br0", "z"),
        ("br1", "a"),
    ]


def test_hooks_and_counters_are_the_kernels() -> None:
    world = switch("a b out").add_mirror("m", src="a b", out="out").add_mirror("idle", out="out")
    attached = dict.fromkeys(world.plan().hooks, "tcx")
    counts = {"m": Counters(packets=5, bytes=300, drops=2)}
    gone = world.devices.pop("b")
    world.devices["b"] = gone
    devices = {"a": world.devices["a"]}  # b's device went away meanwhile.
    idle, found = collect(world.db, devices, datapath(world, counts, attached))
    assert found.hooks == (f"{gone.ifindex}:ingress:tcx", "a:ingress:tcx")
    assert (found.packets, found.bytes, found.drops) == (5, 300, 2)
    assert (idle.hooks, idle.packets) == ((), 0)


def test_hooks_that_finish_copies_are_shown_if_they_are_there() -> None:
    world = switch("a").add_port("out", tag=5).add_mirror("m", src="a", out="out")
    attached = dict.fromkeys(world.plan().hooks, "tcx")
    (found,) = collect(world.db, world.devices, datapath(world, {}, attached))
    assert found.hooks == ("a:ingress:tcx",)
    attached[Hook(world.devices["out"].ifindex, EGRESS)] = "tcx"
    (found,) = collect(world.db, world.devices, datapath(world, {}, attached))
    assert found.hooks == ("a:ingress:tcx", "out:egress:tcx")


def test_what_both_have_copied_is_shown() -> None:
    world = (
        switch("a b out").add_mirror("m", src="a", out="out").add_mirror("n", src="b", out="out")
    )
    world.set_mirror("m", external_ids={COUNTED_KEY: "120,1200 100,1000 20,200"})
    world.set_mirror("n", statistics={"tx_packets": 9, "tx_bytes": 540})
    counts = {"m": Counters(packets=25, bytes=260, drops=3)}
    found = collect(world.db, world.devices, datapath(world, counts, {}))
    assert [(each.packets, each.bytes, each.drops) for each in found] == [
        (125, 1260, 3),
        (9, 540, 0),
    ]


def test_mirrors_whose_row_is_gone_are_shown_with_what_ends_them() -> None:
    world = switch("a out").add_mirror("m", src="a", out="out")
    uuid = world.mirrors["m"].uuid
    hooks = dict.fromkeys(world.plan().hooks, "tcx")
    found = collect(Database(), world.devices, datapath(world, {"m": Counters(3, 180, 1)}, hooks))
    (row,) = found
    assert (row.bridge, row.name, row.uuid, row.state) == ("-", str(uuid), str(uuid), OFFLOADED)
    assert (row.packets, row.bytes, row.drops) == (3, 180, 1)
    assert row.hooks
    assert "release --all" in str(row.reason)
