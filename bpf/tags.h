/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VLAN tags, as Open vSwitch reads, translates and writes them: lib/flow.c
 * (parse_vlan), ofproto/ofproto-dpif-xlate.c (xvlan_input_translate,
 * xvlan_output_translate, xvlan_put) and lib/odp-util.c (commit_vlan_action).
 */
#ifndef TAP_TAGS_H
#define TAP_TAGS_H

#include "maps.h"
#include "net.h"
#include "tap.h"

#define TAP_TAG_LEN 4
#define TAP_MACS_LEN 12
#define VLAN_VID_MASK 0x0fff
#define VLAN_PCP_MASK 0xe000
#define VLAN_DEI_MASK 0x1000
/* The bits of a tag that Open vSwitch reads: all but the DEI bit. */
#define TAP_TCI_MASK (VLAN_PCP_MASK | VLAN_VID_MASK)

/* Compiler barrier: forces memory to be re-read. */
#define barrier()	asm volatile("" ::: "memory")

static __always_inline bool tap_is_vlan(u16 tpid)
{
	return tpid == ETH_P_8021Q || tpid == ETH_P_8021AD;
}

/*
 * The EtherType in the frame, behind its addresses. Open vSwitch reads it there.
 * skb->protocol may differ: who sends through a packet socket chooses it freely
 * (packet_snd() in the kernel's net/packet/af_packet.c).
 */
static __always_inline u16 tap_type(struct __sk_buff *skb)
{
	const u8 *data = (void *)(long)skb->data;

	/* Drivers and packet sockets put the header in the linear part. */
	if (data + ETH_HLEN > (u8 *)(long)skb->data_end)
		return bpf_ntohs(skb->protocol);
	return bpf_ntohs(*(const u16 *)(data + TAP_MACS_LEN));
}

static __always_inline bool tap_load_tag(struct __sk_buff *skb, u32 offset, struct tap_tag *tag)
{
	__be16 raw[2];

	if (bpf_skb_load_bytes(skb, offset, raw, sizeof(raw)))
		return false;
	tag->tpid = __builtin_bswap16(raw[0]);
	tag->tci = __builtin_bswap16(raw[1]);
	return tap_is_vlan(tag->tpid);
}

/* Reads the outermost tag; returns whether there is one. @tag_len: its bytes in the frame. */
static __always_inline bool tap_outer_tag(struct __sk_buff *skb, struct tap_tag *tag, u32 *tag_len)
{
	*tag_len = 0;
	if (skb->vlan_present) {
		tag->tpid = __builtin_bswap16(skb->vlan_proto);
		tag->tci = skb->vlan_tci;
		return true;
	}
	if (tap_is_vlan(tap_type(skb)) &&
	    tap_load_tag(skb, TAP_MACS_LEN, tag)) {
		*tag_len = TAP_TAG_LEN;
		return true;
	}
	tag->tpid = 0;
	tag->tci = 0;
	return false;
}

/* Reads the tags that Open vSwitch reads, the outer one first; returns how many. */
static __always_inline u32 tap_read_tags(struct __sk_buff *skb, u32 limit, struct tap_tag *tags)
{
	u32 tag_len;

	tags[1].tpid = 0;
	tags[1].tci = 0;
	if (!limit) {
		tags[0] = tags[1];
		return 0;
	}
	if (!tap_outer_tag(skb, &tags[0], &tag_len))
		return 0;
	if (limit < 2)
		return 1;
	if (tap_load_tag(skb, TAP_MACS_LEN + tag_len, &tags[1]))
		return 2;
	tags[1].tpid = 0;
	tags[1].tci = 0;
	return 1;
}

static __always_inline u16 tap_tpid_or_default(u16 tpid)
{
	return tpid ? tpid : ETH_P_8021Q;
}

/* Translates the tags of a frame to the packet's VLANs in the bridge. */
static __always_inline void tap_tags_in(const struct tap_rewrite *rewrite,
					const struct tap_tag *tags, struct tap_tag *x)
{
	x[0].tpid = tags[0].tpid;
	x[0].tci = tags[0].tci & TAP_TCI_MASK;
	x[1].tpid = tags[1].tpid;
	x[1].tci = tags[1].tci & TAP_TCI_MASK;
	if (rewrite->in_mode == TAP_TAGS_TUNNEL) {
		x[1] = x[0];
		x[0].tpid = rewrite->in_tpid;
		x[0].tci = rewrite->in_tag;
	} else if (rewrite->in_mode == TAP_TAGS_FORCED) {
		x[0].tpid = ETH_P_8021Q;
		x[0].tci = rewrite->in_tag;
		x[1].tpid = 0;
		x[1].tci = 0;
	} else if (rewrite->in_mode != TAP_TAGS_KEEP && !(x[0].tci & VLAN_VID_MASK)) {
		x[0].tpid = tap_tpid_or_default(x[0].tpid);
		x[0].tci |= rewrite->in_tag;
		if (rewrite->in_mode == TAP_TAGS_ACCESS) {
			x[1].tpid = 0;
			x[1].tci = 0;
		}
	}
	if (rewrite->set_vid != TAP_KEEP_VID)
		x[0].tci = (x[0].tci & VLAN_PCP_MASK) | rewrite->set_vid;
}

/* Translates the VLANs in the bridge to the tags of a frame. */
static __always_inline void tap_tags_out(const struct tap_rewrite *rewrite, struct tap_tag *x)
{
	if (rewrite->out_mode == TAP_TAGS_TUNNEL ||
	    (rewrite->out_mode == TAP_TAGS_NATIVE &&
	     (x[0].tci & VLAN_VID_MASK) == rewrite->out_tag)) {
		x[0] = x[1];
		x[1].tpid = 0;
		x[1].tci = 0;
	} else if (rewrite->out_mode == TAP_TAGS_ACCESS) {
		x[0].tpid = 0;
		x[0].tci = 0;
		x[1].tpid = 0;
		x[1].tci = 0;
	}
}

/* Whether Open vSwitch writes the tag: VLAN 0 with priority 0 only with priority-tags=always. */
static __always_inline bool tap_is_written(const struct tap_rewrite *rewrite,
					   const struct tap_tag *tag)
{
	return tag->tci || (rewrite->priority == TAP_PRIORITY_ALWAYS && tag->tpid);
}

/* Sets @x to the tags of frames at the output port; returns how many. */
static __always_inline u32 tap_translate(const struct tap_rewrite *rewrite,
					 const struct tap_tag *tags, struct tap_tag *x)
{
	tap_tags_in(rewrite, tags, x);
	tap_tags_out(rewrite, x);
	if (rewrite->priority != TAP_PRIORITY_NEVER)
		x[0].tci = (x[0].tci & VLAN_VID_MASK) | (tags[0].tci & VLAN_PCP_MASK);
	if (!tap_is_written(rewrite, &x[0]))
		return 0;
	x[0].tpid = tap_tpid_or_default(x[0].tpid);
	if (!tap_is_written(rewrite, &x[1]))
		return 1;
	x[1].tpid = tap_tpid_or_default(x[1].tpid);
	return 2;
}

static __always_inline bool tap_same_tag(const struct tap_tag *a, const struct tap_tag *b)
{
	return a->tpid == b->tpid && ((a->tci ^ b->tci) & TAP_TCI_MASK) == 0;
}

/*
 * The control block keeps how many tags are taken off, how many put on, and
 * whether that failed: read anew each time, the verifier remembers no path.
 */
#define TAP_CB_TAGS	0
#define TAP_CB_ERROR	1
#define TAP_POPS(skb)	((skb)->cb[TAP_CB_TAGS] & 3)
#define TAP_PUSHES(skb)	((skb)->cb[TAP_CB_TAGS] >> 2)

static __always_inline void tap_pop(struct __sk_buff *skb)
{
	if (bpf_skb_vlan_pop(skb))
		skb->cb[TAP_CB_ERROR] = 1;
}

static __always_inline void tap_push(struct __sk_buff *skb, const struct tap_tag *tag)
{
	if (bpf_skb_vlan_push(skb, __builtin_bswap16(tag->tpid), tag->tci))
		skb->cb[TAP_CB_ERROR] = 1;
}

/* Plans pops and pushes. Inner tags that stay the same are kept; pushed ones have no DEI bit. */
static __always_inline void tap_plan_change(struct __sk_buff *skb,
					    const struct tap_rewrite *rewrite,
					    struct tap_change_plan *plan)
{
	struct tap_change *change = &plan->change;
	struct tap_tag *tags = change->tags, *x = change->new_tags;
	u32 same = 0;

	plan->n = tap_read_tags(skb, rewrite->limit, tags);
	barrier();
	plan->n_new = tap_translate(rewrite, tags, x);
	barrier();
	if (plan->n && plan->n_new &&
	    tap_same_tag(plan->n == 2 ? &tags[1] : &tags[0], plan->n_new == 2 ? &x[1] : &x[0])) {
		same = 1;
		if (plan->n == 2 && plan->n_new == 2 && tap_same_tag(&tags[0], &x[0]))
			same = 2;
	}
	if (plan->n && plan->n == same && rewrite->flags & TAP_RULE_NO_DEI &&
	    tags[0].tci & VLAN_DEI_MASK)
		same--;
	skb->cb[TAP_CB_TAGS] = (plan->n - same) | (plan->n_new - same) << 2;
}

/*
 * Sets skb->protocol to the frame's EtherType. bpf_skb_vlan_pop() goes by skb->protocol: if
 * that is wrong, it pops bytes that are no tag, or leaves a tag. Pushing two tags and
 * popping them again does not change the frame, except that its own tag moves to the metadata;
 * vlan_remove_tag() in the kernel's include/linux/if_vlan.h then reads the type from the frame.
 */
static __always_inline void tap_correct_type(struct __sk_buff *skb)
{
	const struct tap_tag tag = { .tpid = ETH_P_8021Q, .tci = 1 };
	u16 type = tap_type(skb), said = bpf_ntohs(skb->protocol);

	if (type == said || (!tap_is_vlan(type) && !tap_is_vlan(said)))
		return;
	tap_push(skb, &tag);
	tap_push(skb, &tag);
	tap_pop(skb);
	tap_pop(skb);
}

static __always_inline bool tap_change_tags(struct __sk_buff *skb, const struct tap_change *change)
{
	skb->cb[TAP_CB_ERROR] = 0;
	if (skb->cb[TAP_CB_TAGS])
		tap_correct_type(skb);
	if (TAP_POPS(skb) > 0)
		tap_pop(skb);
	if (TAP_POPS(skb) > 1)
		tap_pop(skb);
	if (TAP_PUSHES(skb) > 1)
		tap_push(skb, &change->new_tags[1]);
	if (TAP_PUSHES(skb) > 0)
		tap_push(skb, &change->new_tags[0]);
	return !skb->cb[TAP_CB_ERROR];
}

/* Restores the frame's tags. */
static __always_inline void tap_restore_tags(struct __sk_buff *skb, const struct tap_change *change)
{
	if (TAP_PUSHES(skb) > 0)
		tap_pop(skb);
	if (TAP_PUSHES(skb) > 1)
		tap_pop(skb);
	if (TAP_POPS(skb) > 1)
		tap_push(skb, &change->tags[1]);
	if (TAP_POPS(skb) > 0)
		tap_push(skb, &change->tags[0]);
}

/*
 * Whether the output device takes a frame of @len bytes, which may be less than the
 * packet's length if it is cut later. Open vSwitch does not send frames longer than the
 * MTU, one VLAN tag not counted. Super-packets pass: they are segmented there.
 */
static __always_inline bool tap_fits_len(struct __sk_buff *skb, u32 len, u32 max_len, u32 flags)
{
	u32 type = tap_type(skb);

	if (skb->gso_size)
		return true;
	if (skb->vlan_present)
		type = __builtin_bswap16(skb->vlan_proto);
	else if (tap_is_vlan(type))
		len -= TAP_TAG_LEN;
	if (type == ETH_P_8021AD && flags & TAP_RULE_NETDEV)
		len += TAP_TAG_LEN;
	return len <= max_len;
}

static __always_inline bool tap_fits(struct __sk_buff *skb, u32 max_len, u32 flags)
{
	return tap_fits_len(skb, skb->len, max_len, flags);
}

#endif /* TAP_TAGS_H */
