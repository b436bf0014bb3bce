"""Rules as the maps hold them, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast
from uuid import UUID

import pytest
from builders import Clock, FakeMap
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply import interned_array
from ovs_ebpf_tap.apply.encoding import Encoding
from ovs_ebpf_tap.decide.mirror_filter import parse
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.desired import EGRESS, Hook, Rule, VlanIngressPolicy
from ovs_ebpf_tap.model.frame_rewrite import (
    ACCESS,
    ALL,
    KEEP,
    NATIVE,
    PRIORITY_NEVER,
    FrameRewrite,
    vlan_set,
)
from ovs_ebpf_tap.model.limits import MAX_GENEVE_OPTIONS
from ovs_ebpf_tap.model.tunnel import GeneveOption

SIZES = {
    "vlans": (abi.constant("VLAN_SET_LEN"), 64),
    "rewrites": (abi.layout("rewrite").size, 64),
    "matches": (abi.layout("match").size, 64),
    "ports": (abi.layout("port").size, 64),
    "options": (4 * MAX_GENEVE_OPTIONS, 16),
}
RULE = abi.layout("rule")
QUARANTINE = abi.constant("QUARANTINE_MS") / 1000
HOOK = Hook(7, EGRESS)
MIRRORS = {slot: UUID(int=1000 + slot) for slot in range(4)}
SLOTS = {uuid: slot for slot, uuid in MIRRORS.items()}

U32 = st.integers(0, 2**32 - 1)
MODES = st.integers(0, 4)
OPTIONS = st.builds(
    GeneveOption,
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFF),
    st.integers(0, 31).map(lambda words: 4 * words),
)
TAGS = st.integers(0, 4095)
VLANS = st.sampled_from([1, 1 << 5, 1 << 4094, ALL & ~1]) | st.lists(TAGS, min_size=1).map(vlan_set)


def rewrites(limit: int) -> st.SearchStrategy[FrameRewrite]:
    return st.builds(
        FrameRewrite,
        in_mode=MODES,
        in_tag=TAGS,
        in_tpid=st.sampled_from([0x8100, 0x88A8]),
        set_vid=st.none() | TAGS,
        out_mode=MODES,
        out_tag=TAGS,
        priority=st.integers(0, 2),
        limit=st.just(limit),
        snaplen=st.integers(0, 65535),
        max_len=U32,
        netdev=st.booleans(),
        no_dei=st.booleans(),
    )


def rules(ingress_policy: VlanIngressPolicy | None, limit: int) -> st.SearchStrategy[Rule]:
    return st.builds(
        Rule,
        mirror=st.sampled_from(list(SLOTS)),
        output=U32,
        group=U32,
        selection=U32,
        arrival=st.booleans(),
        rewrite=rewrites(limit),
        to_ingress=st.booleans(),
        dedup=st.booleans(),
        to_hook=st.booleans(),
        counted=st.booleans(),
        unreserved=st.booleans(),
        vlans=st.none() | VLANS,
        match=st.none() | st.sampled_from(["tcp", "dl_vlan=5", "tcp,tp_dst=53", "arp"]).map(parse),
        ingress_policy=st.just(ingress_policy),
    )


@st.composite
def hooks(draw: st.DrawFn) -> tuple[Rule, ...]:
    ingress_policy = draw(
        st.none()
        | st.builds(
            VlanIngressPolicy,
            mode=MODES,
            tag=TAGS,
            admitted=st.just(ALL) | VLANS,
            geneve_options=st.none() | st.frozensets(OPTIONS, max_size=MAX_GENEVE_OPTIONS),
        )
    )
    return tuple(
        draw(st.lists(rules(ingress_policy, draw(st.integers(0, 2))), min_size=1, max_size=6))
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(interned_array, "time", made)
    return made


def fake_maps() -> dict[str, bpf.Map]:
    return {name: cast(bpf.Map, FakeMap(*sizes)) for name, sizes in SIZES.items()}


def pack(encoding: Encoding, hook: Sequence[Rule]) -> tuple[int, list[bytes]]:
    """As the kernel has it: the hook's flags and its rules."""
    packed = [encoding.pack(HOOK, rule, SLOTS[rule.mirror]) for rule in hook]
    return encoding.hook_flags(hook), packed


def unpack(encoding: Encoding, kernel: tuple[int, list[bytes]]) -> tuple[Rule, ...]:
    flags, packed = kernel
    assert encoding.length(flags) == len(packed)
    return tuple(encoding.unpack(flags, packed, MIRRORS))


@settings(max_examples=examples(300))
@given(hooks())
def test_what_is_packed_is_read_after_a_restart(hook: tuple[Rule, ...]) -> None:
    maps = fake_maps()
    kernel = pack(Encoding(maps), hook)
    assert unpack(Encoding(maps), kernel) == hook


@given(st.lists(hooks(), min_size=1, max_size=4), st.data())
def test_what_is_used_is_kept(all_hooks: list[tuple[Rule, ...]], data: st.DataObject) -> None:
    maps = fake_maps()
    encoding = Encoding(maps)
    kernel = [pack(encoding, hook) for hook in all_hooks]
    kept = data.draw(st.sets(st.integers(0, len(all_hooks) - 1)))
    encoding.keep([all_hooks[number] for number in kept])
    later = data.draw(hooks())
    kernel_later = pack(encoding, later)
    restarted = Encoding(maps)
    for number in kept:
        assert unpack(restarted, kernel[number]) == all_hooks[number]
    assert unpack(restarted, kernel_later) == later


@given(hooks())
def test_what_is_kept_is_kept_after_a_restart(hook: tuple[Rule, ...]) -> None:
    """The sidecar reads what is there, and gives back what it has not read of its hooks."""
    maps = fake_maps()
    kernel = pack(Encoding(maps), hook)
    restarted = Encoding(maps)
    read = unpack(restarted, kernel)
    restarted.keep([read])
    assert pack(restarted, read) == kernel


PLAIN = Rule(
    mirror=MIRRORS[1],
    output=9,
    group=9,
    selection=1,
    arrival=True,
    rewrite=FrameRewrite(KEEP, 0, 0x8100, None, KEEP, 0, PRIORITY_NEVER, 1, 0, 1514, False),
)


@pytest.mark.parametrize(
    ("special", "flag"),
    [
        ({}, 0),
        ({"to_ingress": True}, abi.constant("RULE_TO_INGRESS")),
        ({"dedup": True}, abi.constant("RULE_DEDUP")),
        ({"to_hook": True}, abi.constant("RULE_TO_HOOK")),
        ({"unreserved": True}, abi.constant("RULE_NO_RESERVED")),
        ({"rewrite": replace(PLAIN.rewrite, netdev=True)}, abi.constant("RULE_NETDEV")),
        ({"rewrite": replace(PLAIN.rewrite, no_dei=True)}, abi.constant("RULE_NO_DEI")),
    ],
)
def test_flags(special: dict[str, object], flag: int) -> None:
    """A plain copy is edited where it is made, if its tag says nothing."""
    always = (
        abi.constant("RULE_ARRIVAL")
        | abi.constant("RULE_REWRITE_BARE")
        | abi.constant("RULE_REWRITE_TAGGED")
        | abi.constant("RULE_REWRITE_HERE")
    )
    packed = Encoding(fake_maps()).pack(HOOK, replace(PLAIN, **special), 1)  # type: ignore[arg-type]
    assert RULE.unpack(packed)["flags"] == always | flag


def test_edits_that_outputs_make() -> None:
    access = replace(PLAIN, rewrite=replace(PLAIN.rewrite, out_mode=1))
    flags = RULE.unpack(Encoding(fake_maps()).pack(HOOK, access, 1))["flags"]
    assert flags == abi.constant("RULE_ARRIVAL") | abi.constant("RULE_REWRITE_TAGGED")


def test_a_second_tag_may_say_nothing_too() -> None:
    plain = replace(PLAIN, rewrite=replace(PLAIN.rewrite, limit=2))
    flags = RULE.unpack(Encoding(fake_maps()).pack(HOOK, plain, 1))["flags"]
    assert flags == (
        abi.constant("RULE_ARRIVAL")
        | abi.constant("RULE_REWRITE_TAGGED")
        | abi.constant("RULE_REWRITE_HERE")
    )


def test_a_plain_hook_needs_no_places() -> None:
    encoding = Encoding(fake_maps())
    fields = RULE.unpack(encoding.pack(HOOK, PLAIN, 1))
    assert (fields["hook"], fields["slot"], fields["vlans"], fields["match"]) == (7, 1, 0, 0)
    assert encoding.hook_flags([PLAIN]) >> abi.constant("HOOK_PORT_SHIFT") == 0


DEPENDS, NONE, AS_IS, REWRITTEN = (
    abi.constant(f"UNTAGGED_{what}") for what in ("DEPENDS", "NONE", "AS_IS", "REWRITE")
)
TRUNK_FROM_ACCESS = replace(PLAIN.rewrite, in_mode=ACCESS, in_tag=5)


@pytest.mark.parametrize(
    ("special", "constant"),
    [
        ({}, AS_IS),
        ({"to_hook": True}, AS_IS),
        ({"to_ingress": True}, AS_IS),
        ({"rewrite": replace(PLAIN.rewrite, out_mode=ACCESS)}, AS_IS),
        ({"ingress_policy": VlanIngressPolicy(ACCESS, 5, 1), "vlans": 1 << 5}, AS_IS),
        (
            {"ingress_policy": VlanIngressPolicy(ACCESS, 5, 1), "rewrite": TRUNK_FROM_ACCESS},
            REWRITTEN,
        ),
        ({"rewrite": replace(PLAIN.rewrite, snaplen=200)}, REWRITTEN),
        ({"vlans": 1 << 5}, NONE),
        ({"vlans": 1 << 5, "match": parse("tcp")}, NONE),
        ({"ingress_policy": VlanIngressPolicy(ACCESS, 5, 1), "vlans": 1}, NONE),
        ({"ingress_policy": VlanIngressPolicy(KEEP, 0, 1 << 5)}, NONE),
        ({"ingress_policy": VlanIngressPolicy(ACCESS, 4095, 1)}, NONE),
        ({"ingress_policy": VlanIngressPolicy(NATIVE, 5, 1)}, DEPENDS),
        ({"match": parse("tcp")}, DEPENDS),
        ({"dedup": True}, DEPENDS),
        ({"unreserved": True}, DEPENDS),
        ({"to_ingress": True, "rewrite": TRUNK_FROM_ACCESS}, DEPENDS),
    ],
)
def test_what_becomes_of_frames_without_a_tag(special: dict[str, object], constant: int) -> None:
    """As long as nothing more is to be known of them."""
    encoding = Encoding(fake_maps())
    rule = replace(PLAIN, **special)  # type: ignore[arg-type]
    constants = encoding.rule_constants(rule, encoding.pack(HOOK, rule, 1), 0, 0)
    assert constants["shortcut.untagged"] == constant


def test_a_hook_that_admits_and_selects_all_has_constants_for_that() -> None:
    encoding = Encoding(fake_maps())
    constants = encoding.rule_constants(PLAIN, encoding.pack(HOOK, PLAIN, 1), 3, 4)
    assert (constants["hook.first"], constants["hook.flags"]) == (3, 4)
    for struct in ("port", "prefilter"):
        named = {f"{struct}.{member}" for member in abi.layout(struct).members}
        assert {constants[name] for name in named} == {0}


def test_a_hook_without_rules() -> None:
    assert Encoding(fake_maps()).hook_flags(()) == 0


def test_rules_of_mirrors_that_are_gone_are_passed_over() -> None:
    encoding = Encoding(fake_maps())
    other = replace(PLAIN, mirror=MIRRORS[2])
    flags, packed = pack(encoding, (PLAIN, other))
    assert list(encoding.unpack(flags, packed, {2: MIRRORS[2]})) == [other]


def test_hooks_of_one_kind_share_their_places() -> None:
    encoding = Encoding(fake_maps())
    ingress_policy = VlanIngressPolicy(1, 5, 1)
    one = (replace(PLAIN, vlans=1 << 5, match=parse("tcp"), ingress_policy=ingress_policy),)
    two = (
        replace(
            PLAIN,
            mirror=MIRRORS[2],
            vlans=1 << 5,
            match=parse("tcp"),
            ingress_policy=ingress_policy,
        ),
    )
    (flags, (rule,)), (other_flags, (other,)) = pack(encoding, one), pack(encoding, two)
    assert flags == other_flags
    for index in ("vlans", "rewrite", "match"):
        assert RULE.unpack(rule)[index] == RULE.unpack(other)[index] > 0


@pytest.mark.parametrize("name", list(SIZES))
def test_what_is_not_used_is_given_back(name: str, clock: Clock) -> None:
    maps = fake_maps()
    maps[name] = cast(bpf.Map, FakeMap(SIZES[name][0], 2))
    encoding = Encoding(maps)

    def kind(number: int) -> tuple[Rule, ...]:
        vlans = 1 << number if name == "vlans" else None
        rewrite = replace(PLAIN.rewrite, in_tag=number if name == "rewrites" else 0)
        match = parse(f"dl_vlan={number}") if name == "matches" else None
        ingress_policy = VlanIngressPolicy(1, number) if name == "ports" else None
        if name == "options":
            options = frozenset({GeneveOption(number, 0, 4)})
            ingress_policy = VlanIngressPolicy(1, 1, geneve_options=options)
        return (
            replace(
                PLAIN, vlans=vlans, rewrite=rewrite, match=match, ingress_policy=ingress_policy
            ),
        )

    pack(encoding, kind(1))
    with pytest.raises(OSError, match="more than 1 "):
        pack(encoding, kind(2))
    encoding.keep([kind(1)])
    clock.now += 2 * QUARANTINE
    assert unpack(encoding, pack(encoding, kind(1))) == kind(1)
    with pytest.raises(OSError, match="more than 1 "):
        pack(encoding, kind(2))
    encoding.keep([])
    clock.now += 2 * QUARANTINE
    assert unpack(encoding, pack(encoding, kind(2))) == kind(2)
