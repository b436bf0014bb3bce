"""Rules as the maps hold them: what they refer to has places of its own, shared by many."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from uuid import UUID

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.apply.interned_array import InternedArray
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.desired import Hook, Rule, VlanIngressPolicy
from ovs_ebpf_tap.model.frame_rewrite import ALL, FrameRewrite
from ovs_ebpf_tap.model.match import Match

_TO_INGRESS = abi.constant("RULE_TO_INGRESS")
_ONCE = abi.constant("RULE_ONCE")
_ARRIVAL = abi.constant("RULE_ARRIVAL")
_TO_HOOK = abi.constant("RULE_TO_HOOK")
_EDIT_HERE = abi.constant("RULE_EDIT_HERE")
_EDIT_TAGGED = abi.constant("RULE_EDIT_TAGGED")
_EDIT_BARE = abi.constant("RULE_EDIT_BARE")
_NO_RESERVED = abi.constant("RULE_NO_RESERVED")
_NETDEV = abi.constant("RULE_NETDEV")
_NO_DEI = abi.constant("RULE_NO_DEI")
_UNCOUNTED = abi.constant("RULE_UNCOUNTED")

_SHAPE_RULES = abi.constant("SHAPE_RULES")
_SHAPE_ARRIVAL = abi.constant("SHAPE_ARRIVAL")
_SHAPE_ACTION = abi.constant("SHAPE_ACTION")
_SHAPE_ONCE = abi.constant("SHAPE_ONCE")
_SHAPE_MATCH = abi.constant("SHAPE_MATCH")
_SHAPE_LIMIT = abi.constant("SHAPE_LIMIT")
_SHAPE_PORT = abi.constant("SHAPE_PORT")
_KEEP_VID = abi.constant("KEEP_VID")
_VLAN_SET_LEN = abi.constant("VLAN_SET_LEN")

_CONSTANT_RULE = abi.constant("CONSTANT_RULE")
_CONSTANT_PORT = abi.constant("CONSTANT_PORT")
_CONSTANT_EDIT = abi.constant("CONSTANT_EDIT")
_CONSTANT_FIRST = abi.constant("CONSTANT_FIRST")
_CONSTANT_SHAPE = abi.constant("CONSTANT_SHAPE")
_CONSTANT_PLAIN = abi.constant("CONSTANT_PLAIN")
_CONSTANT_PUSH = abi.constant("CONSTANT_PUSH")
_CONSTANT_GLANCE = abi.constant("CONSTANT_GLANCE")
_PLAIN_NONE = abi.constant("PLAIN_NONE")
_PLAIN_AS_IS = abi.constant("PLAIN_AS_IS")
_PLAIN_EDIT = abi.constant("PLAIN_EDIT")

_RULE = abi.layout("rule")
_PORT = abi.layout("port")
_EDIT = abi.layout("edit")


class Encoding:
    """Packs and unpacks rules, and keeps the places that they refer to."""

    def __init__(self, maps: Mapping[str, bpf.Map]) -> None:
        self._vlans = InternedArray(maps["vlans"], "sets of VLANs")
        self._edits = InternedArray(maps["edits"], "kinds of edits")
        self._matches = InternedArray(maps["matches"], "filters")
        self._ports = InternedArray(maps["ports"], "kinds of ports")

    # Hooks.

    @staticmethod
    def length(shape: int) -> int:
        """How many rules a hook of that shape has."""
        return shape & _SHAPE_RULES

    def shape(self, rules: Sequence[Rule], *, by_action: bool = False) -> int:
        """The shape of a hook with these rules, whose copies a filter's action may make.

        Raises OSError if there is no place left.
        """
        if not rules:
            return 0
        dedup = any(rule.dedup for rule in rules)
        match = any(rule.match is not None for rule in rules)
        return (
            len(rules)
            | _SHAPE_ARRIVAL * rules[0].arrival
            | _SHAPE_ACTION * by_action
            | _SHAPE_ONCE * dedup
            | _SHAPE_MATCH * match
            | rules[0].edit.limit << _SHAPE_LIMIT
            | self._ingress_policy_place(rules[0].ingress_policy) << _SHAPE_PORT
        )

    def unpack(
        self, shape: int, rules: Iterable[bytes], mirrors: Mapping[int, UUID]
    ) -> Iterator[Rule]:
        """The rules of a hook, but those of mirrors that are not known any more."""
        ingress_policy = self._ingress_policy(shape >> _SHAPE_PORT)
        for data in rules:
            fields = _RULE.unpack(data)
            mirror = mirrors.get(fields["slot"])
            if mirror is not None:
                yield self._rule(fields, mirror, ingress_policy)

    # Rules.

    def pack(self, hook: Hook, rule: Rule, slot: int) -> bytes:
        """The rule of a mirror with that slot. Raises OSError if there is no place left."""
        edit = rule.edit
        flags = (
            _TO_INGRESS * rule.to_ingress
            | _ONCE * rule.dedup
            | _ARRIVAL * rule.arrival
            | _TO_HOOK * rule.to_hook
            | _EDIT_HERE * rule.edit_here
            | _EDIT_TAGGED * edit.only_tagged
            | _EDIT_BARE * edit.only_bare
            | _NO_RESERVED * rule.unreserved
            | _NETDEV * edit.netdev
            | _NO_DEI * edit.no_dei
            | _UNCOUNTED * (not rule.counted)
        )
        return _RULE.pack(
            hook=hook.ifindex,
            output=rule.output,
            group=rule.group,
            run=rule.selection,
            flags=flags,
            max_len=edit.max_len,
            slot=slot,
            vlans=0 if rule.vlans is None else self._vlans.place(_pack_vlans(rule.vlans)),
            edit=self.edit_place(edit),
            match=0 if rule.match is None else self._matches.place(rule.match.pack()),
        )

    def _rule(
        self, fields: Mapping[str, int], mirror: UUID, ingress_policy: VlanIngressPolicy | None
    ) -> Rule:
        flags = fields["flags"]
        vlans, match = fields["vlans"], fields["match"]
        return Rule(
            mirror=mirror,
            output=fields["output"],
            group=fields["group"],
            selection=fields["run"],
            arrival=bool(flags & _ARRIVAL),
            edit=self.edit_at(fields["edit"]),
            to_ingress=bool(flags & _TO_INGRESS),
            dedup=bool(flags & _ONCE),
            to_hook=bool(flags & _TO_HOOK),
            counted=not flags & _UNCOUNTED,
            unreserved=bool(flags & _NO_RESERVED),
            vlans=_unpack_vlans(self._vlans.read(vlans)) if vlans else None,
            match=Match.unpack(self._matches.read(match)) if match else None,
            ingress_policy=ingress_policy,
        )

    def keep(self, hooks: Iterable[Sequence[Rule]]) -> None:
        """Gives back the places that none of these hooks' rules refer to."""
        vlans, edits, matches, ports = set(), set(), set(), set()
        for rules in hooks:
            for rule in rules:
                edits.add(self.edit_place(rule.edit))
                if rule.vlans is not None:
                    vlans.add(self._vlans.place(_pack_vlans(rule.vlans)))
                if rule.match is not None:
                    matches.add(self._matches.place(rule.match.pack()))
            if rules and rules[0].ingress_policy is not None:
                ports.add(self._ingress_policy_place(rules[0].ingress_policy))
                if rules[0].ingress_policy.admitted != ALL:
                    vlans.add(self._vlans.place(_pack_vlans(rules[0].ingress_policy.admitted)))
        self._vlans.keep(vlans)
        self._edits.keep(edits)
        self._matches.keep(matches)
        self._ports.keep(ports)

    # Programs of hooks' own.

    def rule_constants(self, rule: Rule, packed: bytes, first: int, shape: int) -> dict[int, int]:
        """Those of `tap_one`, for a hook whose one rule is `packed`, at the place `first`."""
        words = {_CONSTANT_FIRST: first, _CONSTANT_SHAPE: shape}
        if rule.copies_untagged is not None:
            words[_CONSTANT_PLAIN] = _plain(rule)
        words.update(enumerate(_words(packed), start=_CONSTANT_RULE))
        if rule.ingress_policy is not None:
            words.update(
                enumerate(
                    _words(self._pack_ingress_policy(rule.ingress_policy)), start=_CONSTANT_PORT
                )
            )
        if rule.match is not None:
            words.update(enumerate(_words(rule.match.glance()), start=_CONSTANT_GLANCE))
        return words

    def edit_constants(self, edit: FrameRewrite) -> dict[int, int]:
        """Those of `tap_out`, for a hook where copies arrive that need this edit."""
        words = {_CONSTANT_FIRST: self.edit_place(edit), _CONSTANT_PUSH: edit.pushed}
        words.update(enumerate(_words(_pack_edit(edit)), start=_CONSTANT_EDIT))
        return words

    def edit_place(self, edit: FrameRewrite) -> int:
        """The place of an edit. Raises OSError if there is no place left."""
        return self._edits.place(_pack_edit(edit))

    def edit_at(self, place: int) -> FrameRewrite:
        """The edit at a place that an entry in the kernel refers to."""
        return _unpack_edit(self._edits.read(place))

    # Ingress policies.

    def _ingress_policy_place(self, ingress_policy: VlanIngressPolicy | None) -> int:
        return (
            0
            if ingress_policy is None
            else self._ports.place(self._pack_ingress_policy(ingress_policy))
        )

    def _pack_ingress_policy(self, ingress_policy: VlanIngressPolicy) -> bytes:
        all_admitted = ingress_policy.admitted == ALL
        admitted = 0 if all_admitted else self._vlans.place(_pack_vlans(ingress_policy.admitted))
        return _PORT.pack(
            mode=ingress_policy.mode,
            tag=ingress_policy.tag,
            admitted=admitted,
            max_len=ingress_policy.max_len,
        )

    def _ingress_policy(self, place: int) -> VlanIngressPolicy | None:
        if not place:
            return None
        fields = _PORT.unpack(self._ports.read(place))
        admitted = fields["admitted"]
        vlans = _unpack_vlans(self._vlans.read(admitted)) if admitted else ALL
        return VlanIngressPolicy(fields["mode"], fields["tag"], vlans, fields["max_len"])


def _plain(rule: Rule) -> int:
    if not rule.copies_untagged:
        return _PLAIN_NONE
    return _PLAIN_AS_IS if rule.edit.only_tagged else _PLAIN_EDIT


def _words(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"={len(packed) // 4}I", packed)


def _pack_vlans(vlans: int) -> bytes:
    return vlans.to_bytes(_VLAN_SET_LEN, "little")


def _unpack_vlans(data: bytes) -> int:
    return int.from_bytes(data, "little")


@lru_cache
def _pack_edit(edit: FrameRewrite) -> bytes:
    return _EDIT.pack(
        in_mode=edit.in_mode,
        in_tag=edit.in_tag,
        in_tpid=edit.in_tpid,
        set_vid=_KEEP_VID if edit.set_vid is None else edit.set_vid,
        out_mode=edit.out_mode,
        out_tag=edit.out_tag,
        priority=edit.priority,
        limit=edit.limit,
        snaplen=edit.snaplen,
        max_len=edit.max_len,
        flags=_NETDEV * edit.netdev | _NO_DEI * edit.no_dei,
    )


def _unpack_edit(data: bytes) -> FrameRewrite:
    fields = _EDIT.unpack(data)
    return FrameRewrite(
        in_mode=fields["in_mode"],
        in_tag=fields["in_tag"],
        in_tpid=fields["in_tpid"],
        set_vid=None if fields["set_vid"] == _KEEP_VID else fields["set_vid"],
        out_mode=fields["out_mode"],
        out_tag=fields["out_tag"],
        priority=fields["priority"],
        limit=fields["limit"],
        snaplen=fields["snaplen"],
        max_len=fields["max_len"],
        netdev=bool(fields["flags"] & _NETDEV),
        no_dei=bool(fields["flags"] & _NO_DEI),
    )
