"""Which attachment is the fastest for a hook."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import switch

from ovs_ebpf_tap.apply.attachment import Attachment, fastest
from ovs_ebpf_tap.decide.mirror_filter import parse
from ovs_ebpf_tap.model.desired import CLSACT, INGRESS, TCX, Hook, Rule

(RULE,) = switch("a out").add_mirror(src="a", out="out").plan().hooks[Hook(100, INGRESS)]
REWRITE = replace(RULE.rewrite, set_vid=10)
OTHER = replace(RULE.rewrite, set_vid=11)


def test_one_rule_has_a_program_of_its_own() -> None:
    assert fastest(TCX, (RULE,), None, may_act=True) == Attachment(TCX, True)
    assert fastest(TCX, (RULE, RULE), None, may_act=True) == Attachment(TCX)


@pytest.mark.parametrize("kind", [TCX, CLSACT])
def test_one_rewrite_has_a_program_of_its_own(kind: str) -> None:
    assert fastest(kind, (), {REWRITE}, may_act=False) == Attachment(kind, True, REWRITE)
    assert fastest(kind, (), {REWRITE, OTHER}, may_act=False) == Attachment(kind)
    assert fastest(kind, (), set(), may_act=False) == Attachment(kind)


def test_a_filters_action_copies() -> None:
    act = Attachment(CLSACT, True, action=RULE.output)
    assert fastest(CLSACT, (RULE,), None, may_act=True) == act
    tagged = replace(act, tags=True)
    assert fastest(CLSACT, (replace(RULE, to_hook=True),), None, may_act=True) == tagged


@pytest.mark.parametrize(
    "rule", [replace(RULE, to_ingress=True), replace(RULE, match=parse("tcp"))]
)
def test_an_action_can_not_do_everything(rule: Rule) -> None:
    assert fastest(CLSACT, (rule,), None, may_act=True) == Attachment(CLSACT, True)


def test_there_is_no_action_where_copies_arrive_or_the_output_is_down() -> None:
    assert fastest(CLSACT, (RULE,), {REWRITE}, may_act=True) == Attachment(CLSACT, True)
    assert fastest(CLSACT, (RULE,), None, may_act=False) == Attachment(CLSACT, True)
