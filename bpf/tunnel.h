/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which tunnel port a frame is of, on a device that carries those of several: Open
 * vSwitch makes one device for all its ports of a kind (dpif_netlink_rtnl_port_create()
 * in its lib/dpif-netlink-rtnl.c), and tells them apart by addresses and key.
 */
#ifndef TAP_TUNNEL_H
#define TAP_TUNNEL_H

#include "maps.h"
#include "rules.h"
#include "tap.h"

/* struct bpf_tunnel_key as of Linux 5.19, which has the local address */
struct tap_tunnel_key {
	u32 id;
	u32 remote[4];
	u8 tos;
	u8 ttl;
	u16 flags;
	u32 label;
	u32 local[4];
};

#define TAP_MAPPED_IPV4	bpf_htonl(0xffff)

static __always_inline void tap_map_ipv4(u32 *address)
{
	address[3] = bpf_htonl(address[0]);
	address[0] = 0;
	address[1] = 0;
	address[2] = TAP_MAPPED_IPV4;
}

/* Reads what encapsulated the frame, or is to. IPv4 addresses come in the host's order. */
static __always_inline bool tap_read_tunnel_key(struct __sk_buff *skb, struct tap_tunnel_key *key)
{
	if (!bpf_skb_get_tunnel_key(skb, key, sizeof(*key), 0)) {
		tap_map_ipv4(key->remote);
		tap_map_ipv4(key->local);
		return true;
	}
	return !bpf_skb_get_tunnel_key(skb, key, sizeof(*key), BPF_F_TUNINFO_IPV6);
}

static __always_inline void tap_set_address(u8 *address, const u32 *from)
{
	__builtin_memcpy(address, from, 16);
}

/* Of the combinations of what a port leaves open, the @i-th in the order of tnl_find() in Open
 * vSwitch's ofproto/tunnel.c (3.1.0).
 */
#define TAP_TUNNEL_CLASSES 12

static __always_inline void tap_make_tunnel(struct tap_tunnel *tunnel, u32 i, u32 ifindex,
					    const struct tap_tunnel_key *key)
{
	__builtin_memset(tunnel, 0, sizeof(*tunnel));
	tunnel->ifindex = ifindex;
	if (i >= 6)
		tunnel->flags = TAP_TUNNEL_ANY_KEY;
	else
		tunnel->key = key->id;
	if (i % 6 >= 3)
		tunnel->flags |= TAP_TUNNEL_ANY_REMOTE;
	else
		tap_set_address(tunnel->remote, key->remote);
	if (i % 3 == 0)
		tap_set_address(tunnel->local, key->local);
	else
		tunnel->flags |= i % 3 == 1 ? TAP_TUNNEL_ANY_LOCAL : TAP_TUNNEL_FLOW_LOCAL;
}

/* Bytes of Geneve options that a frame may have, and the most options in them */
#define TAP_OPTIONS_LEN 252
#define TAP_OPTIONS_NUMBER (TAP_OPTIONS_LEN / 4)

#define TAP_OPTION_CRITICAL 0x8000
#define TAP_OPTION_WORDS 0x1f

/* Whether a bridge takes the option with this header: the first known one of its kind decides. */
static __always_inline bool tap_takes_option(const struct tap_options *set, u32 header)
{
	u32 option = (header & ~0xff) | TAP_OPTION | (header & TAP_OPTION_WORDS), i;

#pragma clang loop unroll(full)
	for (i = 0; i < TAP_MAX_OPTIONS; i++) {
		if (((set->known[i] ^ option) & ~TAP_OPTION_WORDS) == 0)
			return set->known[i] == option;
	}
	return !(header & TAP_OPTION_CRITICAL);
}

/*
 * Whether Open vSwitch takes in a frame with such Geneve options, as
 * tun_metadata_from_geneve_udpif() in its lib/tun-metadata.c (3.1.0): it drops those with an
 * unknown critical option, or with a known one of another length.
 */
static __always_inline bool tap_takes_options(struct __sk_buff *skb, u32 index)
{
	struct tap_options *set = options.lookup(&index);
	u32 words[TAP_OPTIONS_NUMBER + 1] = {};
	u32 header, i, at = 0;
	int len;

	if (!set)
		return false;
	len = bpf_skb_get_tunnel_opt(skb, words, TAP_OPTIONS_LEN);
	if (len <= 0)
		return true;
#pragma clang loop unroll(disable)
	for (i = 0; i < TAP_OPTIONS_NUMBER; i++) {
		if (at * 4 >= (u32)len)
			return true;
		header = bpf_ntohl(words[at & TAP_OPTIONS_NUMBER]);
		if (!tap_takes_option(set, header))
			return false;
		at += 1 + (header & TAP_OPTION_WORDS);
	}
	return at * 4 == (u32)len;
}

/* Applies the rules of the port that a frame has arrived on, or leaves through. */
int tap_tunnel(struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex, hook_flags = skb->cb[TAP_CB_FLAGS], i, index;
	struct tap_tunnel_key key = {};
	struct tap_hook *entry = 0, hook;
	struct tap_tunnel tunnel;
	struct tap_rule *rule;

	if (!tap_read_tunnel_key(skb, &key))
		return TAP_NEXT;
	if (hook_flags & TAP_HOOK_ARRIVAL) {
#pragma clang loop unroll(disable)
		for (i = 0; i < TAP_TUNNEL_CLASSES && !entry; i++) {
			tap_make_tunnel(&tunnel, i, ifindex, &key);
			entry = tunnels.lookup(&tunnel);
		}
	} else {
		/* What is to encapsulate it has the peer's address as its destination. */
		__builtin_memset(&tunnel, 0, sizeof(tunnel));
		tunnel.ifindex = ifindex;
		tunnel.flags = TAP_TUNNEL_LEAVING;
		tunnel.key = key.id;
		tap_set_address(tunnel.remote, key.local);
		tap_set_address(tunnel.local, key.remote);
		entry = tunnels.lookup(&tunnel);
	}
	if (!entry)
		return TAP_NEXT;
	/* Read at once, and checked, as by tap_read_hook(). */
	*(u64 *)&hook = *(const volatile u64 *)entry;
	if (!(hook.flags & TAP_HOOK_RULES))
		return TAP_NEXT;
	index = hook.first;
	rule = rules.lookup(&index);
	if (!rule || rule->hook != entry->port)
		return TAP_NEXT;
	index = hook.flags >> TAP_HOOK_OPTIONS_SHIFT;
	if (!index || tap_takes_options(skb, index))
		tap_start_rules(skb, hook.first,
				hook.flags & ((1U << TAP_HOOK_OPTIONS_SHIFT) - 1));
	return TAP_NEXT;
}

#endif /* TAP_TUNNEL_H */
