"""Packs rules as the maps hold them; what rules refer to is interned in maps of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any
from uuid import UUID

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply.interned_array import InternedArray
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.desired import INGRESS, Hook, Rule, VlanIngressPolicy
from ovs_ebpf_tap.model.frame_rewrite import ALL, KEEP, FrameRewrite
from ovs_ebpf_tap.model.match import ANY, Match
from ovs_ebpf_tap.model.tunnel import GeneveOption

_HOOK_RULES = abi.constant("HOOK_RULES")
_HOOK_ARRIVAL = abi.constant("HOOK_ARRIVAL")
_HOOK_ACTION = abi.constant("HOOK_ACTION")
_HOOK_DEDUP = abi.constant("HOOK_DEDUP")
_HOOK_MATCH = abi.constant("HOOK_MATCH")
_HOOK_TUNNELS = abi.constant("HOOK_TUNNELS")
_HOOK_LIMIT_SHIFT = abi.constant("HOOK_LIMIT_SHIFT")
_HOOK_PORT_SHIFT = abi.constant("HOOK_PORT_SHIFT")
_HOOK_OPTIONS_SHIFT = abi.constant("HOOK_OPTIONS_SHIFT")
_KEEP_VID = abi.constant("KEEP_VID")
_VLAN_SET_LEN = abi.constant("VLAN_SET_LEN")

_UNTAGGED_DEPENDS = abi.constant("UNTAGGED_DEPENDS")
_UNTAGGED_NONE = abi.constant("UNTAGGED_NONE")
_UNTAGGED_AS_IS = abi.constant("UNTAGGED_AS_IS")
_UNTAGGED_REWRITE = abi.constant("UNTAGGED_REWRITE")

_RULE = abi.layout("rule")
_PORT = abi.layout("port")
_REWRITE = abi.layout("rewrite")
_OPTION = abi.constant("OPTION")
_OPTIONS = Struct(f"={abi.constant('MAX_OPTIONS')}I")


class _Flags:
    """Flags of a rule, `TAP_RULE_*`, by the attribute that each tells of."""

    def __init__(self, **names: str) -> None:
        self._flags = {each: abi.constant(f"RULE_{name}") for each, name in names.items()}

    def pack(self, described: object) -> int:
        """The flags of what has these attributes."""
        return sum(flag for name, flag in self._flags.items() if getattr(described, name))

    def unpack(self, flags: int) -> dict[str, bool]:
        """The attributes' values."""
        return {name: bool(flags & flag) for name, flag in self._flags.items()}


_UNCOUNTED = abi.constant("RULE_UNCOUNTED")
_RULE_FLAGS = _Flags(
    arrival="ARRIVAL",
    to_ingress="TO_INGRESS",
    dedup="DEDUP",
    to_hook="TO_HOOK",
    unreserved="NO_RESERVED",
)
_REWRITE_FLAGS = _Flags(netdev="NETDEV", no_dei="NO_DEI")
# What programs need not find out from the rest; nobody unpacks these.
_DERIVED_RULE_FLAGS = _Flags(rewrite_here="REWRITE_HERE")
_DERIVED_REWRITE_FLAGS = _Flags(only_tagged="REWRITE_TAGGED", only_bare="REWRITE_BARE")

# Members that hold an attribute's number as it is.
_RULE_NUMBERS = ("output", "group", "selection")
_PORT_NUMBERS = ("mode", "tag", "max_len")
_REWRITE_NUMBERS = tuple(
    name for name in _REWRITE.members if name not in ("set_vid", "flags", "pad")
)


def _numbers(described: object, names: Iterable[str]) -> dict[str, int]:
    return {name: getattr(described, name) for name in names}


class Encoding:
    """Packs and unpacks rules, and keeps the indexes that they refer to."""

    def __init__(self, maps: Mapping[str, bpf.Map]) -> None:
        self._vlans = InternedArray(maps["vlans"], "sets of VLANs")
        self._rewrites = InternedArray(maps["rewrites"], "kinds of rewrites")
        self._matches = InternedArray(maps["matches"], "filters")
        self._ports = InternedArray(maps["ports"], "kinds of ports")
        self._options = (
            InternedArray(maps["options"], "sets of options") if "options" in maps else None
        )
        """None with an earlier version's maps."""

    # Hooks.

    @staticmethod
    def length(flags: int) -> int:
        """How many rules a hook with these flags has."""
        return flags & _HOOK_RULES

    @staticmethod
    def carries_tunnels(flags: int) -> bool:
        """Whether a hook with these flags is of a device that carries tunnel ports."""
        return bool(flags & _HOOK_TUNNELS)

    @staticmethod
    def carrying_flags(direction: str) -> int:
        """The `flags` of the hook of a device that carries tunnel ports."""
        return _HOOK_TUNNELS | _HOOK_ARRIVAL * (direction == INGRESS)

    def hook_flags(self, rules: Sequence[Rule], *, by_action: bool = False) -> int:
        """The `flags` of a hook with these rules, whose copies a filter's action may make.

        Raises OSError if there is no room left.
        """
        if not rules:
            return 0
        dedup = any(rule.dedup for rule in rules)
        match = any(rule.match is not None for rule in rules)
        return (
            len(rules)
            | _HOOK_ARRIVAL * rules[0].arrival
            | _HOOK_ACTION * by_action
            | _HOOK_DEDUP * dedup
            | _HOOK_MATCH * match
            | rules[0].rewrite.limit << _HOOK_LIMIT_SHIFT
            | self._ingress_policy_index(rules[0].ingress_policy) << _HOOK_PORT_SHIFT
            | self._options_index(rules[0].ingress_policy) << _HOOK_OPTIONS_SHIFT
        )

    def unpack(
        self, flags: int, rules: Iterable[bytes], mirrors: Mapping[int, UUID]
    ) -> Iterator[Rule]:
        """The rules of a hook, but those of mirrors that are not known any more."""
        options, other_flags = divmod(flags, 1 << _HOOK_OPTIONS_SHIFT)
        ingress_policy = self._ingress_policy(other_flags >> _HOOK_PORT_SHIFT, options)
        for data in rules:
            fields = _RULE.unpack(data)
            mirror = mirrors.get(fields["slot"])
            if mirror is not None:
                yield self._rule(fields, mirror, ingress_policy)

    # Rules.

    def pack(self, hook: Hook, rule: Rule, slot: int) -> bytes:
        """The rule of a mirror with that slot. Raises OSError if there is no room left."""
        rewrite = rule.rewrite
        flags = (
            _RULE_FLAGS.pack(rule)
            | _DERIVED_RULE_FLAGS.pack(rule)
            | _UNCOUNTED * (not rule.counted)
        )
        return _RULE.pack(
            **_numbers(rule, _RULE_NUMBERS),
            hook=hook.number,
            flags=flags | _REWRITE_FLAGS.pack(rewrite) | _DERIVED_REWRITE_FLAGS.pack(rewrite),
            max_len=rewrite.max_len,
            slot=slot,
            vlans=0 if rule.vlans is None else self._vlans.index(_pack_vlans(rule.vlans)),
            rewrite=self.rewrite_index(rewrite),
            match=0 if rule.match is None else self._matches.index(rule.match.pack()),
        )

    def _rule(
        self, fields: Mapping[str, int], mirror: UUID, ingress_policy: VlanIngressPolicy | None
    ) -> Rule:
        vlans, match = fields["vlans"], fields["match"]
        values: dict[str, Any] = {name: fields[name] for name in _RULE_NUMBERS}
        return Rule(
            **values,
            **_RULE_FLAGS.unpack(fields["flags"]),
            mirror=mirror,
            counted=not fields["flags"] & _UNCOUNTED,
            rewrite=self.rewrite_at(fields["rewrite"]),
            vlans=_unpack_vlans(self._vlans.read(vlans)) if vlans else None,
            match=Match.unpack(self._matches.read(match)) if match else None,
            ingress_policy=ingress_policy,
        )

    def keep(self, hooks: Iterable[Sequence[Rule]]) -> None:
        """Gives back the indexes that none of these hooks' rules refer to."""
        vlans, rewrites, matches, ports = set(), set(), set(), set()
        options = set()
        for rules in hooks:
            for rule in rules:
                rewrites.add(self.rewrite_index(rule.rewrite))
                if rule.vlans is not None:
                    vlans.add(self._vlans.index(_pack_vlans(rule.vlans)))
                if rule.match is not None:
                    matches.add(self._matches.index(rule.match.pack()))
            if rules and rules[0].ingress_policy is not None:
                ports.add(self._ingress_policy_index(rules[0].ingress_policy))
                options.add(self._options_index(rules[0].ingress_policy))
                if rules[0].ingress_policy.admitted != ALL:
                    vlans.add(self._vlans.index(_pack_vlans(rules[0].ingress_policy.admitted)))
        self._vlans.keep(vlans)
        self._rewrites.keep(rewrites)
        self._matches.keep(matches)
        self._ports.keep(ports)
        if self._options is not None:
            self._options.keep(options)

    # Specialized programs.

    def rule_constants(self, rule: Rule, packed: bytes, first: int, flags: int) -> dict[str, int]:
        """Those of `tap_specialized`, for a hook whose one rule is `packed`, at index `first`."""
        policy = self._pack_ingress_policy(rule.ingress_policy or VlanIngressPolicy(KEEP, 0))
        return {
            "hook.first": first,
            "hook.flags": flags,
            "shortcut.untagged": _untagged(rule),
            **_named("rule", _RULE.unpack(packed)),
            **_named("port", _PORT.unpack(policy)),
            **_named("prefilter", (rule.match or ANY).prefilter()),
        }

    def rewrite_constants(self, rewrite: FrameRewrite) -> dict[str, int]:
        """Those of `tap_output`, for a hook where copies arrive that need this rewrite."""
        return {
            "hook.first": self.rewrite_index(rewrite),
            "shortcut.push_vid": rewrite.pushed,
            **_named("rewrite", _REWRITE.unpack(_pack_rewrite(rewrite))),
        }

    def rewrite_index(self, rewrite: FrameRewrite) -> int:
        """The index of a rewrite. Raises OSError if there is no room left."""
        return self._rewrites.index(_pack_rewrite(rewrite))

    def rewrite_at(self, index: int) -> FrameRewrite:
        """The rewrite at an index that an entry in the kernel refers to."""
        return _unpack_rewrite(self._rewrites.read(index))

    # Ingress policies.

    def _ingress_policy_index(self, policy: VlanIngressPolicy | None) -> int:
        return 0 if policy is None else self._ports.index(self._pack_ingress_policy(policy))

    def _pack_ingress_policy(self, policy: VlanIngressPolicy) -> bytes:
        all_admitted = policy.admitted == ALL
        admitted = 0 if all_admitted else self._vlans.index(_pack_vlans(policy.admitted))
        return _PORT.pack(**_numbers(policy, _PORT_NUMBERS), admitted=admitted)

    def _options_index(self, policy: VlanIngressPolicy | None) -> int:
        if self._options is None or policy is None or policy.geneve_options is None:
            return 0
        return self._options.index(_pack_options(policy.geneve_options))

    def _ingress_policy(self, index: int, options: int) -> VlanIngressPolicy | None:
        if not index:
            return None
        fields = _PORT.unpack(self._ports.read(index))
        admitted = fields["admitted"]
        vlans = _unpack_vlans(self._vlans.read(admitted)) if admitted else ALL
        known = _unpack_options(self._options.read(options)) if self._options and options else None
        return VlanIngressPolicy(
            **{name: fields[name] for name in _PORT_NUMBERS}, admitted=vlans, geneve_options=known
        )


def _untagged(rule: Rule) -> int:
    if rule.copies_untagged is None:
        return _UNTAGGED_DEPENDS
    if not rule.copies_untagged:
        return _UNTAGGED_NONE
    return _UNTAGGED_AS_IS if rule.rewrite.only_tagged else _UNTAGGED_REWRITE


def _named(struct: str, members: Mapping[str, int]) -> dict[str, int]:
    """The members as `ebpf.template` names constants."""
    return {f"{struct}.{member}": value for member, value in members.items()}


def _pack_vlans(vlans: int) -> bytes:
    return vlans.to_bytes(_VLAN_SET_LEN, "little")


def _unpack_vlans(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _pack_options(options: Iterable[GeneveOption]) -> bytes:
    packed = [
        each.option_class << 16 | each.type << 8 | _OPTION | each.length // 4
        for each in sorted(options)
    ]
    return b"".join(word.to_bytes(4, sys.byteorder) for word in packed).ljust(_OPTIONS.size, b"\0")


def _unpack_options(data: bytes) -> frozenset[GeneveOption]:
    return frozenset(
        GeneveOption(word >> 16, word >> 8 & 0xFF, (word & (_OPTION - 1)) * 4)
        for word in _OPTIONS.unpack(data)
        if word
    )


@lru_cache
def _pack_rewrite(rewrite: FrameRewrite) -> bytes:
    return _REWRITE.pack(
        **_numbers(rewrite, _REWRITE_NUMBERS),
        set_vid=_KEEP_VID if rewrite.set_vid is None else rewrite.set_vid,
        flags=_REWRITE_FLAGS.pack(rewrite),
    )


def _unpack_rewrite(data: bytes) -> FrameRewrite:
    fields = _REWRITE.unpack(data)
    values: dict[str, Any] = {name: fields[name] for name in _REWRITE_NUMBERS}
    return FrameRewrite(
        **values,
        **_REWRITE_FLAGS.unpack(fields["flags"]),
        set_vid=None if fields["set_vid"] == _KEEP_VID else fields["set_vid"],
    )
