// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies the packets of mirrored ports to their mirrors' output devices.
 *
 * tap_ingress and tap_egress are attached to the hooks of a device, the same
 * for TCX and for clsact's direct action. They look what there is to do, and
 * leave it to tap_rules, with tap_extract_key for filters, or to tap_finish where a copy
 * has come to its output device. Hooks with one thing to do have tap_specialized or
 * tap_output instead (specialized.h). None changes the packet or its fate: whatever the
 * copies do, the next program goes on as if these were not there.
 */
#include "tap.h"

#include "net.h"

/* TCX_NEXT, and TC_ACT_UNSPEC of a direct-action classifier */
#define TAP_NEXT	(-1)
/* TCX_DROP, and TC_ACT_SHOT */
#define TAP_DROP	2
/* What a classifier returns for its action to run, or not to. */
#define TAP_MATCH	(-1)
#define TAP_NO_MATCH	0

/* What one program does of a hook's rules; the verifier's time grows with it. */
#define TAP_RULES_PER_PROGRAM 16

/*
 * A constant that the sidecar fills in. The compiler must not know it: it says so
 * in a load of 64 bits, whose upper half is this and lower half the number.
 */
#define TAP_CONSTANT_64(n)						\
	({								\
		u64 __value;						\
		asm("%0 = %1 ll"					\
		    : "=r"(__value)					\
		    : "i"((u64)TAP_CONSTANT_MARK << 32 | (n)));		\
		__value;						\
	})
#define TAP_CONSTANT(n)	((u32)TAP_CONSTANT_64(n))

#include "tags.h"
#include "copy_tag.h"
#include "dedup.h"

struct tap_vlan_set {
	u8 bits[TAP_VLAN_SET_LEN];
};

/*
 * The verifier follows each path for as long as what it knows of memory differs
 * from what it knew on others. It knows nothing of what is in a map, or in the
 * packet's control block: so steps that have many paths leave their results
 * there, and all paths are one again.
 */
struct tap_scratch {
	struct tap_packet packet;
	union tap_flow flow;
	struct tap_change_plan plan;
};

/* key: ifindex of a device with an ingress hook; value: its rules */
BPF_F_TABLE("hash", u32, struct tap_hook, ingress, TAP_MAX_HOOKS, BPF_F_NO_PREALLOC);
/* key: ifindex of a device with an egress hook; value: its rules */
BPF_F_TABLE("hash", u32, struct tap_hook, egress, TAP_MAX_HOOKS, BPF_F_NO_PREALLOC);
/* key: index; value: a rule; the two maps above name ranges */
BPF_TABLE("array", u32, struct tap_rule, rules, TAP_MAX_RULES);
/* key: a mirror's slot; value: its counters on each CPU */
BPF_TABLE("percpu_array", u32, struct tap_counters, counters, TAP_MAX_MIRRORS);
/* key: index; value: the VLAN settings of hooks' ports */
BPF_TABLE("array", u32, struct tap_port, ports, TAP_MAX_PORTS);
/* key: index; value: what copies need changed */
BPF_TABLE("array", u32, struct tap_rewrite, rewrites, TAP_MAX_REWRITES);
/* key: index; value: a set of VLANs */
BPF_TABLE("array", u32, struct tap_vlan_set, vlans, TAP_MAX_VLAN_SETS);
/* key: index; value: what a mirror's filter selects */
BPF_TABLE("array", u32, struct tap_match, matches, TAP_MAX_MATCHES);
/* key: 0; value: what a program works out in steps, while it makes no copy */
BPF_TABLE("percpu_array", u32, struct tap_scratch, scratch, 1);
/* key: TAP_NEXT_*; value: the program that goes on with the packet */
BPF_PROG_ARRAY(next, 3);
/* key: 0; value: ifindex of the cutter; 0 if there is none */
BPF_TABLE("array", u32, u32, cutter, 1);
/* key: TAP_TEMPLATE_*; value: what hooks' own programs are made of. For the sidecar alone. */
BPF_TABLE("array", u32, struct tap_template, templates, TAP_TEMPLATES);
/* key: a mirror's UUID; value: its slot and older counts. For the sidecar alone. */
BPF_F_TABLE("hash", struct tap_uuid, struct tap_mirror, mirrors, TAP_MAX_MIRRORS, BPF_F_NO_PREALLOC);
/* key: ifindex whose clsact qdisc is ours to remove; value: 1. For the sidecar alone. */
BPF_F_TABLE("hash", u32, u32, qdiscs, TAP_MAX_HOOKS, BPF_F_NO_PREALLOC);

/*
 * What the control block holds while a hook's rules are applied: the group and the
 * selection of the last rule, what became of them, and the range of rules that the next
 * program is to apply.
 */
#define TAP_CB_FIRST	0
#define TAP_CB_FLAGS	1
#define TAP_CB_GROUP	2
#define TAP_CB_SELECTION	3
#define TAP_CB_RESULT	4

/* The selection includes the packet. */
#define TAP_SELECTED	1
/* And this hook is the one that copies it. */
#define TAP_COPIED	2

#include "cut.h"

static __always_inline bool tap_has_vlan(u32 index, u32 vid)
{
	struct tap_vlan_set *set = vlans.lookup(&index);

	return set && set->bits[vid / 8 % TAP_VLAN_SET_LEN] & 1 << vid % 8;
}

/*
 * Whether the port admits the packet, and which VLAN it is in: in
 * ofproto/ofproto-dpif-xlate.c, input_vid_is_valid and xvlan_input_translate.
 */
static __always_inline bool tap_admit(struct __sk_buff *skb, const struct tap_port *port,
				      struct tap_packet *packet)
{
	if (port->max_len && skb->len > port->max_len)
		return false;
	packet->vid = packet->tag.tci & VLAN_VID_MASK;
	if (port->admitted && !tap_has_vlan(port->admitted, packet->vid))
		return false;
	/* Open vSwitch takes a tag off that says nothing, also if it would be a second one. */
	packet->tunnel = port->mode == TAP_TAGS_FORCED ||
			 (port->mode == TAP_TAGS_TUNNEL && packet->tag.tci & TAP_TCI_MASK);
	if (port->mode == TAP_TAGS_FORCED || port->mode == TAP_TAGS_TUNNEL || (port->mode != TAP_TAGS_KEEP && !packet->vid))
		packet->vid = port->tag;
	return true;
}

/* The same, of the port at an index of the ports map; 0: a trunk of all VLANs. */
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
 * The addresses of link protocols, which Open vSwitch does not mirror to a
 * VLAN: eth_addr_is_reserved in lib/packets.c.
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
 * A copy for a device with a hook of ours carries the tag there, so that it is
 * finished and passed over: where another mirror selects the output device,
 * its copies are among this hook's rules already. So rings of mirrors end.
 */
static __always_inline long tap_clone(struct __sk_buff *skb, const struct tap_rule *rule, u32 rewrite)
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

static __always_inline bool tap_rewrite_tags(struct __sk_buff *skb, const struct tap_rewrite *rewrite,
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

/* Copies a packet whose tags are changed for as long as it takes. */
static __always_inline bool tap_copy_rewritten(struct __sk_buff *skb, const struct tap_rule *rule)
{
	u32 index = rule->rewrite;
	struct tap_rewrite *rewrite = rewrites.lookup(&index);
	struct tap_change change = {};
	bool copied;

	if (!rewrite)
		return false;
	if (!tap_rewrite_tags(skb, rewrite, &change) || !tap_fits(skb, rewrite->max_len, rewrite->flags) ||
	    tap_clone(skb, rule, 0))
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
 * Copies a packet, to which the output's hook makes the @rewrite if there is one. A
 * clone's result is also what that hook and the queue said: any but 0 is a loss.
 */
static __always_inline void tap_copy(struct __sk_buff *skb, const struct tap_rule *rule, u32 rewrite)
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

/* Changes what is to be changed of a copy, which has come to its output device. */
int tap_finish(struct __sk_buff *skb)
{
	u32 index = skb->cb[TAP_CB_REWRITE];
	struct tap_change change;
	struct tap_rewrite *rewrite;

	rewrite = rewrites.lookup(&index);
	return rewrite && tap_rewrite_tags(skb, rewrite, &change) ? tap_truncate(skb, rewrite) : TAP_DROP;
}

/*
 * An entry of a hash map may be recycled for another key while it is read. So
 * it is read at once, and its first rule has to name the device. Returns whether
 * it did; if not, a second look finds the device's own entry.
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
 * Of a group, the first selection that includes the packet copies it, to each of its
 * outputs, unless another hook was first.
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

/* Reads what the rules are held against; returns whether they are at all. */
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
	/* What Open vSwitch goes on copying while the mirror is parked. */
	if (p->vid == TAP_PARKED_VLAN)
		return false;
	if (hook_flags & TAP_HOOK_DEDUP)
		tap_digest(skb, p);
	barrier();
	*packet = *p;
	*flow = steps->flow;
	return true;
}

/* Has the hook's rules gone through. */
static __always_inline void tap_call_rules(struct __sk_buff *skb, u32 first, u32 hook_flags)
{
	skb->cb[TAP_CB_FIRST] = first;
	skb->cb[TAP_CB_FLAGS] = hook_flags;
	if (hook_flags & TAP_HOOK_MATCH)
		next.call(skb, TAP_NEXT_EXTRACT);
	else
		next.call(skb, TAP_NEXT_RULES);
}

/* What a program returns that leaves no copy to make: the packet goes on. */
static __always_inline int tap_no_copy(u32 hook_flags)
{
	return hook_flags & TAP_HOOK_ACTION ? TAP_NO_MATCH : TAP_NEXT;
}

/* Reads what filters are held against. */
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

/* Goes through some rules of a hook; the next program goes on with the others. */
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
		tap_call_rules(skb, first + TAP_RULES_PER_PROGRAM, hook_flags - TAP_RULES_PER_PROGRAM);
	return done;
}

/* Has the hook's rules gone through, from the first one on. */
static __always_inline void tap_start_rules(struct __sk_buff *skb, u32 first, u32 hook_flags)
{
	skb->cb[TAP_CB_GROUP] = 0;
	skb->cb[TAP_CB_SELECTION] = 0;
	skb->cb[TAP_CB_RESULT] = 0;
	tap_call_rules(skb, first, hook_flags);
}

/* A copy has come to its output device: it is finished, and passed over. */
static __always_inline int tap_receive_copy(struct __sk_buff *skb)
{
	tap_untag_copy(skb);
	if (!skb->cb[TAP_CB_REWRITE])
		return TAP_NEXT;
	next.call(skb, TAP_NEXT_FINISH);
	return TAP_DROP;
}

#include "specialized.h"

static __always_inline int tap_run_hook(struct __sk_buff *skb, const struct tap_hook *hook)
{
	if (!(hook->flags & TAP_HOOK_ARRIVAL) && tap_is_copy(skb))
		return tap_receive_copy(skb);
	if (hook->flags & TAP_HOOK_RULES)
		tap_start_rules(skb, hook->first, hook->flags);
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
