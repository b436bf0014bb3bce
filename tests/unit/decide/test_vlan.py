"""VLAN settings, against Open vSwitch's own functions as `ovs_vlans` tells them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ovs_vlans import Bundle, Packet, Vlan, enter, includes, leave

from ovs_ebpf_tap.decide.mirror_filter import parse
from ovs_ebpf_tap.decide.vlan import Path, PortVlans
from ovs_ebpf_tap.lab.frames import Tag
from ovs_ebpf_tap.model.frame_rewrite import (
    ACCESS,
    ALL,
    FORCED,
    KEEP,
    NATIVE,
    PRIORITY_ALWAYS,
    PRIORITY_IF_NONZERO,
    TUNNEL,
    FrameRewrite,
    vlan_set,
)
from ovs_ebpf_tap.model.rows import Port

VLANS = st.sampled_from([0, 1, 5, 7, 4094, 4095]) | st.integers(0, 4095)
MODES = ["trunk", "access", "native-tagged", "native-untagged", "dot1q-tunnel"]
PARKED = 1 << 4095


def row(**columns: Any) -> Port:
    return Port(UUID(int=1), "p", **columns)


def ports() -> st.SearchStrategy[Port]:
    few = st.lists(VLANS, max_size=3).map(tuple)
    return st.builds(
        Port,
        uuid=st.just(UUID(int=1)),
        name=st.just("p"),
        tag=st.none() | VLANS,
        trunks=few,
        cvlans=few,
        vlan_mode=st.sampled_from([None, *MODES]),
        priority_tags=st.sampled_from([None, "no", "true", "if-nonzero", "always", "odd"]),
        qinq_ethtype=st.sampled_from([None, "802.1q", "802.1ad", "odd"]),
    )


def bits(vlans: int) -> set[int]:
    return {vlan for vlan in range(4096) if vlans >> vlan & 1}


@pytest.mark.parametrize(
    ("columns", "vlans"),
    [
        ({}, PortVlans()),
        ({"vlan_mode": "trunk"}, PortVlans()),
        ({"vlan_mode": "trunk", "tag": 5}, PortVlans()),
        ({"trunks": (5, 7)}, PortVlans(trunks=1 << 5 | 1 << 7)),
        ({"cvlans": (5,)}, PortVlans()),
        ({"tag": 5}, PortVlans(ACCESS, 5)),
        ({"tag": 0}, PortVlans(ACCESS)),
        ({"vlan_mode": "access"}, PortVlans(ACCESS)),
        ({"tag": 5, "trunks": (7,)}, PortVlans(ACCESS, 5)),
        ({"vlan_mode": "native-tagged"}, PortVlans(NATIVE, tags_native=True)),
        ({"vlan_mode": "native-untagged"}, PortVlans(NATIVE)),
        ({"vlan_mode": "native-untagged", "tag": 5}, PortVlans(NATIVE, 5, ALL & ~1)),
        (
            {"vlan_mode": "native-tagged", "tag": 5, "trunks": (0, 7)},
            PortVlans(NATIVE, 5, 1 << 5 | 1 << 7, tags_native=True),
        ),
        ({"vlan_mode": "native-untagged", "trunks": (0, 7)}, PortVlans(NATIVE, 0, 1 | 1 << 7)),
        ({"vlan_mode": "dot1q-tunnel", "tag": 5}, PortVlans(TUNNEL, 5, tpid=0x88A8)),
        (
            {"vlan_mode": "dot1q-tunnel", "tag": 5, "cvlans": (7,), "qinq_ethtype": "802.1q"},
            PortVlans(TUNNEL, 5, 1 << 7, tpid=0x8100),
        ),
        ({"priority_tags": "if-nonzero"}, PortVlans(priority=PRIORITY_IF_NONZERO)),
        ({"priority_tags": "true"}, PortVlans(priority=PRIORITY_IF_NONZERO)),
        ({"tag": 5, "priority_tags": "always"}, PortVlans(ACCESS, 5, priority=PRIORITY_ALWAYS)),
        ({"priority_tags": "never"}, PortVlans()),
        ({"priority_tags": "false"}, PortVlans()),
    ],
)
def test_settings(columns: dict[str, Any], vlans: PortVlans) -> None:
    assert PortVlans.of(row(**columns)) == vlans


@given(ports())
def test_what_a_port_admits_and_carries(port: Port) -> None:
    vlans, bundle = PortVlans.of(port), Bundle.of(port)
    everything = range(4096)
    assert bits(vlans.admitted) == {vid for vid in everything if bundle.admits(vid)}
    inside = {vid: enter(Packet.received([Tag(vid)], 1), bundle) for vid in everything}
    assert bits(vlans.inside) == {found[0].vid for found in inside.values() if found}
    if vlans.plain:
        assert all(found and found[0].vid == vid for vid, found in inside.items())
    carried = {vid for vid in everything if includes(bundle, (Vlan(vid=vid), Vlan()))}
    assert {vid for vid in everything if vlans.carries(vid)} == carried


@given(ports(), VLANS)
def test_what_has_left_a_port_is_in_the_vlan_it_was_in(port: Port, vid: int) -> None:
    """So a hook there lets all of it pass."""
    bundle, leaving = Bundle.of(port), PortVlans.of(port).leaving
    vlans = (Vlan(0x8100, vid), Vlan())
    if not includes(bundle, vlans):
        return
    left = leave(Packet.received([], 1), vlans, bundle)
    seen = left.frame[0].vid if left.frame else 0
    if leaving.mode == FORCED:
        assert not left.headers or bundle.priority_tags == "always"
        assert leaving.admitted == ALL
    assert leaving.admitted >> seen & 1
    assert leaving.inside >> vid & 1


# Paths.


def rewrite(path: Path, output: PortVlans, **special: Any) -> FrameRewrite:
    how = {"limit": 1, "snaplen": 0, "max_len": 1514, "netdev": False, **special}
    return path.rewrite(output, **how)


def test_the_parked_vlan_is_left_to_ovs() -> None:
    assert Path.of(PortVlans()).selected == ALL & ~PARKED
    assert not Path.of(PortVlans(ACCESS, 4095)).selected


def test_a_selection_narrows() -> None:
    path = Path.of(PortVlans()).select(vlan_set([5, 7])).select(vlan_set([7, 9]))
    assert bits(path.selected) == {7}
    assert not Path.of(PortVlans(ACCESS, 5)).select(1 << 7).selected


def test_no_vlans_are_all() -> None:
    assert vlan_set([]) == ALL
    assert bits(vlan_set([0, 5])) == {0, 5}


def test_copies_into_a_vlan_are_of_the_others() -> None:
    path = Path.of(PortVlans()).into(5)
    assert path.selected == ALL & ~PARKED & ~(1 << 5)
    assert path.unreserved
    assert rewrite(path, PortVlans()).set_vid == 5


def test_copies_in_a_vlan_are_selected_by_it() -> None:
    path = Path.of(PortVlans(ACCESS, 9)).into(5)
    assert path.select(1 << 5) == path
    assert not path.select(1 << 9).selected
    assert path.into(7).selected == path.selected
    assert not path.into(5).selected


def test_copies_behind_an_access_port_are_in_its_vlan() -> None:
    path = Path.of(PortVlans()).through(PortVlans(ACCESS, 5))
    assert path is not None
    found = rewrite(path, PortVlans())
    assert (found.in_mode, found.in_tag, found.set_vid) == (FORCED, 5, None)
    assert not path.select(1 << 7).selected
    into = path.into(7)
    assert (rewrite(into, PortVlans()).in_tag, rewrite(into, PortVlans()).set_vid) == (7, None)


def test_copies_behind_a_trunk_are_what_it_carries() -> None:
    path = Path.of(PortVlans()).through(PortVlans(trunks=1 << 5))
    assert path is not None
    assert bits(path.selected) == {5}
    assert rewrite(path, PortVlans()).in_mode == KEEP


@pytest.mark.parametrize(
    "output",
    [
        PortVlans(NATIVE, 5),
        PortVlans(NATIVE, 5, tags_native=True),
        PortVlans(TUNNEL, 5),
        PortVlans(priority=PRIORITY_ALWAYS),
        PortVlans(ACCESS, 5, priority=PRIORITY_IF_NONZERO),
    ],
)
def test_copies_behind_others_are_not_followed(output: PortVlans) -> None:
    assert Path.of(PortVlans()).through(output) is None


def test_filters_add_up() -> None:
    path = Path.of(PortVlans()).filtered(parse("ip"))
    assert path.match == parse("ip")
    assert path.filtered(parse("tcp")).match == parse("tcp")
    assert path.selected
    assert not path.filtered(parse("arp")).selected


@pytest.mark.parametrize(
    ("source", "output", "special", "bare", "tagged"),
    [
        (PortVlans(), PortVlans(), {}, True, True),
        (PortVlans(), PortVlans(), {"limit": 2}, False, True),
        (PortVlans(), PortVlans(), {"snaplen": 200}, False, False),
        (PortVlans(), PortVlans(priority=PRIORITY_ALWAYS), {}, False, False),
        (PortVlans(), PortVlans(ACCESS, 5), {}, False, True),
        (PortVlans(), PortVlans(ACCESS, 5), {"snaplen": 200}, False, False),
        (PortVlans(ACCESS, 5), PortVlans(), {}, False, False),
        (PortVlans(), PortVlans(NATIVE, 5, tags_native=True), {}, True, True),
        (PortVlans(), PortVlans(NATIVE, 5), {}, False, False),
    ],
)
def test_which_frames_need_an_edit(
    source: PortVlans, output: PortVlans, special: dict[str, Any], bare: bool, tagged: bool
) -> None:
    found = rewrite(Path.of(source), output, **special)
    assert (found.only_bare, found.only_tagged) == (bare, tagged)


@given(ports(), ports(), st.none() | VLANS)
def test_the_tag_that_frames_without_one_get(source: Port, output: Port, into: int | None) -> None:
    path = Path.of(PortVlans.of(source))
    pushed = rewrite(path if into is None else path.into(into), PortVlans.of(output)).pushed
    packet = Packet.received([], 1)
    vlans = enter(packet, Bundle.of(source))
    if not pushed or vlans is None:
        return
    if into is not None:
        vlans = (replace(vlans[0], vid=into), vlans[1])
    assert list(leave(packet, vlans, Bundle.of(output)).frame) == [Tag(pushed)]


def test_the_usual_tag_is_known_beforehand() -> None:
    access, trunk = PortVlans(ACCESS, 5), PortVlans()
    assert rewrite(Path.of(access), trunk).pushed == 5
    assert rewrite(Path.of(trunk).into(7), trunk).pushed == 7
    assert not rewrite(Path.of(access), trunk, snaplen=200).pushed
    assert not rewrite(Path.of(access), PortVlans(NATIVE, 5)).pushed


def test_payload_of_an_access_port_is_not_looked_at() -> None:
    left = PortVlans(ACCESS, 5).leaving
    assert rewrite(Path.of(left), PortVlans(), limit=2).limit == 0
    assert rewrite(Path.of(PortVlans(ACCESS, 5)), PortVlans(), limit=2).limit == 2
