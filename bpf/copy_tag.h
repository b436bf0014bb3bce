/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The copy tag: how the hook of an output device tells our copies from other packets.
 *
 * A copy carries the tag in the control block, skb->cb, which a clone keeps on its
 * way to the hook, both through __dev_queue_xmit() and through netif_rx() and the
 * backlog. A TC program on the other end of a veth pair can write there, too, as to
 * tc_index, mark, priority and queue_mapping, so none of these can be trusted. So the
 * tag is a secret of 64 bits, drawn when the programs are loaded.
 *
 * A packet carries it only while it is cloned: the original until the clone is made, the
 * copy until its hook has run. Hooks where packets arrive in the switch do not look for
 * it, since no copy gets there. Packets that leave come from Open vSwitch: its userspace
 * datapath carries bytes only, and its kernel datapath overwrites this part of the
 * control block (struct ovs_skb_cb).
 */
#ifndef TAP_COPY_TAG_H
#define TAP_COPY_TAG_H

#include "constants.h"

/* Words of the control block: two of the tag, then the index of the rewrite; 0: none. */
#define TAP_CB_COPY_TAG	0
#define TAP_CB_REWRITE	2

#define tap_cb_copy_tag(skb)	(*(volatile u64 *)&(skb)->cb[TAP_CB_COPY_TAG])

static __always_inline bool tap_is_copy(struct __sk_buff *skb)
{
	return tap_cb_copy_tag(skb) == TAP_COPY_TAG;
}

/* Tags a packet before it is cloned; the output's hook makes the rewrite of index @rewrite. */
static __always_inline void tap_tag_copy(struct __sk_buff *skb, u32 rewrite)
{
	tap_cb_copy_tag(skb) = TAP_COPY_TAG;
	skb->cb[TAP_CB_REWRITE] = rewrite;
}

static __always_inline void tap_untag_copy(struct __sk_buff *skb)
{
	tap_cb_copy_tag(skb) = 0;
}

#endif /* TAP_COPY_TAG_H */
