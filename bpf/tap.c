// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies the packets of mirrored ports to their mirrors' output devices.
 *
 * One program for the ingress and one for the egress hook of a device, the
 * same for TCX and for clsact's direct action. Neither changes the packet or
 * its fate: whatever the copies do, the next program goes on as if this one
 * were not there.
 */
#include "tap.h"

#define ETH_P_IP	0x0800
#define ETH_P_8021Q	0x8100
#define ETH_P_IPV6	0x86dd
#define ETH_P_8021AD	0x88a8
#define IPPROTO_TCP	6
#define IPPROTO_UDP	17
#define IPPROTO_SCTP	132
#define ETH_HLEN	14
#define VLAN_VID_MASK	0x0fff

/* TCX_NEXT, and TC_ACT_UNSPEC of a direct-action classifier */
#define TAP_NEXT	(-1)

#include "once.h"

/* key: ifindex of a device with an ingress hook; value: its rules */
BPF_F_TABLE("hash", u32, struct tap_hook, ingress, TAP_MAX_HOOKS, BPF_F_NO_PREALLOC);
/* key: ifindex of a device with an egress hook; value: its rules */
BPF_F_TABLE("hash", u32, struct tap_hook, egress, TAP_MAX_HOOKS, BPF_F_NO_PREALLOC);
/* key: place; value: a rule, in runs named by the two maps above */
BPF_TABLE("array", u32, struct tap_rule, rules, TAP_MAX_RULES);
/* key: a mirror's slot; value: its counters on each CPU */
BPF_TABLE("percpu_array", u32, struct tap_counters, counters, TAP_MAX_MIRRORS);
/* key: 0; value: whether this CPU is delivering a copy to a device with a hook */
BPF_TABLE("percpu_array", u32, u32, copying, 1);
/* key: a mirror's UUID; value: its slot and older counts. For the sidecar alone. */
BPF_F_TABLE("hash", struct tap_uuid, struct tap_mirror, mirrors, TAP_MAX_MIRRORS, BPF_F_NO_PREALLOC);
/* key: ifindex whose clsact qdisc is ours to remove; value: 1. For the sidecar alone. */
BPF_F_TABLE("hash", u32, u32, qdiscs, TAP_MAX_HOOKS, BPF_F_NO_PREALLOC);

static __always_inline bool tap_is_vlan(__be16 protocol)
{
	return protocol == __builtin_bswap16(ETH_P_8021Q) ||
	       protocol == __builtin_bswap16(ETH_P_8021AD);
}

/* Bytes that the outermost VLAN tag takes inline: 4, or 0 without or in metadata. */
static __always_inline u32 tap_inline_tag(struct __sk_buff *skb)
{
	return !skb->vlan_present && tap_is_vlan(skb->protocol) ? TAP_TAG_LEN : 0;
}

static __always_inline bool tap_is_parked_vlan(struct __sk_buff *skb, u32 tag_len)
{
	__be16 tci;

	if (skb->vlan_present)
		return (skb->vlan_tci & VLAN_VID_MASK) == TAP_PARKED_VLAN;
	if (!tag_len || bpf_skb_load_bytes(skb, ETH_HLEN, &tci, sizeof(tci)))
		return false;
	return (__builtin_bswap16(tci) & VLAN_VID_MASK) == TAP_PARKED_VLAN;
}

static __always_inline void tap_account(u32 slot, u32 len, bool delivered)
{
	struct tap_counters *c = counters.lookup(&slot);

	if (!c)
		return;
	if (delivered) {
		c->packets++;
		c->bytes += len;
	} else {
		c->drops++;
	}
}

static __always_inline u32 *tap_copying(void)
{
	u32 zero = 0;

	return copying.lookup(&zero);
}

/*
 * Where another mirror selects the output device, its copies are among this
 * hook's rules already. So the output's own hook, which runs within the call,
 * is told to stand back: else rings of mirrors would never end.
 */
static __always_inline long tap_clone(struct __sk_buff *skb, const struct tap_rule *rule)
{
	u64 flags = rule->flags & TAP_RULE_TO_INGRESS ? BPF_F_INGRESS : 0;
	u32 *busy;
	long error;

	if (!(rule->flags & TAP_RULE_TO_HOOK))
		return bpf_clone_redirect(skb, rule->output, flags);
	busy = tap_copying();
	if (!busy)
		return -1;
	*busy = 1;
	error = bpf_clone_redirect(skb, rule->output, flags);
	*busy = 0;
	return error;
}

/*
 * Open vSwitch does not send what is longer than the output device's MTU;
 * super-packets are cut there, and pass.
 */
static __always_inline void tap_copy(struct __sk_buff *skb, const struct tap_rule *rule,
				     u32 tag_len)
{
	u32 len = skb->len + (skb->vlan_present ? TAP_TAG_LEN : 0);
	bool fits = skb->gso_size || skb->len - tag_len <= rule->max_len;

	/* A clone's result is also what the output's queue said: any but 0 is a loss. */
	tap_account(rule->slot, len, fits && !tap_clone(skb, rule));
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
	u32 place, *busy;

	hook->n = 0;
	if (!entry)
		return true;
	*(u64 *)hook = *(const volatile u64 *)entry;
	place = hook->first;
	rule = rules.lookup(&place);
	if (!rule || rule->hook != ifindex)
		return false;
	if (rule->flags & TAP_RULE_SEES_COPIES) {
		busy = tap_copying();
		if (busy && *busy)
			hook->n = 0;
	}
	return true;
}

static __always_inline void tap_run(struct __sk_buff *skb, const struct tap_hook *hook)
{
	u32 i, place, tag_len = tap_inline_tag(skb);
	struct tap_rule *rule;
	bool digested = false;
	u64 digest = 0;

	if (!hook->n)
		return;
	/* What Open vSwitch goes on copying while the mirror is parked. */
	if (tap_is_parked_vlan(skb, tag_len))
		return;
	for (i = 0; i < TAP_MAX_RULES_PER_HOOK; i++) {
		if (i >= hook->n)
			break;
		place = hook->first + i;
		rule = rules.lookup(&place);
		if (!rule)
			break;
		if (rule->flags & TAP_RULE_ONCE) {
			if (!digested) {
				digest = tap_digest(skb, tag_len);
				digested = true;
			}
			if (!tap_once(rule, digest))
				continue;
		}
		tap_copy(skb, rule, tag_len);
	}
}

int tap_ingress(struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex;
	struct tap_hook hook;

	if (tap_read_hook(ingress.lookup(&ifindex), ifindex, &hook) ||
	    tap_read_hook(ingress.lookup(&ifindex), ifindex, &hook))
		tap_run(skb, &hook);
	return TAP_NEXT;
}

int tap_egress(struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex;
	struct tap_hook hook;

	if (tap_read_hook(egress.lookup(&ifindex), ifindex, &hook) ||
	    tap_read_hook(egress.lookup(&ifindex), ifindex, &hook))
		tap_run(skb, &hook);
	return TAP_NEXT;
}
