"""Modes that outlive the rows of ovn-controller."""

from __future__ import annotations

import pytest
from builders import World, switch

from ovs_ebpf_tap.decide.remembered_modes import mode_edits, remember, with_remembered
from ovs_ebpf_tap.model.rows import MODE_KEY
from ovs_ebpf_tap.model.transaction import BridgeEdit, MirrorEdit, Transaction

OVN = {"ovn-owned": "true"}
NATIVE = {MODE_KEY: "native"}
KEY = f"{MODE_KEY}-m"


def world(row: dict[str, str], bridge: dict[str, str]) -> World:
    made = switch().add_mirror(src="a", out="out", external_ids=row)
    made.set_bridge("br0", external_ids=bridge)
    return made


def bridge_edit(made: World, mode: str | None) -> Transaction:
    bridge = made.bridges["br0"].uuid
    change = BridgeEdit(bridge, {}, (KEY,)) if mode is None else BridgeEdit(bridge, {KEY: mode})
    return Transaction(bridges=(change,))


@pytest.mark.parametrize("mode", ["native", "offload"])
@pytest.mark.parametrize("known", [{}, {KEY: "native"}, {KEY: "offload"}])
def test_the_mode_of_a_row_is_kept_on_its_bridge(mode: str, known: dict[str, str]) -> None:
    made = world({**OVN, MODE_KEY: mode}, known)
    expected = Transaction() if known.get(KEY) == mode else bridge_edit(made, mode)
    assert mode_edits(made.db) == expected
    assert with_remembered(made.db) == made.db


def test_a_new_row_gets_it() -> None:
    made = world(OVN, {KEY: "native"})
    edit = MirrorEdit(made.mirrors["m"].uuid, set_ids=NATIVE)
    assert mode_edits(made.db) == Transaction((edit,))
    (row,) = with_remembered(made.db).mirrors.values()
    assert row.external_ids == {**OVN, **NATIVE}


@pytest.mark.parametrize("key", ["ebpf-tap-state", "ebpf-tap-counted"])
def test_where_the_user_has_removed_it_from_the_row_it_is_forgotten(key: str) -> None:
    """Also while no sidecar ran, or after `release`."""
    made = world({**OVN, key: "0"}, {KEY: "native"})
    assert mode_edits(made.db) == bridge_edit(made, None)
    assert with_remembered(made.db) == made.db


def test_the_mode_of_a_mirror_that_is_not_there_is_kept() -> None:
    made = world(OVN, {f"{MODE_KEY}-other": "native", MODE_KEY: "native"})
    assert not mode_edits(made.db)


@pytest.mark.parametrize("row", [{}, NATIVE])
def test_rows_of_other_writers_are_left_alone(row: dict[str, str]) -> None:
    made = world(row, {KEY: "offload"})
    assert not mode_edits(made.db)
    assert with_remembered(made.db) == made.db
    assert remember(made.db, {made.mirrors["m"].uuid: "native"}) == ()


def test_release_remembers_what_it_sets() -> None:
    made = world(OVN, {})
    edits = remember(made.db, {made.mirrors["m"].uuid: "native"})
    assert Transaction(bridges=edits) == bridge_edit(made, "native")
