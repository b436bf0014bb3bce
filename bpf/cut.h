/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cuts copies to a mirror's snaplen.
 *
 * bpf_skb_change_tail() cuts most copies in place. It refuses packets with
 * skb->encapsulation, and lengths within a packet's headers (__bpf_skb_min_len() in
 * net/core/filter.c). Such copies are sent to a device of the sidecar, the cutter
 * (ovs_ebpf_tap/apply/cutter.py): its XDP program tap_shorten cuts them, and tap_deliver,
 * on its ingress hook, sends them to their output device.
 *
 * An XDP program in generic mode cannot read the control block. So the length replaces
 * the first bytes of the frame, which are kept in the control block meanwhile.
 */
#ifndef TAP_CUT_H
#define TAP_CUT_H

#include "copy_tag.h"
#include "maps.h"
#include "net.h"
#include "tags.h"
#include "tap.h"
#include "verdict.h"

/* Words of the control block of a copy on its way through the cutter. */
#define TAP_CB_OUTPUT	0
#define TAP_CB_HEAD	1

/*
 * The length to cut skb to. The kernel datapath, which keeps the outermost tag in the
 * packet's metadata, does not count that tag; the userspace datapath does.
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
 * Moves the outermost tag to the metadata. On the cutter the kernel would move it, and
 * drop packets that are cut within it.
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
 * Sends a copy that is at its output device to the cutter. It sends a clone, as
 * bpf_clone_redirect() returns whether the cutter took it. The copy itself is transmitted
 * on the cutter, a dummy device, which discards it, so that the result counts it as sent. A
 * super-packet is first cut to TAP_HEADERS_LEN, which makes it an ordinary packet.
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
	/* The first byte is 0, so the destination is no group address. */
	word = bpf_htonl(len);
	if (bpf_skb_store_bytes(skb, 0, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM))
		return TAP_DROP;
	skb->cb[TAP_CB_OUTPUT] = skb->ifindex;
	skb->cb[TAP_CB_HEAD] = head;
	if (bpf_clone_redirect(skb, *ifindex, BPF_F_INGRESS))
		return TAP_DROP;
	return bpf_redirect(*ifindex, 0);
}

/* Cuts a copy, and drops it if it is too long for its output. */
static __always_inline int tap_truncate(struct __sk_buff *skb, const struct tap_rewrite *rewrite)
{
	u32 len = rewrite->snaplen ? tap_cut_len(skb, rewrite) : skb->len;

	if (skb->len > len && bpf_skb_change_tail(skb, len, 0))
		return tap_leave_to_cutter(skb, rewrite, len);
	return tap_fits(skb, rewrite->max_len, rewrite->flags) ? TAP_NEXT : TAP_DROP;
}

/* The cutter's XDP program: cuts a frame to the length in its first bytes. */
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
 * The program of the cutter's ingress hook: restores the frame's first bytes, and sends it
 * to its output. Only tap_leave_to_cutter() sends frames there. The length is checked, as
 * the kernel does not run generic XDP on packets that somebody else has redirected.
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
