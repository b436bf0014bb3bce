"""`bpf/tags.h` in the running kernel: what hooks make of VLAN tags, against Open vSwitch's way.

Small programs beside those of `tap.c` do one step each on a frame that is on no device: which
VLAN it is in, whether a rule selects it, and what the rule's rewrite makes of its tags. Rules are
the plan's, of a bridge with three ports with any VLAN settings; `ovs_vlans` says what is right.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from builders import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ovs_vlans import Bundle, Packet, Vlans, enter, includes, leave

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply.encoding import Encoding
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.ebpf.compile import FLAGS, expand
from ovs_ebpf_tap.lab.frames import ETH_8021AD, ETH_8021Q, Tag, ethernet
from ovs_ebpf_tap.model.desired import OFFLOADED, Hook, Rule

pytestmark = pytest.mark.root  # To load programs.

PARKED = abi.constant("PARKED_VLAN")

PROGRAMS = """
struct probe_options {
	u32 tpid;	/* of a tag in metadata; 0: none */
	u32 tci;
	u32 flags;
	u32 index;	/* of the rule or rewrite */
	u32 restore;
};

struct probe_result {
	u64 digest;
	u32 admitted;
	u32 vid;
	u32 selected;
	u32 rewritten;
	u32 tpid;	/* of a tag in metadata */
	u32 tci;
	u32 protocol;
	u32 len;
	u8 head[64];
};

BPF_TABLE("array", u32, struct probe_options, probe_options, 1);
BPF_TABLE("array", u32, struct probe_result, probe_result, 1);

static __always_inline struct probe_options *probe_start(struct __sk_buff *skb)
{
	u32 zero = 0;
	struct probe_options *options = probe_options.lookup(&zero);

	if (!options)
		return 0;
	if (options->tpid && bpf_skb_vlan_push(skb, bpf_htons(options->tpid), options->tci))
		return 0;
	return options;
}

int probe_rule(struct __sk_buff *skb)
{
	struct probe_options *options = probe_start(skb);
	u32 zero = 0, index;
	struct probe_result *result = probe_result.lookup(&zero);
	struct tap_packet packet = {};
	struct tap_rule *rule;
	union tap_flow flow;

	if (!options || !result)
		return -1;
	result->admitted = tap_prepare(skb, options->flags, &packet, &flow);
	if (!result->admitted)
		return 0;
	result->vid = packet.vid;
	result->digest = packet.unknown ? 0 : tap_digest_key(&packet.digest);
	index = options->index;
	rule = rules.lookup(&index);
	if (!rule)
		return -1;
	result->selected = tap_selects(skb, rule, &packet, &flow);
	result->rewritten = tap_needs_rewrite(rule, &packet) != 0;
	return 0;
}

int probe_rewrite(struct __sk_buff *skb)
{
	struct probe_options *options = probe_start(skb);
	u32 zero = 0, index;
	struct probe_result *result = probe_result.lookup(&zero);
	struct tap_change change = {};
	struct tap_rewrite *rewrite;

	if (!options || !result)
		return -1;
	index = options->index;
	rewrite = rewrites.lookup(&index);
	if (!rewrite || !tap_rewrite_tags(skb, rewrite, &change))
		return -1;
	if (options->restore)
		tap_restore_tags(skb, &change);
	result->tpid = skb->vlan_present ? bpf_ntohs(skb->vlan_proto) : 0;
	result->tci = skb->vlan_tci;
	result->protocol = bpf_ntohs(skb->protocol);
	result->len = skb->len;
	return bpf_skb_load_bytes(skb, 0, result->head, sizeof(result->head));
}
"""
MAPS = ("rules", "rewrites", "vlans", "ports", "matches", "probe_options", "probe_result")
FIRST = bytes(4)
RESULT = struct.Struct("=QIIIIIIII64s")
RULE = abi.layout("rule")
DEDUP = abi.constant("HOOK_DEDUP")
MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")
UNKNOWN_TYPE = 0x88B5
PAYLOAD = bytes(range(80))


@dataclass(frozen=True)
class Seen:
    """What a hook makes of a frame for a rule."""

    vid: int
    digest: int
    selected: bool
    rewritten: bool


@dataclass(frozen=True)
class TagProbe:
    """The programs, and their maps."""

    rule: int
    rewrite: int
    maps: dict[str, bpf.Map]

    def _run(
        self, program: int, tags: Sequence[Tag], accelerated: bool, **options: int
    ) -> tuple[Any, ...]:
        """Runs on a frame with these tags; the outermost is in metadata if `accelerated`."""
        beside, inside = tags[: int(accelerated)], tags[int(accelerated) :]
        tpid, tci = struct.unpack("!HH", beside[0].pack()) if beside else (0, 0)
        packed = struct.pack(
            "=IIIII", tpid, tci, *(options.get(name, 0) for name in ("flags", "index", "restore"))
        )
        self.maps["probe_options"].set(FIRST, packed)
        self.maps["probe_result"].set(FIRST, bytes(RESULT.size))
        frame = ethernet(*MACS, UNKNOWN_TYPE, PAYLOAD, inside)
        assert bpf.run_classifier(program, frame) == 0
        return RESULT.unpack(self.maps["probe_result"].get(FIRST) or b"")

    def look(
        self, hook: Hook, rules: Sequence[Rule], rule: Rule, tags: Sequence[Tag], accelerated: bool
    ) -> Seen | None:
        """What the hook of these rules makes of a frame for one of them; None if that is nothing.

        The map's rule then has the index of its rewrite.
        """
        encoding = Encoding(self.maps)
        self.maps["rules"].set(FIRST, encoding.pack(hook, rule, 0))
        flags = encoding.hook_flags(rules) | DEDUP
        digest, admitted, vid, selected, rewritten, *_ = self._run(
            self.rule, tags, accelerated, flags=flags
        )
        return Seen(vid, digest, bool(selected), bool(rewritten)) if admitted else None

    def change(self, tags: Sequence[Tag], accelerated: bool, restore: bool = False) -> list[Tag]:
        """The tags that the rewrite of the map's rule leaves on a frame."""
        index = RULE.unpack(self.maps["rules"].get(FIRST) or b"")["rewrite"]
        *_, tpid, tci, protocol, length, head = self._run(
            self.rewrite, tags, accelerated, index=index, restore=int(restore)
        )
        found = [tag_of(tpid, tci)] if tpid else []
        assert protocol == int.from_bytes(head[12:14], "big")
        at = 12
        while (kind := int.from_bytes(head[at : at + 2], "big")) in (ETH_8021Q, ETH_8021AD):
            found.append(tag_of(kind, int.from_bytes(head[at + 2 : at + 4], "big")))
            at += 4
        assert head == ethernet(*MACS, UNKNOWN_TYPE, PAYLOAD, found[bool(tpid) :])[: len(head)]
        assert length == 14 + len(PAYLOAD) + at - 12
        return found


def tag_of(tpid: int, tci: int) -> Tag:
    return Tag(tci & 0xFFF, pcp=tci >> 13, dei=tci >> 12 & 1, tpid=tpid)


@pytest.fixture(scope="module")
def probe() -> Iterator[TagProbe]:
    from bcc import BPF

    os.environ["BCC_KERNEL_SOURCE"] = str(abi.source_dir())
    text = f"{expand(abi.source_dir() / 'tap.c')}\n{PROGRAMS}"
    module = BPF(text=text.encode(), cflags=FLAGS)
    programs = [
        module.load_func(name, BPF.SCHED_CLS).fd for name in (b"probe_rule", b"probe_rewrite")
    ]
    maps = {name: bpf.Map(os.dup(module[name.encode()].map_fd)) for name in MAPS}
    yield TagProbe(programs[0], programs[1], maps)
    for each in maps.values():
        each.close()
    module.cleanup()


# Frames and ports, of few VLANs so that they meet.

VIDS = st.sampled_from([0, 0, 5, 5, 7, PARKED])
TAGS = st.builds(
    Tag,
    vid=VIDS,
    pcp=st.sampled_from([0, 0, 3]),
    dei=st.sampled_from([0, 0, 1]),
    tpid=st.sampled_from([ETH_8021Q, ETH_8021Q, ETH_8021AD]),
)
FRAMES = st.lists(TAGS | st.just(Tag(0)), max_size=3)
FEW = st.lists(st.sampled_from([0, 5, 7]), max_size=2, unique=True).map(tuple)
MODES = ["trunk", "access", "native-tagged", "native-untagged", "dot1q-tunnel"]
PORTS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"tag": st.sampled_from([0, 5, 7])}),
    st.fixed_dictionaries(
        {
            "vlan_mode": st.sampled_from(MODES),
            "tag": st.sampled_from([None, 0, 5, 5, 7]),
            "trunks": FEW,
            "cvlans": st.one_of(st.just(()), FEW),
            "priority_tags": st.sampled_from([None, None, "if-nonzero", "always"]),
            "qinq_ethtype": st.sampled_from([None, "802.1q"]),
        }
    ),
)


@dataclass(frozen=True)
class TagCase:
    """A bridge with the ports s, p and o, and a frame that arrives on s."""

    ports: dict[str, dict[str, Any]]
    vlan_limit: int
    select_vlan: tuple[int, ...]
    frame: list[Tag]
    accelerated: bool
    datapath: str

    def world(self) -> World:
        world = World(settings={"vlan_limit": self.vlan_limit})
        world.add_bridge(datapath_type=self.datapath)
        for name, columns in self.ports.items():
            world.add_port(name, **columns)
        return world

    def bundles(self, world: World) -> list[Bundle]:
        return [Bundle.of(world.ports[name]) for name in "spo"]

    def packet(self) -> Packet:
        """As Open vSwitch receives it: its userspace datapath loses the outermost DEI bit."""
        frame = self.frame
        if self.datapath == "netdev" and frame:
            frame = [replace(frame[0], dei=0), *frame[1:]]
        return Packet.received(frame, self.vlan_limit)

    def selects(self, vid: int) -> bool:
        """Open vSwitch copies what is in the parked VLAN."""
        return vid != PARKED and (not self.select_vlan or vid in self.select_vlan)


CASES = st.builds(
    TagCase,
    ports=st.fixed_dictionaries({"s": PORTS, "p": PORTS, "o": PORTS}),
    vlan_limit=st.sampled_from([1, 1, 2]),
    select_vlan=st.one_of(st.just(()), FEW),
    frame=FRAMES,
    accelerated=st.booleans(),
    datapath=st.sampled_from(["netdev", "system"]),
)


def forward(case: TagCase, source: Bundle, passed: Bundle) -> tuple[Vlans, Packet] | None:
    """The VLANs that the case's frame is in, and what leaves through the port p.

    None if it does not, or may leave with a tag in the place of another that was taken off: of one
    that said nothing, or the port's own VLAN, or of a second one that had a third behind it. Open
    vSwitch does not look at that, and a hook can't tell; it takes the frame for what it looks like.
    """
    packet = case.packet()
    vlans = enter(packet, source)
    if vlans is None or not includes(passed, vlans) or vlans[0].vid == PARKED:
        return None
    seen = case.frame[: min(case.vlan_limit, len(case.frame) - 1)]
    native = passed.mode == "native-untagged" and case.vlan_limit == 1
    third = case.vlan_limit == 2 and len(case.frame) > 2
    if seen and (native or third or any(not (tag.vid or tag.pcp) for tag in seen)):
        return None
    return vlans, leave(packet, vlans, passed)


def copy_of(
    probe: TagProbe, world: World, hook: str, frame: Sequence[Tag], accelerated: bool
) -> list[Tag] | None:
    """The tags of the copy to port o that the hook makes of a frame; None if it makes none."""
    found = next((h for h in world.plan().hooks if world.name_of(h) == hook), None)
    if found is None:
        return None
    rules = world.plan().hooks[found]
    for rule in rules:
        if rule.output != world.devices["o"].ifindex:
            continue
        seen = probe.look(found, rules, rule, frame, accelerated)
        if seen is None or not seen.selected:
            continue
        changed = probe.change(frame, accelerated)
        assert probe.change(frame, accelerated, restore=True) == list(frame)
        # Where the rule says that there is nothing to change, there is nothing.
        assert seen.rewritten or changed == list(frame)
        return changed
    return None


MANY = settings(
    max_examples=300,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@MANY
@given(case=CASES)
def test_copies_of_what_arrives(probe: TagProbe, case: TagCase) -> None:
    world = case.world()
    world.add_mirror(src="s", out="o", select_vlan=case.select_vlan)
    assert world.decision().state == OFFLOADED
    source, _, output = case.bundles(world)
    packet = case.packet()
    vlans = enter(packet, source)
    expected = None
    if vlans is not None and case.selects(vlans[0].vid):
        expected = list(leave(packet, vlans, output).frame)
    assert copy_of(probe, world, "s:ingress", case.frame, case.accelerated) == expected


@MANY
@given(case=CASES, vlan=st.sampled_from([0, 5, 7]))
def test_copies_into_a_vlan(probe: TagProbe, case: TagCase, vlan: int) -> None:
    world = case.world()
    world.add_mirror(src="s", output_vlan=vlan, select_vlan=case.select_vlan)
    if world.decision().state != OFFLOADED:
        return
    source, _, output = case.bundles(world)
    packet = case.packet()
    vlans = enter(packet, source)
    expected = None
    if vlans is not None and case.selects(vlans[0].vid) and vlans[0].vid != vlan:
        vlans = (replace(vlans[0], vid=vlan), vlans[1])
        if includes(output, vlans):
            expected = list(leave(packet, vlans, output).frame)
    assert copy_of(probe, world, "s:ingress", case.frame, case.accelerated) == expected


@MANY
@given(case=CASES)
def test_copies_of_what_leaves(probe: TagProbe, case: TagCase) -> None:
    world = case.world()
    world.add_mirror(dst="p", out="o", select_vlan=case.select_vlan)
    if world.decision().state != OFFLOADED:
        return
    source, passed, output = case.bundles(world)
    forwarded = forward(case, source, passed)
    if forwarded is None:
        return
    _, left = forwarded
    again = enter(left, passed)
    expected = None
    if again is not None and case.selects(again[0].vid):
        expected = list(leave(left, again, output).frame)
    assert copy_of(probe, world, "p:egress", left.frame, case.accelerated) == expected


@MANY
@given(case=CASES)
def test_copies_of_copies(probe: TagProbe, case: TagCase) -> None:
    """Made by the hook that the packet passed first, from what it was there."""
    world = case.world()
    world.add_mirror("m", src="s", out="p").add_mirror(
        "n", dst="p", out="o", select_vlan=case.select_vlan
    )
    if set(world.states().values()) != {OFFLOADED}:
        return
    source, passed, output = case.bundles(world)
    packet = case.packet()
    vlans = enter(packet, source)
    expected = None
    if vlans is not None and vlans[0].vid != PARKED:
        left = leave(packet, vlans, passed)
        again = enter(left, passed)
        if again is not None and (not case.select_vlan or again[0].vid in case.select_vlan):
            expected = list(leave(left, again, output).frame)
    copy = copy_of(probe, world, "s:ingress", case.frame, case.accelerated)
    # The DEI bit is lost where Open vSwitch takes a tag off and puts the like on again.
    assert without_dei(copy) == without_dei(expected)


def without_dei(tags: Sequence[Tag] | None) -> list[Tag] | None:
    return None if tags is None else [replace(tag, dei=0) for tag in tags]


@MANY
@given(case=CASES)
def test_hooks_know_a_packet_again(probe: TagProbe, case: TagCase) -> None:
    """A packet has one digest, and is in one VLAN, where it arrives and where it leaves."""
    world = case.world()
    world.add_mirror(src="s", dst="p", out="o")
    if world.decision().state != OFFLOADED:
        return
    source, passed, _ = case.bundles(world)
    forwarded = forward(case, source, passed)
    if forwarded is None:
        return
    vlans, left = forwarded
    if enter(left, passed) is None:
        return
    inner = vlans[1].tpid and not vlans[1].vid
    if inner or any(not tag.vid for tag in case.frame[1 : case.vlan_limit]):
        return  # A second tag of VLAN 0 may be lost on the way: the frame is another.
    if source.mode == "dot1q-tunnel" and len(case.frame) >= case.vlan_limit == 2:
        return  # So is what would be a third one.
    seen = []
    for name, frame in (("s:ingress", case.frame), ("p:egress", left.frame)):
        hook = next(hook for hook in world.plan().hooks if world.name_of(hook) == name)
        rules = world.plan().hooks[hook]
        looked = probe.look(hook, rules, rules[0], frame, case.accelerated)
        assert looked is not None
        assert looked.vid == vlans[0].vid
        seen.append(looked.digest)
    assert seen[0] == seen[1]
