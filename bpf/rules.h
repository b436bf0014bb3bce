/* SPDX-License-Identifier: GPL-2.0-only */
/* Applies a hook's rules: selects packets, and copies them. */
#ifndef TAP_RULES_H
#define TAP_RULES_H

#include "copy_tag.h"
#include "dedup.h"
#include "flow_key.h"
#include "maps.h"
#include "tags.h"
#include "tap.h"
#include "verdict.h"

/*
 * Words of the control block while a hook's rules are applied: the range of rules that
 * the next program is to apply, the group and the selection of the last rule, and their
 * result.
 */
#define TAP_CB_FIRST	0
#define TAP_CB_FLAGS	1
#define TAP_CB_GROUP	2
#define TAP_CB_SELECTION	3
#define TAP_CB_RESULT	4

/* The selection includes the packet. */
#define TAP_SELECTED	1
/* This hook copies it. */
#define TAP_COPIED	2

static __always_inline bool tap_has_vlan(u32 index, u32 vid)
{
	struct tap_vlan_set *set = vlans.lookup(&index);

	return set && set->bits[vid / 8 % TAP_VLAN_SET_LEN] & 1 << vid % 8;
}

/*
 * Returns whether the port admits the packet, and sets which VLAN it is in, as
 * input_vid_is_valid() and xvlan_input_translate() of ofproto/ofproto-dpif-xlate.c.
 */
static __always_inline bool tap_admit(struct __sk_buff *skb, const struct tap_port *port,
				      struct tap_packet *packet)
{
	if (port->max_len && skb->len > port->max_len)
		return false;
	packet->vid = packet->tag.tci & VLAN_VID_MASK;
	if (port->admitted && !tap_has_vlan(port->admitted, packet->vid))
		return false;
	/* Open vSwitch pops a tag with VLAN 0 and priority 0, even on a tunnel port. */
	packet->tunnel = port->mode == TAP_TAGS_FORCED ||
			 (port->mode == TAP_TAGS_TUNNEL && packet->tag.tci & TAP_TCI_MASK);
	if (port->mode == TAP_TAGS_FORCED || port->mode == TAP_TAGS_TUNNEL ||
	    (port->mode != TAP_TAGS_KEEP && !packet->vid))
		packet->vid = port->tag;
	return true;
}

/* tap_admit() for the port at an index of the ports map; 0: a trunk of all VLANs. */
static __always_inline bool tap_admit_at(struct __sk_buff *skb, u32 index,
					 struct tap_packet *packet)
{
	struct tap_port *port;

	packet->tunnel = 0;
	packet->vid = packet->tag.tci & VLAN_VID_MASK;
	if (!index)
		return true;
	port = ports.lookup(&index);
	return port && tap_admit(skb, port, packet);
}

/*
 * Whether the frame is to an address of a link protocol, which Open vSwitch does not
 * mirror to a VLAN: eth_addr_is_reserved() in lib/packets.c.
 */
static __always_inline bool tap_is_reserved(struct __sk_buff *skb)
{
	u64 address = 0;

	if (bpf_skb_load_bytes(skb, 0, (u8 *)&address + 2, 6))
		return false;
	address = __builtin_bswap64(address);
	return (address & ~0xfULL) == 0x0180c2000000ULL ||
	       (address & ~0x7ULL) == 0x01000cccccc0ULL ||
	       address == 0x00e02b000000ULL || address == 0x00e02b000004ULL ||
	       address == 0x00e02b000006ULL || address == 0x01000c000000ULL ||
	       address == 0x01000cccccccULL || address == 0x01000ccccccdULL ||
	       address == 0x01000ccdcdcdULL;
}

static __always_inline void tap_count(u32 slot, u32 flags, u32 len, bool delivered)
{
	struct tap_counters *c;

	if (delivered && flags & TAP_RULE_UNCOUNTED)
		return;
	c = counters.lookup(&slot);
	if (!c)
		return;
	if (delivered) {
		c->packets++;
		c->bytes += len;
	} else {
		c->drops++;
	}
}

static __always_inline void tap_account(const struct tap_rule *rule, u32 len, bool delivered)
{
	tap_count(rule->slot, rule->flags, len, delivered);
}

/*
 * Clones the packet to the rule's output. A copy for a device with a hook of ours
 * carries the copy tag, by which that hook rewrites it and does not copy it again: if
 * another mirror selects the output device, its copies are among this hook's rules
 * already. This also terminates mirror loops.
 */
static __always_inline long tap_clone(struct __sk_buff *skb, const struct tap_rule *rule,
				      u32 rewrite)
{
	u64 flags = rule->flags & TAP_RULE_TO_INGRESS ? BPF_F_INGRESS : 0;
	u32 kept_rewrite;
	u64 kept;
	long error;

	if (!rewrite && !(rule->flags & TAP_RULE_TO_HOOK))
		return bpf_clone_redirect(skb, rule->output, flags);
	kept = tap_cb_copy_tag(skb);
	kept_rewrite = skb->cb[TAP_CB_REWRITE];
	tap_tag_copy(skb, rewrite);
	error = bpf_clone_redirect(skb, rule->output, flags);
	tap_cb_copy_tag(skb) = kept;
	skb->cb[TAP_CB_REWRITE] = kept_rewrite;
	return error;
}

static __always_inline bool tap_rewrite_tags(struct __sk_buff *skb,
					     const struct tap_rewrite *rewrite,
					     struct tap_change *change)
{
	u32 zero = 0;
	struct tap_scratch *steps = scratch.lookup(&zero);

	if (!steps)
		return false;
	tap_plan_change(skb, rewrite, &steps->plan);
	barrier();
	*change = steps->plan.change;
	return tap_change_tags(skb, change);
}

/* Changes the packet's tags, clones it, and changes them back. */
static __always_inline bool tap_copy_rewritten(struct __sk_buff *skb, const struct tap_rule *rule)
{
	u32 index = rule->rewrite;
	struct tap_rewrite *rewrite = rewrites.lookup(&index);
	struct tap_change change = {};
	bool copied;

	if (!rewrite)
		return false;
	if (!tap_rewrite_tags(skb, rewrite, &change) ||
	    !tap_fits(skb, rewrite->max_len, rewrite->flags) || tap_clone(skb, rule, 0))
		skb->cb[TAP_CB_ERROR] = 1;
	copied = !skb->cb[TAP_CB_ERROR];
	tap_restore_tags(skb, &change);
	return copied;
}

static __always_inline bool tap_needs_rewrite(const struct tap_rule *rule,
					   const struct tap_packet *packet)
{
	if (rule->flags & TAP_RULE_NO_DEI && packet->tag.tci & VLAN_DEI_MASK)
		return packet->tagged;
	if (rule->flags & TAP_RULE_REWRITE_BARE)
		return packet->tagged && !(packet->tag.tci & TAP_TCI_MASK);
	if (rule->flags & TAP_RULE_REWRITE_TAGGED)
		return packet->tagged;
	return rule->rewrite;
}

/*
 * Copies a packet; the output's hook makes the rewrite of index @rewrite, if not 0.
 * bpf_clone_redirect() also returns the result of that hook and of the queue: any but 0
 * is a drop.
 */
static __always_inline void tap_copy(struct __sk_buff *skb, const struct tap_rule *rule,
				     u32 rewrite)
{
	u32 len = skb->len + (skb->vlan_present ? TAP_TAG_LEN : 0);
	bool fits = rewrite || tap_fits(skb, rule->max_len, rule->flags);

	tap_account(rule, len, fits && !tap_clone(skb, rule, rewrite));
}

static __always_inline void tap_copy_here(struct __sk_buff *skb, const struct tap_rule *rule)
{
	u32 len = skb->len + (skb->vlan_present ? TAP_TAG_LEN : 0);

	tap_account(rule, len, tap_copy_rewritten(skb, rule));
}

static __always_inline bool tap_has_match(const union tap_flow *flow, u32 index)
{
	struct tap_match *match = matches.lookup(&index);

	return match && tap_matches(flow, match);
}

static __always_inline bool tap_selects(struct __sk_buff *skb, const struct tap_rule *rule,
					const struct tap_packet *packet,
					const union tap_flow *flow)
{
	if (rule->vlans && !tap_has_vlan(rule->vlans, packet->vid))
		return false;
	if (rule->match && !tap_has_match(flow, rule->match))
		return false;
	return !(rule->flags & TAP_RULE_NO_RESERVED) || !tap_is_reserved(skb);
}

/*
 * Applies a rule. The first selection of a group that includes the packet copies it to
 * each of its outputs, unless another hook has copied it already.
 */
static __always_inline void tap_apply(struct __sk_buff *skb, const struct tap_rule *rule,
				      const struct tap_packet *packet,
				      const union tap_flow *flow)
{
	bool same = rule->group == skb->cb[TAP_CB_GROUP];
	u32 result = 0;

	if (!same || rule->selection != skb->cb[TAP_CB_SELECTION]) {
		if (same && skb->cb[TAP_CB_RESULT] & TAP_SELECTED)
			return;
		if (tap_selects(skb, rule, packet, flow))
			result = TAP_SELECTED | TAP_COPIED;
		if (result && rule->flags & TAP_RULE_DEDUP && !tap_should_copy(rule, packet))
			result = TAP_SELECTED;
		skb->cb[TAP_CB_GROUP] = rule->group;
		skb->cb[TAP_CB_SELECTION] = rule->selection;
		skb->cb[TAP_CB_RESULT] = result;
	}
	if (!(skb->cb[TAP_CB_RESULT] & TAP_COPIED))
		return;
	if (!tap_needs_rewrite(rule, packet))
		tap_copy(skb, rule, 0);
	else if (rule->flags & TAP_RULE_REWRITE_HERE)
		tap_copy_here(skb, rule);
	else
		tap_copy(skb, rule, rule->rewrite);
}

/* Reads what rules need to know of the packet; returns whether they are to be applied. */
static __always_inline bool tap_prepare(struct __sk_buff *skb, u32 hook_flags,
					struct tap_packet *packet, union tap_flow *flow)
{
	u32 zero = 0;
	struct tap_scratch *steps = scratch.lookup(&zero);
	struct tap_packet *p;

	if (!steps)
		return false;
	p = &steps->packet;
	p->tagged = tap_outer_tag(skb, &p->tag, &p->tag_len);
	barrier();
	if (!tap_admit_at(skb, hook_flags >> TAP_HOOK_PORT_SHIFT, p))
		return false;
	barrier();
	/* Open vSwitch goes on copying these while the mirror is parked. */
	if (p->vid == TAP_PARKED_VLAN)
		return false;
	if (hook_flags & TAP_HOOK_DEDUP)
		tap_digest(skb, p);
	barrier();
	*packet = *p;
	*flow = steps->flow;
	return true;
}

/* Applies rules from index @first on; does not return if that succeeds. */
static __always_inline void tap_call_rules(struct __sk_buff *skb, u32 first, u32 hook_flags)
{
	skb->cb[TAP_CB_FIRST] = first;
	skb->cb[TAP_CB_FLAGS] = hook_flags;
	if (hook_flags & TAP_HOOK_MATCH)
		next.call(skb, TAP_NEXT_EXTRACT);
	else
		next.call(skb, TAP_NEXT_RULES);
}

/* The return value of a program that leaves no copy to the action: the packet goes on. */
static __always_inline int tap_no_copy(u32 hook_flags)
{
	return hook_flags & TAP_HOOK_ACTION ? TAP_NO_MATCH : TAP_NEXT;
}

/* Applies the hook's rules; does not return if that succeeds. */
static __always_inline void tap_start_rules(struct __sk_buff *skb, u32 first, u32 hook_flags)
{
	skb->cb[TAP_CB_GROUP] = 0;
	skb->cb[TAP_CB_SELECTION] = 0;
	skb->cb[TAP_CB_RESULT] = 0;
	tap_call_rules(skb, first, hook_flags);
}

/* Rewrites a copy at its output device, if it needs that, and does not copy it again. */
static __always_inline int tap_receive_copy(struct __sk_buff *skb)
{
	tap_untag_copy(skb);
	if (!skb->cb[TAP_CB_REWRITE])
		return TAP_NEXT;
	next.call(skb, TAP_NEXT_FINISH);
	return TAP_DROP;
}

#endif /* TAP_RULES_H */
