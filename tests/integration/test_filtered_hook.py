"""The program of a hook whose one rule has a filter, in the running kernel.

Most packets that the filter does not select it tells at a glance, and the rest it leaves to the
programs that read the whole key. Together they have to select what the model does
(`ovs_ebpf_tap/lab/flowkey.py`).
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from uuid import UUID

import pytest
from any_frames import frames, matches
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.copy_cost import TRUNK
from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply.encoding import Encoding
from ovs_ebpf_tap.decide.mirror_filter import parse
from ovs_ebpf_tap.ebpf import bpf, pinning, programs
from ovs_ebpf_tap.lab.flowkey import key_of, selects
from ovs_ebpf_tap.lab.frames import (
    ETH_8021AD,
    ETH_8021Q,
    Address,
    arp_request,
    icmp_frame,
    tcp_frame,
    udp_frame,
)
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.model.desired import INGRESS, Hook, Rule
from ovs_ebpf_tap.model.match import Match

COUNTERS = abi.layout("counters")
SLOT = 0
PARKED_VLAN = abi.constant("PARKED_VLAN")


@dataclass(frozen=True)
class FilteredHook:
    """A hook that copies to a device that is down, which counts what it was to copy."""

    opened: programs.Programs
    ns: Netns
    output: int

    def selects(self, match: Match, vlan_limit: int, frame: bytes) -> bool:
        """Whether the hook would copy the frame."""
        maps = self.opened.maps
        encoding = Encoding(maps)
        rewrite = replace(TRUNK, limit=vlan_limit)
        rule = Rule(
            UUID(int=1), self.output, self.output, 1, arrival=True, rewrite=rewrite, match=match
        )
        packed = encoding.pack(Hook(1, INGRESS), rule, SLOT)
        maps["rules"].set(bpf.u32(0), packed)
        maps["counters"].clear(bpf.u32(SLOT))
        constants = encoding.rule_constants(rule, packed, 0, encoding.hook_flags([rule]))
        program = self.opened.load_own("tap_specialized", constants)
        try:
            self.ns.call(lambda: bpf.run_classifier(program, frame))
        finally:
            os.close(program)
        counted = maps["counters"].get(bpf.u32(SLOT)) or b""
        return any(each["drops"] for each in COUNTERS.unpack_many(counted))


@pytest.fixture(scope="module")
def hook() -> Iterator[FilteredHook]:
    pins = pinning.BPFFS / f"ovs-ebpf-tap-test-{secrets.token_hex(4)}"
    pinning.ensure_bpffs(pins)
    opened = programs.ensure_programs(pins)
    try:
        with Netns("filtered") as ns:
            ns.run("ip", "link", "add", "out", "type", "veth", "peer", "name", "far")
            output = ns.call(lambda: socket.if_nametoindex("out"))
            yield FilteredHook(opened, ns, output)
    finally:
        opened.close()
        shutil.rmtree(pins, ignore_errors=True)


def in_parked_vlan(frame: bytes) -> bool:
    """Whether Open vSwitch goes on copying the frame, whatever the filter says."""
    tagged = int.from_bytes(frame[12:14], "big") in (ETH_8021Q, ETH_8021AD)
    return tagged and int.from_bytes(frame[14:16], "big") & 0xFFF == PARKED_VLAN


@settings(max_examples=1000)
@given(frame=frames(), vlan_limit=st.sampled_from([1, 2]), data=st.data())
def test_it_selects_what_the_model_does(
    hook: FilteredHook, frame: bytes, vlan_limit: int, data: st.DataObject
) -> None:
    key = key_of(frame, vlan_limit)
    assume(not in_parked_vlan(frame))
    match = data.draw(matches(key))
    try:
        found = hook.selects(match, vlan_limit, frame)
    except OSError:
        # The kernel's test run takes no cut IP packets.
        assume(False)
    assert found == selects(match, key)


A = Address("02:00:00:00:00:01", "10.0.0.1")
B = Address("02:00:00:00:00:02", "10.0.0.2")
FRAMES = {
    "udp": udp_frame(A, B, b"x", dport=53),
    "tcp": tcp_frame(A, B, b"x", dport=80),
    "icmp": icmp_frame(A, B),
    "arp": arp_request(A, B.ip),
}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("", {"udp", "tcp", "icmp", "arp"}),
        ("ip", {"udp", "tcp", "icmp"}),
        ("arp", {"arp"}),
        ("arp,arp_tpa=10.0.0.3", set()),
        ("tcp,tp_dst=80", {"tcp"}),
        ("tcp,tp_dst=81", set()),
        ("udp,udp_dst=53", {"udp"}),
        ("icmp,icmp_type=8", {"icmp"}),
        ("icmp,icmp_type=0", set()),
        ("ip,nw_src=10.0.0.1", {"udp", "tcp", "icmp"}),
        ("ip,nw_dst=10.0.0.1", set()),
        ("dl_src=02:00:00:00:00:01", {"udp", "tcp", "icmp", "arp"}),
        ("dl_dst=02:00:00:00:00:03", set()),
    ],
)
def test_filters(hook: FilteredHook, text: str, kinds: set[str]) -> None:
    found = {kind for kind, frame in FRAMES.items() if hook.selects(parse(text), 1, frame)}
    assert found == kinds
