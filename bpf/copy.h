/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How the hook of an output device tells copies of ours from other packets.
 *
 * A copy carries a mark in the control block, skb->cb, which a clone keeps on its
 * way to the hook, both through __dev_queue_xmit() and through netif_rx() and the
 * backlog. Whoever has a TC program on the other end of a veth pair can write there
 * too, as to tc_index, mark, priority and queue_mapping, so none of these says
 * anything. The mark is a secret of 64 bits, drawn when the programs are loaded.
 *
 * It is only there from just before the packet is cloned until the original has
 * come back, or the copy has come to its hook. And only hooks of departures look for
 * it: where packets arrive from outside, no copy comes, and what is said there is not
 * heard. What departs has come out of Open vSwitch, whose userspace datapath carries
 * bytes only, and whose kernel datapath writes its own to this part of the control
 * block (struct ovs_skb_cb).
 */
#ifndef TAP_COPY_H
#define TAP_COPY_H

/* Words of the control block: two of the mark, then the edit that is to be made; 0: none. */
#define TAP_CB_MARK	0
#define TAP_CB_EDIT	2

#define tap_cb_mark(skb)	(*(volatile u64 *)&(skb)->cb[TAP_CB_MARK])

static __always_inline bool tap_is_copy(struct __sk_buff *skb)
{
	return tap_cb_mark(skb) == TAP_CONSTANT_64(TAP_CONSTANT_COPY);
}

/* What is cloned next is a copy, to which the output's hook makes the edit. */
static __always_inline void tap_mark(struct __sk_buff *skb, u32 edit)
{
	tap_cb_mark(skb) = TAP_CONSTANT_64(TAP_CONSTANT_COPY);
	skb->cb[TAP_CB_EDIT] = edit;
}

static __always_inline void tap_unset_mark(struct __sk_buff *skb)
{
	tap_cb_mark(skb) = 0;
}

#endif /* TAP_COPY_H */
