// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies the packets of mirrored ports to their mirrors' output devices.
 *
 * tap_ingress and tap_egress are attached to the hooks of a device, by TCX links or by
 * clsact filters with direct action. They look up the hook, and call tap_rules, for filters
 * by way of tap_extract_key, or tap_finish for a copy at its output device. Hooks with one
 * rule have tap_specialized or tap_output instead (specialized.h). No program changes
 * the packet or its verdict: the next program runs as if these were not there.
 */
#include "copy_tag.h"
#include "cut.h"
#include "flow_key.h"
#include "maps.h"
#include "rules.h"
#include "specialized.h"
#include "tap.h"
#include "tunnel.h"
#include "verdict.h"

/* Rules that one run of tap_rules applies; the verifier's work is proportional to it. */
#define TAP_RULES_PER_PROGRAM 16

/* Rewrites a copy at its output device. */
int tap_finish(struct __sk_buff *skb)
{
	u32 index = skb->cb[TAP_CB_REWRITE];
	struct tap_rewrite *rewrite = rewrites.lookup(&index);
	struct tap_change change;

	if (!rewrite || !tap_rewrite_tags(skb, rewrite, &change))
		return TAP_DROP;
	return tap_truncate(skb, rewrite);
}

/* Extracts the flow key that filters match. */
int tap_extract_key(struct __sk_buff *skb)
{
	u32 zero = 0, limit = skb->cb[TAP_CB_FLAGS] >> TAP_HOOK_LIMIT_SHIFT & 3;
	struct tap_scratch *steps = scratch.lookup(&zero);

	if (steps) {
		tap_extract(skb, limit, &steps->flow);
		next.call(skb, TAP_NEXT_RULES);
	}
	return tap_no_copy(skb->cb[TAP_CB_FLAGS]);
}

/* Applies TAP_RULES_PER_PROGRAM rules of a hook, and calls itself for the others. */
int tap_rules(struct __sk_buff *skb)
{
	u32 first = skb->cb[TAP_CB_FIRST], hook_flags = skb->cb[TAP_CB_FLAGS];
	u32 n = hook_flags & TAP_HOOK_RULES, i, index;
	int done = tap_no_copy(hook_flags);
	struct tap_packet packet;
	union tap_flow flow;
	struct tap_rule *rule;

	if (!tap_prepare(skb, hook_flags, &packet, &flow))
		return done;
#pragma clang loop unroll(disable)
	for (i = 0; i < TAP_RULES_PER_PROGRAM; i++) {
		if (i >= n)
			return done;
		index = first + i;
		rule = rules.lookup(&index);
		if (!rule)
			return done;
		tap_apply(skb, rule, &packet, &flow);
	}
	if (n > TAP_RULES_PER_PROGRAM)
		tap_call_rules(skb, first + TAP_RULES_PER_PROGRAM,
			       hook_flags - TAP_RULES_PER_PROGRAM);
	return done;
}

/*
 * Reads an entry of a hash map, which may be recycled for another key meanwhile. So it is
 * read by one load, and its first rule has to name the device. Returns whether it does; if
 * not, the caller looks up the device's entry again.
 */
static __always_inline bool tap_read_hook(const struct tap_hook *entry, u32 ifindex,
					  struct tap_hook *hook)
{
	struct tap_rule *rule;
	u32 index;

	hook->flags = 0;
	if (!entry)
		return true;
	/* first and flags */
	*(u64 *)hook = *(const volatile u64 *)entry;
	if (!(hook->flags & TAP_HOOK_RULES))
		return true;
	index = hook->first;
	rule = rules.lookup(&index);
	return rule && rule->hook == ifindex;
}

static __always_inline int tap_run_hook(struct __sk_buff *skb, const struct tap_hook *hook)
{
	if (!(hook->flags & TAP_HOOK_ARRIVAL) && tap_is_copy(skb))
		return tap_receive_copy(skb);
	if (hook->flags & TAP_HOOK_RULES)
		tap_start_rules(skb, hook->first, hook->flags);
	if (hook->flags & TAP_HOOK_TUNNELS) {
		skb->cb[TAP_CB_FLAGS] = hook->flags;
		next.call(skb, TAP_NEXT_TUNNEL);
	}
	return TAP_NEXT;
}

int tap_ingress(struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex;
	struct tap_hook hook;

	if (!tap_read_hook(ingress.lookup(&ifindex), ifindex, &hook) &&
	    !tap_read_hook(ingress.lookup(&ifindex), ifindex, &hook))
		hook.flags = 0;
	return tap_run_hook(skb, &hook);
}

int tap_egress(struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex;
	struct tap_hook hook;

	if (!tap_read_hook(egress.lookup(&ifindex), ifindex, &hook) &&
	    !tap_read_hook(egress.lookup(&ifindex), ifindex, &hook))
		hook.flags = 0;
	return tap_run_hook(skb, &hook);
}
