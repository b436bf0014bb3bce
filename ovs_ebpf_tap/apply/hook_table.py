"""The hooks: what each is to have, what it has, and what there is to do about that."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from uuid import UUID

from ovs_ebpf_tap.apply.attachment import Attachment
from ovs_ebpf_tap.apply.receiving import Rules, finishing_hooks, receiving_hooks
from ovs_ebpf_tap.model.desired import Hook, Rule


@dataclass(frozen=True)
class DesiredHook:
    """What a hook is to have, in the end."""

    rules: tuple[Rule, ...]
    attachment: Attachment


@dataclass
class ActualHook:
    """What a hook has."""

    rules: tuple[Rule, ...]
    attachment: Attachment | None
    """None if it has an entry, but is not attached."""
    outdated: bool = False
    """Whether its program is not the one that its entry tells of, or is another build's."""

    def does(self, desired: DesiredHook) -> bool:
        """Whether it copies as desired, if with the shared program instead of a specialized one."""
        final = desired.attachment
        if self.outdated or self.rules != desired.rules:
            return False
        self.rules = desired.rules  # The same objects are found equal sooner.
        return self.attachment in (final, final.shared)


class HookTable:
    """What each hook has, as it was read or done."""

    def __init__(self) -> None:
        self.actual: dict[Hook, ActualHook] = {}

    @property
    def attached(self) -> dict[Hook, Attachment]:
        """How hooks are attached."""
        return {
            hook: each.attachment
            for hook, each in self.actual.items()
            if each.attachment is not None
        }

    @property
    def rules(self) -> Rules:
        """The rules of the hooks that are attached."""
        return {h: each.rules for h, each in self.actual.items() if each.attachment is not None}

    @property
    def mirrors(self) -> set[UUID]:
        """The mirrors that hooks may copy for."""
        return {rule.mirror for each in self.actual.values() for rule in each.rules}

    def hand_over(self, former: UUID, mirror: UUID) -> None:
        """Has the rules of a mirror be another's, which has its slot now."""
        for each in self.actual.values():
            each.rules = tuple(
                replace(rule, mirror=mirror) if rule.mirror == former else rule
                for rule in each.rules
            )

    def with_held(self, desired: Rules, held: Set[UUID]) -> dict[Hook, tuple[Rule, ...]]:
        """The desired rules, with those of mirrors in `held`, and the hooks that finish copies.

        Held hooks that somebody has removed come back, too: nobody else copies yet.
        """
        goal = dict(desired)
        for hook, each in self.actual.items() if held else ():
            groups = {rule.group for rule in goal.get(hook, ())}
            policies = {rule.ingress_policy for rule in goal.get(hook, ())}
            kept = tuple(
                rule
                for rule in each.rules
                if rule.mirror in held
                and rule.group not in groups
                and policies <= {rule.ingress_policy}
            )
            if kept:
                goal[hook] = goal.get(hook, ()) + kept
        for carrying in {hook.of_device for hook in goal if hook.tunnel is not None}:
            goal.setdefault(carrying, ())
            if held:  # Ports without rules keep their frames from those with less narrow options.
                goal |= {
                    hook: ()
                    for hook in self.actual.keys() - goal.keys()
                    if hook.tunnel is not None and hook.of_device == carrying
                }
        for finishing in finishing_hooks(goal):
            goal.setdefault(finishing, ())
        return goal

    def changed(self, goal: Mapping[Hook, DesiredHook]) -> list[Hook]:
        """The hooks that do not do what is desired, in the order in which to change them.

        Copies need the hooks that finish them. Rules that are there may have to mind new ones: to
        look whether another hook has copied a packet already.
        """
        changed = [
            hook
            for hook, desired in goal.items()
            if hook not in self.actual or not self.actual[hook].does(desired)
        ]
        if changed:
            receiving = receiving_hooks({hook: each.rules for hook, each in goal.items()})
            before, attached = receiving_hooks(self.rules), self.attached
            changed.sort(
                key=lambda hook: (
                    hook not in receiving,
                    bool(goal[hook].rules),
                    hook in before,
                    hook not in attached,
                )
            )
        return changed

    def gone(self, goal: Mapping[Hook, DesiredHook]) -> list[Hook]:
        """The hooks that nothing is desired of any more: those without rules finish copies yet."""
        return sorted(
            self.actual.keys() - goal.keys(), key=lambda hook: not self.actual[hook].rules
        )
