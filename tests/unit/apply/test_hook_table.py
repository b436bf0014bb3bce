"""What is desired against what is there."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from builders import switch

from ovs_ebpf_tap.apply.attachment import Attachment
from ovs_ebpf_tap.apply.hook_table import ActualHook, DesiredHook, HookTable
from ovs_ebpf_tap.model.desired import CLSACT, EGRESS, INGRESS, TCX, Hook, Rule
from ovs_ebpf_tap.model.desired import VlanIngressPolicy as Policy
from ovs_ebpf_tap.model.tunnel import ANY, Tunnel

(RULE,) = switch("a out").add_mirror(src="a", out="out").plan().hooks[Hook(100, INGRESS)]
SHARED, OWN = Attachment(TCX), Attachment(TCX, True)
A, B, C = (Hook(n, INGRESS) for n in (1, 2, 3))
VX1, VX2 = (Hook(4, INGRESS, Tunnel(1 << 31 | n, False, n, ANY, ANY)) for n in (1, 2))


def rule(output: int = 9, mirror: int = 1, vlan: int | None = None) -> Rule:
    rewrite = replace(RULE.rewrite, set_vid=vlan)
    return replace(RULE, mirror=UUID(int=mirror), output=output, group=output, rewrite=rewrite)


def table(**hooks: ActualHook) -> HookTable:
    made = HookTable()
    made.actual = {{"a": A, "b": B, "c": C, "out": Hook(9, EGRESS)}[n]: h for n, h in hooks.items()}
    return made


@pytest.mark.parametrize("there", [SHARED, OWN])
def test_a_hook_that_does_what_is_desired(there: Attachment) -> None:
    desired = {A: DesiredHook((rule(),), OWN)}
    assert table(a=ActualHook((rule(),), there)).changed(desired) == []


@pytest.mark.parametrize(
    "there",
    [
        ActualHook((rule(), rule(8)), OWN),
        ActualHook((rule(),), OWN, outdated=True),
        ActualHook((rule(),), None),
        ActualHook((rule(),), Attachment(CLSACT)),
        ActualHook((rule(),), Attachment(TCX, True, rule().rewrite)),
    ],
)
def test_a_hook_that_does_not(there: ActualHook) -> None:
    assert table(a=there).changed({A: DesiredHook((rule(),), OWN)}) == [A]


def test_a_hook_without_rules_is_to_be_made_too() -> None:
    assert table().changed({A: DesiredHook((), SHARED)}) == [A]


def test_hooks_that_finish_copies_are_made_first() -> None:
    finishing = Hook(9, EGRESS)
    goal = {A: DesiredHook((rule(vlan=5),), OWN), finishing: DesiredHook((), OWN)}
    assert table().changed(goal) == [finishing, A]


def test_rules_that_are_there_mind_new_ones_before_these_are_added() -> None:
    goal = {hook: DesiredHook((rule(), rule(8)), SHARED) for hook in (A, B, C)}
    assert table(b=ActualHook((rule(),), OWN)).changed(goal) == [B, A, C]


def test_hooks_with_rules_go_before_those_that_finish_their_copies() -> None:
    some = table(out=ActualHook((), OWN), a=ActualHook((rule(vlan=5),), OWN))
    assert some.gone({}) == [A, Hook(9, EGRESS)]
    assert some.gone({A: DesiredHook((), OWN)}) == [Hook(9, EGRESS)]


def test_held_mirrors_keep_their_rules() -> None:
    """Beside rules for other groups, and with the same port settings; unattached ones, too."""
    held, other = rule(9, mirror=2), rule(8)
    some = table(a=ActualHook((held, rule(7, mirror=3)), None))
    assert some.with_held({}, {UUID(int=2)}) == {A: (held,)}
    assert some.with_held({A: (other,)}, {UUID(int=2)}) == {A: (other, held)}
    assert some.with_held({A: (rule(9),)}, {UUID(int=2)}) == {A: (rule(9),)}
    moved = replace(other, ingress_policy=Policy(1, 5))
    assert some.with_held({A: (moved,)}, {UUID(int=2)}) == {A: (moved,)}
    assert some.with_held({}, set()) == {}


def test_hooks_that_finish_copies_are_desired_too() -> None:
    tagging = rule(vlan=5)
    assert table().with_held({A: (tagging,)}, set()) == {A: (tagging,), Hook(9, EGRESS): ()}


def test_devices_that_carry_tunnels_have_hooks_too() -> None:
    assert table().with_held({VX1: (rule(),)}, set()) == {VX1: (rule(),), VX1.of_device: ()}


def test_narrower_tunnels_keep_their_frames_from_held_mirrors() -> None:
    some = HookTable()
    some.actual = {
        VX1: ActualHook((rule(mirror=2),), SHARED),
        VX2: ActualHook((), SHARED),
        VX1.of_device: ActualHook((), SHARED),
    }
    held = {VX1: (rule(mirror=2),), VX2: (), VX1.of_device: ()}
    assert some.with_held({}, {UUID(int=2)}) == held
    assert some.with_held({VX1: (rule(),)}, set()) == {VX1: (rule(),), VX1.of_device: ()}


def test_narrower_tunnels_come_first_and_go_last() -> None:
    goal = {VX1: DesiredHook((rule(),), SHARED), VX2: DesiredHook((), SHARED)}
    assert table().changed(goal) == [VX2, VX1]
    some = HookTable()
    some.actual = {VX2: ActualHook((), SHARED), VX1: ActualHook((rule(),), SHARED)}
    assert some.gone({}) == [VX1, VX2]


def test_what_is_attached() -> None:
    some = table(a=ActualHook((rule(),), OWN), b=ActualHook((rule(mirror=2),), None))
    assert some.attached == {A: OWN}
    assert some.rules == {A: (rule(),)}
    assert some.mirrors == {UUID(int=1), UUID(int=2)}


def test_rules_that_are_handed_over_need_no_other_program() -> None:
    there = table(a=ActualHook((rule(), rule(8, mirror=2)), SHARED))
    there.hand_over(UUID(int=1), UUID(int=3))
    desired = {A: DesiredHook((rule(mirror=3), rule(8, mirror=2)), SHARED)}
    assert there.changed(desired) == []
