"""The hooks where copies arrive: on the outputs' devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, Hook, Rule
from ovs_ebpf_tap.model.frame_rewrite import FrameRewrite

Rules = Mapping[Hook, tuple[Rule, ...]]


def receiving_hook(rule: Rule) -> Hook | None:
    """The hook where the rule's copies arrive with a copy tag, if they do."""
    if rule.to_hook:
        return Hook(rule.output, INGRESS if rule.to_ingress else EGRESS)
    return rule.finishing_hook


def receiving_hooks(rules: Rules) -> dict[Hook, set[FrameRewrite]]:
    """The hooks where copies arrive with a copy tag, and the rewrites that are to be made there."""
    found: dict[Hook, set[FrameRewrite]] = {}
    for rule in _all(rules):
        hook = receiving_hook(rule)
        if hook is not None:
            rewrites = found.setdefault(hook, set())
            if rule.finishing_hook is not None:
                rewrites.add(rule.rewrite)
    return found


def finishing_hooks(rules: Rules) -> set[Hook]:
    """The hooks that make the rewrites."""
    return {rule.finishing_hook for rule in _all(rules) if rule.finishing_hook is not None}


def need_cutter(rules: Rules) -> bool:
    """Whether copies are to be cut."""
    return any(rule.rewrite.snaplen for rule in _all(rules))


def _all(rules: Rules) -> Iterable[Rule]:
    return (rule for each in rules.values() for rule in each)
