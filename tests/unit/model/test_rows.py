"""The rows' own sense: parked mirrors, and VLANs kept as text."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.model.rows import (
    PARKED_VLANS,
    PROTECTED_KEY,
    SELECT_VLAN_KEY,
    Database,
    Mirror,
    Port,
    format_vlans,
    parse_vlans,
)

VLANS = st.frozensets(st.integers(0, 4095)).map(sorted).map(tuple)


def mirror(**columns: object) -> Mirror:
    return Mirror(UUID(int=1), "m", **columns)  # type: ignore[arg-type]


@given(VLANS)
def test_vlans_survive_being_kept_as_text(vlans: tuple[int, ...]) -> None:
    assert parse_vlans(format_vlans(vlans)) == vlans


@given(st.text())
def test_any_text_is_read_as_sorted_vlans(text: str) -> None:
    vlans = parse_vlans(text)
    assert list(vlans) == sorted(set(vlans))
    assert all(0 <= vlan <= 4095 for vlan in vlans)


@pytest.mark.parametrize(
    ("text", "vlans"),
    [
        ("", ()),
        ("10", (10,)),
        ("20,10", (10, 20)),
        (" 10 , 20 ", (10, 20)),
        ("10,,20,", (10, 20)),
        ("10,10", (10,)),
        ("0,4095", (0, 4095)),
        ("4096,-1,ten,1e2,\u00b2", ()),
        ("9" * 5000, ()),
    ],
)
def test_parse_vlans(text: str, vlans: tuple[int, ...]) -> None:
    assert parse_vlans(text) == vlans


@pytest.mark.parametrize(("vlans", "text"), [((), ""), ((10,), "10"), ((20, 10), "10,20")])
def test_format_vlans(vlans: tuple[int, ...], text: str) -> None:
    assert format_vlans(vlans) == text


@pytest.mark.parametrize(
    ("select_vlan", "kept", "parked", "wanted"),
    [
        ((), None, False, ()),
        ((10,), None, False, (10,)),
        (PARKED_VLANS, "", True, ()),
        (PARKED_VLANS, "10,20", True, (10, 20)),
        # The user changed it while it was parked.
        ((), "10", False, ()),
        ((30,), "10", False, (30,)),
        ((30, 4095), "10", False, (30, 4095)),
    ],
)
def test_what_is_parked_and_what_is_wanted(
    select_vlan: tuple[int, ...], kept: str | None, parked: bool, wanted: tuple[int, ...]
) -> None:
    ids = {} if kept is None else {SELECT_VLAN_KEY: kept}
    row = mirror(select_vlan=select_vlan, external_ids=ids)
    assert row.parked is parked
    assert row.desired_vlans == wanted


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize("kept", [None, "false", "true"])
def test_a_flipped_port_is_as_protected_as_its_mirror_says(
    protected: bool, kept: str | None
) -> None:
    port = Port(UUID(int=2), "out", protected=protected)
    other = Port(UUID(int=3), "other", protected=protected)
    ids = {} if kept is None else {PROTECTED_KEY: kept}
    row = mirror(output_port=port.uuid, external_ids=ids)
    db = Database(ports={port.uuid: port, other.uuid: other}, mirrors={row.uuid: row})

    assert db.as_intended(port).protected is (protected if kept is None else kept == "true")
    assert db.as_intended(other).protected is protected


@pytest.mark.parametrize(("members", "is_bond"), [(0, False), (1, False), (2, True)])
def test_a_bond_has_several_interfaces(members: int, is_bond: bool) -> None:
    interfaces = tuple(UUID(int=n) for n in range(members))
    assert Port(UUID(int=9), "p", interfaces=interfaces).is_bond is is_bond


@pytest.mark.parametrize(
    ("snaplen", "cut"), [(None, 0), (0, 0), (14, 14), (65534, 65534), (65535, 0)]
)
def test_the_longest_snaplen_cuts_nothing(snaplen: int | None, cut: int) -> None:
    assert Mirror(UUID(int=1), "m", snaplen=snaplen).cut == cut
