/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cuts copies to a mirror's snaplen.
 *
 * bpf_skb_change_tail() does it where a copy is, but refuses packets with
 * skb->encapsulation, and to cut within a packet's headers (__bpf_skb_min_len() in
 * net/core/filter.c). The others go to a device of the sidecar's, the cutter
 * (ovs_ebpf_tap/apply/cutter.py): they arrive there, its XDP program tap_shorten cuts
 * them, and tap_deliver, on its ingress hook, sends them to their output.
 *
 * An XDP program in generic mode sees nothing of the control block. So the length
 * is in the first bytes of the frame, whose own are in the control block meanwhile.
 */
#ifndef TAP_CUT_H
#define TAP_CUT_H

#include "copy_tag.h"
#include "maps.h"
#include "net.h"
#include "tags.h"
#include "tap.h"
#include "verdict.h"

/* What the control block has of a copy on its way through the cutter. */
#define TAP_CB_OUTPUT	0
#define TAP_CB_HEAD	1

/*
 * How long the copy is to be here. The kernel's datapath, whose outermost tag is
 * always in the packet's metadata, does not count that tag.
 */
static __always_inline u32 tap_cut_len(struct __sk_buff *skb, const struct tap_rewrite *rewrite)
{
	u32 beside = skb->vlan_present ? TAP_TAG_LEN : 0;
	u32 inside = !beside && tap_is_vlan(tap_type(skb)) ? TAP_TAG_LEN : 0;
	u32 len = rewrite->snaplen;

	len = rewrite->flags & TAP_RULE_NETDEV ? len - beside : len + inside;

	return skb->len < len ? skb->len : len;
}

/*
 * Has the outermost tag in the metadata, as it will be on the cutter: the kernel
 * takes it off there, and drops what is cut within it.
 */
static __always_inline bool tap_move_tag_to_metadata(struct __sk_buff *skb, u32 *len)
{
	struct tap_tag tag;
	u32 tag_len;

	if (!tap_outer_tag(skb, &tag, &tag_len) || !tag_len)
		return true;
	*len -= TAP_TAG_LEN;
	return !bpf_skb_vlan_pop(skb) &&
	       !bpf_skb_vlan_push(skb, __builtin_bswap16(tag.tpid), tag.tci);
}

/*
 * Leaves a copy that has come to its output device to the cutter, as a clone, for
 * that tells whether it was taken. What is left goes the other way, out of the cutter,
 * where as on any dummy all that is sent ends: so it counts as sent. A super-packet is
 * cut to no less than its headers before, which makes it an ordinary packet.
 */
static __always_inline int tap_leave_to_cutter(struct __sk_buff *skb,
					       const struct tap_rewrite *rewrite, u32 len)
{
	u32 zero = 0, *ifindex = cutter.lookup(&zero), head, word;

	if (skb->gso_size && skb->len > TAP_HEADERS_LEN)
		bpf_skb_change_tail(skb, TAP_HEADERS_LEN, 0);
	if (!ifindex || !tap_fits_len(skb, len, rewrite->max_len, rewrite->flags) ||
	    !tap_move_tag_to_metadata(skb, &len) || len < ETH_HLEN ||
	    bpf_skb_load_bytes(skb, 0, &head, sizeof(head)))
		return TAP_DROP;
	/* The first byte is 0: no address of a group. */
	word = bpf_htonl(len);
	if (bpf_skb_store_bytes(skb, 0, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM))
		return TAP_DROP;
	skb->cb[TAP_CB_OUTPUT] = skb->ifindex;
	skb->cb[TAP_CB_HEAD] = head;
	if (bpf_clone_redirect(skb, *ifindex, BPF_F_INGRESS))
		return TAP_DROP;
	return bpf_redirect(*ifindex, 0);
}

/* Cuts a copy, and drops one that its output does not take. */
static __always_inline int tap_truncate(struct __sk_buff *skb, const struct tap_rewrite *rewrite)
{
	u32 len = rewrite->snaplen ? tap_cut_len(skb, rewrite) : skb->len;

	if (skb->len > len && bpf_skb_change_tail(skb, len, 0))
		return tap_leave_to_cutter(skb, rewrite, len);
	return tap_fits(skb, rewrite->max_len, rewrite->flags) ? TAP_NEXT : TAP_DROP;
}

/* XDP, on the cutter. */
int tap_shorten(struct xdp_md *ctx)
{
	u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 len;

	if (data + ETH_HLEN > end)
		return XDP_DROP;
	len = bpf_ntohl(*(__be32 *)data);
	return bpf_xdp_adjust_tail(ctx, (int)(len - (end - data))) ? XDP_DROP : XDP_PASS;
}

/*
 * On the cutter's ingress hook. Nothing arrives there but what tap_leave_to_cutter() sends;
 * the kernel passes over the XDP program for packets that somebody has redirected.
 */
int tap_deliver(struct __sk_buff *skb)
{
	u32 output = skb->cb[TAP_CB_OUTPUT], head = skb->cb[TAP_CB_HEAD], len;

	if (bpf_skb_load_bytes(skb, 0, &len, sizeof(len)) || skb->len != bpf_ntohl(len) ||
	    bpf_skb_store_bytes(skb, 0, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM))
		return TAP_DROP;
	tap_tag_copy(skb, 0);
	return bpf_redirect(output, 0);
}

#endif /* TAP_CUT_H */
