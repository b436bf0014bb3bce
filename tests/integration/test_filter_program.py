"""`bpf/flow_key.h` in the running kernel: a program made of it alone, with frames of any kind.

The key that it extracts has to be the model's (`ovs_ebpf_tap/lab/flowkey.py`), byte by byte.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from any_frames import KEY, frames, matches
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.decide.mirror_filter import parse
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.ebpf.compile import expand
from ovs_ebpf_tap.lab.flowkey import key_of, selects
from ovs_ebpf_tap.lab.frames import (
    ETH_8021AD,
    ETH_8021Q,
    Address,
    Tag,
    Tags,
    arp_request,
    ethernet,
    icmp_frame,
    tcp_frame,
    udp_frame,
)
from ovs_ebpf_tap.model.match import Match

# The kernel's test run takes no cut IP packets, so the frame's type is put in by the program, and
# a tag to where devices leave it, in the packet's metadata.
PROGRAM = """
struct probe_options {
	u32 vlan_limit;
	u32 type;
	u32 tpid;
	u32 tci;
};

BPF_TABLE("array", u32, struct probe_options, probe_options, 1);
BPF_TABLE("array", u32, union tap_flow, flows, 1);

int probe(struct __sk_buff *skb)
{
	u32 zero = 0;
	struct probe_options *option = probe_options.lookup(&zero);
	struct tap_match *match = matches.lookup(&zero);
	union tap_flow flow;
	__be16 type;

	if (!option || !match)
		return -1;
	type = bpf_htons(option->type);
	if (bpf_skb_store_bytes(skb, 12, &type, sizeof(type), 0))
		return -1;
	if (option->tpid && bpf_skb_vlan_push(skb, bpf_htons(option->tpid), option->tci))
		return -1;
	tap_extract(skb, option->vlan_limit, &flow);
	flows.update(&zero, &flow);
	return tap_matches(&flow, match);
}
"""
FIRST = struct.pack("=I", 0)
UNKNOWN_TYPE = bytes.fromhex("88b5")


@dataclass(frozen=True)
class FilterProbe:
    """The program, and its maps."""

    program: int
    options: bpf.Map
    matches: bpf.Map
    flows: bpf.Map

    def run(self, frame: bytes, match: Match, vlan_limit: int, offload: bool) -> tuple[bytes, bool]:
        """The key of a frame, and whether the match selects it.

        With `offload`, the outermost VLAN tag is in metadata if there is one.
        """
        tpid = int.from_bytes(frame[12:14], "big")
        if offload and tpid in (ETH_8021Q, ETH_8021AD) and len(frame) >= 18:
            tci = int.from_bytes(frame[14:16], "big")
            frame = frame[:12] + frame[16:]
        else:
            tpid = tci = 0
        dl_type = int.from_bytes(frame[12:14], "big")
        frame = frame[:12] + UNKNOWN_TYPE + frame[14:]
        self.options.set(FIRST, struct.pack("=IIII", vlan_limit, dl_type, tpid, tci))
        self.matches.set(FIRST, match.pack())
        result = bpf.run_classifier(self.program, frame)
        assert result in (0, 1)
        return self.flows.get(FIRST) or b"", result == 1


@pytest.fixture(scope="module")
def probe() -> Iterator[FilterProbe]:
    from bcc import BPF

    os.environ["BCC_KERNEL_SOURCE"] = str(abi.source_dir())
    text = f"{expand(abi.source_dir() / 'flow_key.h')}\n{PROGRAM}".encode()
    module = BPF(text=text, cflags=["-Wall", "-Werror"])
    maps = [
        bpf.Map(os.dup(module[name].map_fd)) for name in (b"probe_options", b"matches", b"flows")
    ]
    yield FilterProbe(module.load_func(b"probe", BPF.SCHED_CLS).fd, *maps)
    for each in maps:
        each.close()
    module.cleanup()


def members(key: bytes) -> dict[str, str]:
    """A key in a form that shows where two of them differ."""
    return {member: key[place].hex() for member, place in KEY.places.items()}


@settings(max_examples=1000)
@given(frame=frames(), vlan_limit=st.sampled_from([1, 2]), offload=st.booleans(), data=st.data())
def test_the_key_and_the_match_are_the_models(
    probe: FilterProbe, frame: bytes, vlan_limit: int, offload: bool, data: st.DataObject
) -> None:
    wanted = key_of(frame, vlan_limit)
    match = data.draw(matches(wanted))
    key, selected = probe.run(frame, match, vlan_limit, offload)
    assert members(key) == members(wanted)
    assert selected == selects(match, wanted)


A = Address("02:00:00:00:00:01", "10.0.0.1")
B = Address("02:00:00:00:00:02", "10.0.0.2")
TAGS: list[Tags] = [[], [Tag(10, pcp=3)], [Tag(20, tpid=ETH_8021AD), 10]]
FRAMES = {
    "udp": [udp_frame(A, B, b"x", dport=53, tags=tags) for tags in TAGS],
    "tcp": [tcp_frame(A, B, b"x", dport=80, flags=0x12, tags=tags) for tags in TAGS],
    "icmp": [icmp_frame(A, B, tags=tags) for tags in TAGS],
    "arp": [arp_request(A, B.ip, tags=tags) for tags in TAGS],
    "other": [ethernet(B.mac, A.mac, 0x88CC, b"x" * 46, tags=tags) for tags in TAGS],
}


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(
    ("text", "kinds", "tags"),
    [
        ("", ["udp", "tcp", "icmp", "arp", "other"], [0, 1]),
        ("ip", ["udp", "tcp", "icmp"], [0, 1]),
        ("tcp,nw_src=10.0.0.1,tp_dst=80,tcp_flags=syn|ack", ["tcp"], [0, 1]),
        ("tcp,nw_src=10.0.0.2", [], []),
        ("udp,udp_dst=53,vlan_tci=0", ["udp"], [0]),
        ("dl_vlan=10,icmp,icmp_type=8", ["icmp"], [1]),
        ("dl_vlan_pcp=3", ["udp", "tcp", "icmp", "arp", "other"], [1]),
        ("arp,arp_op=1,arp_sha=02:00:00:00:00:01,arp_tpa=10.0.0.2", ["arp"], [0, 1]),
        ("dl_type=0x88cc,dl_dst=02:00:00:00:00:02", ["other"], [0, 1]),
    ],
)
def test_filters(
    probe: FilterProbe, text: str, kinds: list[str], tags: list[int], offload: bool
) -> None:
    """Of two tags only the outer one is parsed, so nothing is known of what is behind it."""
    match = parse(text)
    for kind, some in FRAMES.items():
        for number, frame in enumerate(some):
            wanted = text == "" or (kind in kinds and number in tags)
            assert probe.run(frame, match, 1, offload)[1] == wanted, (kind, number)
