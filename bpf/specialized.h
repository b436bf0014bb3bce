/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Specialized programs: for hooks with one rule, or with one rewrite for all copies. Each
 * is loaded for one hook: the sidecar binds the rule to the program's constants
 * (ovs_ebpf_tap/ebpf/template.py), and the verifier removes unreachable code. So a plain
 * mirror's hook looks up only its counters.
 */
#ifndef TAP_SPECIALIZED_H
#define TAP_SPECIALIZED_H

#include "constants.h"
#include "copy_tag.h"
#include "cut.h"
#include "dedup.h"
#include "flow_key.h"
#include "net.h"
#include "rules.h"
#include "tags.h"
#include "tap.h"
#include "verdict.h"

static __always_inline void tap_bind_rule(struct tap_rule *rule)
{
	rule->hook = TAP_OF_RULE(hook);
	rule->output = TAP_OF_RULE(output);
	rule->group = TAP_OF_RULE(group);
	rule->flags = TAP_OF_RULE(flags);
	rule->max_len = TAP_OF_RULE(max_len);
	rule->slot = TAP_OF_RULE(slot);
	rule->vlans = TAP_OF_RULE(vlans);
	rule->rewrite = TAP_OF_RULE(rewrite);
	/* Not looked up here: see tap_prefilter_rejects(). */
	rule->match = 0;
	rule->selection = 0;
}

static __always_inline void tap_bind_port(struct tap_port *port)
{
	port->mode = TAP_OF_PORT(mode);
	port->tag = TAP_OF_PORT(tag);
	port->admitted = TAP_OF_PORT(admitted);
	port->max_len = TAP_OF_PORT(max_len);
}

static __always_inline bool tap_has_ports(u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

/* Whether the IP protocol, or the ports at offset @at, exclude the frame from the match. */
static __always_inline bool tap_prefilter_rejects_transport(const u8 *data, u8 proto, u32 at,
							    bool ports)
{
	if (TAP_OF_PREFILTER(nw_proto) && proto != TAP_OF_PREFILTER(nw_proto))
		return true;
	return TAP_OF_PREFILTER(tp_mask) && ports && tap_has_ports(proto) &&
	       (*(u32 *)(data + at) ^ TAP_OF_PREFILTER(tp)) & TAP_OF_PREFILTER(tp_mask);
}

static __always_inline bool tap_prefilter_rejects_ip(const u8 *data)
{
	return (*(u32 *)(data + 26) ^ TAP_OF_PREFILTER(nw_src)) & TAP_OF_PREFILTER(nw_src_mask) ||
	       (*(u32 *)(data + 30) ^ TAP_OF_PREFILTER(nw_dst)) & TAP_OF_PREFILTER(nw_dst_mask) ||
	       tap_prefilter_rejects_transport(data, data[23], 34, data[14] == 0x45);
}

static __always_inline bool tap_prefilter_rejects_dl(const u32 *data)
{
	return (data[0] ^ TAP_OF_PREFILTER(dl_0)) & TAP_OF_PREFILTER(dl_mask_0) ||
	       (data[1] ^ TAP_OF_PREFILTER(dl_1)) & TAP_OF_PREFILTER(dl_mask_1) ||
	       (data[2] ^ TAP_OF_PREFILTER(dl_2)) & TAP_OF_PREFILTER(dl_mask_2);
}

/*
 * Whether the usual offsets of headers show that the match does not select the frame. If
 * not, the whole key is needed.
 */
static __always_inline bool tap_prefilter_rejects(struct __sk_buff *skb)
{
	const u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u32 type;

	if (data + 38 > end)
		return false;
	if (tap_prefilter_rejects_dl((u32 *)data))
		return true;
	type = *(u16 *)(data + 12);
	if (!TAP_OF_PREFILTER(dl_type) || tap_is_vlan(bpf_ntohs(type)) ||
	    bpf_ntohs(type) < ETH_P_802_3_MIN)
		return false;
	if (type != TAP_OF_PREFILTER(dl_type))
		return true;
	if (type == bpf_htons(ETH_P_IP))
		return tap_prefilter_rejects_ip(data);
	return type == bpf_htons(ETH_P_IPV6) && data + 58 <= end && !tap_is_ip6_ext(data[20]) &&
	       tap_prefilter_rejects_transport(data, data[20], 54, true);
}

/*
 * Leaves the copy to the filter's action, which does not copy the original's head as
 * bpf_clone_redirect() does; returns whether the copy is to be made.
 */
static __always_inline bool tap_leave_to_action(struct __sk_buff *skb,
						const struct tap_rule *rule, u32 rewrite)
{
	u32 len = skb->len + (skb->vlan_present ? TAP_TAG_LEN : 0);
	bool fits = rewrite || tap_fits(skb, rule->max_len, rule->flags);

	tap_account(rule, len, fits);
	if (rewrite || rule->flags & TAP_RULE_TO_HOOK)
		tap_tag_copy(skb, rewrite);
	return fits;
}

static __always_inline bool tap_is_untagged(struct __sk_buff *skb)
{
	return !skb->vlan_present && !tap_is_vlan(tap_type(skb));
}

/*
 * Copies an untagged packet, the most frequent case. It parses nothing, and keeps values in
 * registers, not on the stack.
 */
static __always_inline int tap_copy_untagged(struct __sk_buff *skb, u32 hook_flags)
{
	u32 len = skb->len, slot = TAP_OF_RULE(slot), flags = TAP_OF_RULE(flags);
	u32 rewrite = TAP_OF_SHORTCUT(untagged) == TAP_UNTAGGED_REWRITE ? TAP_OF_RULE(rewrite) : 0;
	bool tagged_copy = rewrite || flags & TAP_RULE_TO_HOOK;
	bool fits = rewrite || len <= TAP_OF_RULE(max_len) || skb->gso_size;
	bool copied = fits;

	if (TAP_OF_PORT(max_len) && len > TAP_OF_PORT(max_len))
		return tap_no_copy(hook_flags);
	if (fits && tagged_copy)
		tap_tag_copy(skb, rewrite);
	if (fits && !(hook_flags & TAP_HOOK_ACTION)) {
		copied = !bpf_clone_redirect(skb, TAP_OF_RULE(output),
					     flags & TAP_RULE_TO_INGRESS ? BPF_F_INGRESS : 0);
		if (tagged_copy)
			tap_untag_copy(skb);
	}
	tap_count(slot, flags, len, copied);
	return fits && hook_flags & TAP_HOOK_ACTION ? TAP_MATCH : tap_no_copy(hook_flags);
}

/*
 * If the filter's action copies, returns whether it is to run; else copies the packet, and
 * returns TAP_NEXT. Packets that are changed before they are copied are left to tap_rules:
 * they are few, and would make every hook's program long.
 */
int tap_specialized(struct __sk_buff *skb)
{
	u32 first = TAP_OF_HOOK(first), hook_flags = TAP_OF_HOOK(flags);
	int done = tap_no_copy(hook_flags);
	struct tap_packet packet;
	struct tap_rule rule;
	struct tap_port port;
	u32 rewrite;

	if (!(hook_flags & (TAP_HOOK_ACTION | TAP_HOOK_ARRIVAL)) && tap_is_copy(skb))
		return tap_receive_copy(skb);
	if (TAP_OF_SHORTCUT(untagged) && tap_is_untagged(skb))
		return TAP_OF_SHORTCUT(untagged) == TAP_UNTAGGED_NONE ?
		       done : tap_copy_untagged(skb, hook_flags);
	tap_bind_rule(&rule);
	tap_bind_port(&port);
	packet.tagged = tap_outer_tag(skb, &packet.tag, &packet.tag_len);
	if (!tap_admit(skb, &port, &packet) || packet.vid == TAP_PARKED_VLAN ||
	    !tap_selects(skb, &rule, &packet, 0))
		return done;
	if (TAP_OF_RULE(match)) {
		if (!tap_prefilter_rejects(skb))
			tap_start_rules(skb, first, hook_flags);
		return done;
	}
	rewrite = tap_needs_rewrite(&rule, &packet) ? rule.rewrite : 0;
	if (rewrite && rule.flags & TAP_RULE_REWRITE_HERE) {
		tap_start_rules(skb, first, hook_flags);
		return done;
	}
	if (rule.flags & TAP_RULE_DEDUP) {
		if (!tap_digest_common(skb, &packet)) {
			tap_start_rules(skb, first, hook_flags);
			return done;
		}
		if (!tap_should_copy(&rule, &packet))
			return done;
	}
	if (hook_flags & TAP_HOOK_ACTION)
		return tap_leave_to_action(skb, &rule, rewrite) ? TAP_MATCH : done;
	tap_copy(skb, &rule, rewrite);
	return done;
}

static __always_inline void tap_bind_rewrite(struct tap_rewrite *rewrite)
{
	rewrite->in_mode = TAP_OF_REWRITE(in_mode);
	rewrite->in_tag = TAP_OF_REWRITE(in_tag);
	rewrite->in_tpid = TAP_OF_REWRITE(in_tpid);
	rewrite->set_vid = TAP_OF_REWRITE(set_vid);
	rewrite->out_mode = TAP_OF_REWRITE(out_mode);
	rewrite->out_tag = TAP_OF_REWRITE(out_tag);
	rewrite->priority = TAP_OF_REWRITE(priority);
	rewrite->limit = TAP_OF_REWRITE(limit);
	rewrite->snaplen = TAP_OF_REWRITE(snaplen);
	rewrite->max_len = TAP_OF_REWRITE(max_len);
	rewrite->flags = TAP_OF_REWRITE(flags);
}

/* Pushes a tag on an untagged copy, the most frequent rewrite. The tag is in the metadata. */
static __always_inline int tap_push_vlan(struct __sk_buff *skb)
{
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), TAP_OF_SHORTCUT(push_vid)))
		return TAP_DROP;
	return skb->len <= TAP_OF_REWRITE(max_len) || skb->gso_size ? TAP_NEXT : TAP_DROP;
}

/* Rewrites copies at their output device, as tap_finish does. */
int tap_output(struct __sk_buff *skb)
{
	struct tap_change_plan plan;
	struct tap_rewrite rewrite;

	if (!tap_is_copy(skb))
		return TAP_NEXT;
	if (skb->cb[TAP_CB_REWRITE] != TAP_OF_HOOK(first))
		return tap_receive_copy(skb);
	tap_untag_copy(skb);
	if (TAP_OF_SHORTCUT(push_vid) && tap_is_untagged(skb))
		return tap_push_vlan(skb);
	tap_bind_rewrite(&rewrite);
	tap_plan_change(skb, &rewrite, &plan);
	return tap_change_tags(skb, &plan.change) ? tap_truncate(skb, &rewrite) : TAP_DROP;
}

/* Runs after the action: clears the copy tag of the original. */
int tap_untag(struct __sk_buff *skb)
{
	if (tap_is_copy(skb))
		tap_untag_copy(skb);
	return TAP_NEXT;
}

#endif /* TAP_SPECIALIZED_H */
