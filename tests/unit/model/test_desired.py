"""Plain data of what is desired."""

from __future__ import annotations

import pytest

from ovs_ebpf_tap.model.desired import keys_agree
from ovs_ebpf_tap.model.rows import SELECT_VLAN_KEY, STATE_KEY


@pytest.mark.parametrize(
    ("state", "parked", "agree"),
    [
        ("offloaded", True, True),
        ("offloaded", False, False),
        ("native", True, False),
        ("native", False, True),
        ("invalid", False, True),
        (None, False, True),
        (None, True, False),
    ],
)
def test_keys_agree_unless_a_move_is_under_way(
    state: str | None, parked: bool, agree: bool
) -> None:
    ids = {"other": "x"}
    if state is not None:
        ids[STATE_KEY] = state
    if parked:
        ids[SELECT_VLAN_KEY] = ""
    assert keys_agree(ids) == agree
