"""What tells a tunnel port's frames apart, as programs look for it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.apply.tunnel_key import has_local_address, pack_tunnel, unpack_tunnel
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, Hook
from ovs_ebpf_tap.model.tunnel import ANY, Tunnel

ADDRESS = st.binary(min_size=16, max_size=16)
TUNNELS = st.one_of(
    st.builds(
        Tunnel,
        port=st.integers(1 << 31, (1 << 32) - 1),
        leaving=st.just(False),
        key=st.none() | st.integers(0, (1 << 32) - 1),
        remote=st.just(ANY) | ADDRESS,
        local=st.just(ANY) | ADDRESS,
        by_flow=st.just(False),
    ),
    st.builds(
        Tunnel,
        port=st.just(1 << 31),
        leaving=st.booleans(),
        key=st.just(5),
        remote=ADDRESS,
        local=ADDRESS,
        by_flow=st.just(False),
    ),
    st.just(Tunnel(1 << 31, False, None, ANY, ANY, by_flow=True)),
)


@given(TUNNELS, st.integers(1, (1 << 31) - 1))
def test_what_is_packed_is_unpacked(tunnel: Tunnel, ifindex: int) -> None:
    hook = unpack_tunnel(pack_tunnel(ifindex, tunnel), tunnel.port)
    assert hook == Hook(ifindex, EGRESS if tunnel.leaving else INGRESS, tunnel)


@pytest.mark.parametrize(
    ("release", "has"), [("5.18.0-4-amd64", False), ("5.19.0", True), ("6.1.0-49-amd64", True)]
)
def test_kernels_that_tell_local_addresses(
    release: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    assert has_local_address() == has
