"""How a hook is attached, and with which program."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from ovs_ebpf_tap.apply.receiving import receiving_hook
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.desired import CLSACT, TCX, Rule
from ovs_ebpf_tap.model.frame_rewrite import FrameRewrite

_LOOPBACK = 1


def choose_attach(wanted: str) -> str:
    """`TCX` or `CLSACT` for `--attach`: TCX where the kernel has it. Raises ValueError.

    A clsact hook is faster, but adding or removing a device's clsact qdisc makes the kernel drop
    packets queued for transmission for about 1 ms (`dev_deactivate` in its
    `net/sched/sch_generic.c`).
    """
    has_tcx = bpf.has_tcx(_LOOPBACK)
    if wanted == TCX and not has_tcx:
        raise ValueError("this kernel has no TCX hooks: Linux 6.6 or later is needed")
    if wanted == "auto":
        return TCX if has_tcx else CLSACT
    return wanted


@dataclass(frozen=True)
class Attachment:
    """How a hook is attached: `kind` is `TCX` or `CLSACT`.

    A hook without a specialized program has that of its direction, which goes by the hook's entry.
    """

    kind: str
    specialized: bool = False
    """Whether its program was loaded for its one rule, or for `rewrite`."""
    rewrite: FrameRewrite | None = None
    """Of copies that arrive, the one rewrite that its specialized program makes."""
    action: int = 0
    """The device that the filter's action copies to, by ifindex; 0 without an action."""
    tags: bool = False
    """Whether the copies that the action makes carry a copy tag."""
    tunnels: bool = False
    """Whether it is the hook of a device that carries tunnel ports, which have the rules."""

    @property
    def shared(self) -> Attachment:
        """The same, with the shared program of its direction."""
        return Attachment(self.kind, tunnels=self.tunnels)


def fastest(
    kind: str, rules: tuple[Rule, ...], arriving: Set[FrameRewrite] | None, *, may_act: bool
) -> Attachment:
    """The fastest attachment of a hook with these rules.

    `arriving` holds the rewrites of copies that arrive at the hook, None if none can arrive;
    `may_act` says whether the rule's output can be a filter action's.

    A clsact filter's action clones without touching the original's head, which
    `bpf_clone_redirect` copies; but there is one action a hook, and what is delivered to a
    device's ingress is not the same. What a match may select is left to the shared programs.
    """
    specialized = len(rules) == 1
    rewrite = None
    if not rules and arriving and len(arriving) == 1:
        specialized, (rewrite,) = True, arriving
    if kind == TCX or not (specialized and rules and arriving is None and may_act):
        return Attachment(kind, specialized, rewrite)
    (rule,) = rules
    if rule.match is not None or rule.to_ingress:
        return Attachment(CLSACT, specialized)
    return Attachment(
        CLSACT, specialized, action=rule.output, tags=receiving_hook(rule) is not None
    )
