/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mirror.filter: the key of a frame, and whether a match selects it.
 *
 * The key is what Open vSwitch's struct flow would hold for the frame, including
 * truncated and malformed ones: miniflow_extract() in its lib/flow.c, as in the userspace
 * datapath. (The kernel datapath goes by the end of the frame, not of the IP packet.)
 * It is extracted once for a frame, and compared with each match.
 */
#ifndef TAP_FLOW_KEY_H
#define TAP_FLOW_KEY_H

#include "maps.h"
#include "net.h"
#include "tap.h"

/* Tags that Open vSwitch parses at most, whatever vlan-limit says. */
#define TAP_MAX_TAGS 2
/* IPv6 extension headers parsed at most; a packet with more has no ports in its key. */
#define TAP_MAX_IP6_EXTS 6
/* Bytes that may follow an IP packet in its frame, as in Open vSwitch. */
#define TAP_MAX_PADDING 0xffff

/* The part of the frame behind the headers parsed so far. */
struct tap_rest {
	u32 offset;
	u32 len;
};

struct tap_llc {
	__be32 llc;	/* DSAP, SSAP, control, first byte of the organisation */
	__be16 org;
	__be16 type;
};

struct tap_ip {
	u8 ihl;		/* and the version */
	u8 tos;
	__be16 len;
	__be16 id;
	__be16 frag;
	u8 ttl;
	u8 proto;
	__be16 csum;
	__be32 addr[2];
};

struct tap_ip6 {
	__be32 label;	/* and the version and the traffic class */
	__be16 len;
	u8 proto;
	u8 ttl;
	/* 32 bytes of addresses */
};

/* With the addresses */
#define TAP_IP6_LEN 40

struct tap_ip6_ext {
	u8 proto;
	u8 len;
	__be16 frag;	/* of IPPROTO_FRAGMENT */
	__be32 unused;
};

struct tap_arp {
	__be16 hrd;
	__be16 pro;
	u8 hln;
	u8 pln;
	__be16 op;
	u8 sha[ETH_ALEN];
	u8 spa[4];
	u8 tha[ETH_ALEN];
	u8 tpa[4];
};

/* The first bytes of a transport header: ports, or an ICMP type and code. */
union tap_ports {
	__be16 port[2];
	u8 icmp[2];
};

static __always_inline void tap_pull(struct tap_rest *rest, u32 len)
{
	rest->offset += len;
	rest->len -= len;
}

/* parse_vlan(): skips the tags, and returns the EtherType behind them. */
static __always_inline __be16 tap_extract_tags(struct __sk_buff *skb, u32 vlan_limit,
					       struct tap_key *key, struct tap_rest *rest)
{
	/* Loaded with the addresses, to where a tag's TPID belongs. */
	__be16 type = key->vlan_tpid, tag[2];
	u32 i, n = 0;

	key->vlan_tpid = 0;
	if (skb->vlan_present) {
		key->vlan_tpid = skb->vlan_proto;
		key->vlan_tci = bpf_htons(skb->vlan_tci | TAP_VLAN_PRESENT);
		n = 1;
	}
#pragma unroll
	for (i = 0; i < TAP_MAX_TAGS; i++) {
		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		if (n >= vlan_limit || rest->len < sizeof(tag) ||
		    bpf_skb_load_bytes(skb, rest->offset, tag, sizeof(tag)))
			break;
		if (!n) {
			key->vlan_tpid = type;
			key->vlan_tci = tag[0] | bpf_htons(TAP_VLAN_PRESENT);
		}
		n++;
		type = tag[1];
		tap_pull(rest, sizeof(tag));
	}
	return type;
}

/* parse_ethertype() */
static __always_inline __be16 tap_extract_type(struct __sk_buff *skb, __be16 type,
					       struct tap_rest *rest)
{
	struct tap_llc llc;

	if (bpf_ntohs(type) >= ETH_P_802_3_MIN)
		return type;
	if (rest->len < sizeof(llc) || bpf_skb_load_bytes(skb, rest->offset, &llc, sizeof(llc)) ||
	    llc.llc != bpf_htonl(0xaaaa0300) || llc.org)
		return bpf_htons(TAP_NO_DL_TYPE);
	tap_pull(rest, sizeof(llc));
	return bpf_ntohs(llc.type) >= ETH_P_802_3_MIN ? llc.type : bpf_htons(TAP_NO_DL_TYPE);
}

/* ipv4_sanity_check(); returns whether ports may follow. */
static __always_inline bool tap_extract_ip(struct __sk_buff *skb, struct tap_key *key,
					   struct tap_rest *rest)
{
	struct tap_ip ip;
	u32 ihl, len;

	if (rest->len < sizeof(ip) || bpf_skb_load_bytes(skb, rest->offset, &ip, sizeof(ip)))
		return false;
	ihl = (ip.ihl & 0xf) * 4;
	len = bpf_ntohs(ip.len);
	if (ihl < sizeof(ip) || len < ihl || rest->len < len ||
	    rest->len - len > TAP_MAX_PADDING)
		return false;
	key->nw_src = ip.addr[0];
	key->nw_dst = ip.addr[1];
	key->nw_tos = ip.tos;
	key->nw_ttl = ip.ttl;
	key->nw_proto = ip.proto;
	if (ip.frag & bpf_htons(IP_MF | IP_OFFSET))
		key->nw_frag = TAP_FRAG_ANY;
	if (ip.frag & bpf_htons(IP_OFFSET))
		key->nw_frag |= TAP_FRAG_LATER;
	rest->len = len;
	tap_pull(rest, ihl);
	return true;
}

static __always_inline bool tap_is_ip6_ext(u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_FRAGMENT ||
	       proto == IPPROTO_AH || proto == IPPROTO_DSTOPTS;
}

/* parse_ipv6_ext_hdrs__(); returns false if one of them is truncated. */
static __always_inline bool tap_pass_ip6_exts(struct __sk_buff *skb, u8 *proto, u8 *frag,
					      struct tap_rest *rest)
{
	struct tap_ip6_ext ext;
	u32 i, len;

	for (i = 0; i < TAP_MAX_IP6_EXTS; i++) {
		bool fragment = *proto == IPPROTO_FRAGMENT;

		if (!tap_is_ip6_ext(*proto))
			break;
		if (rest->len < sizeof(ext) ||
		    bpf_skb_load_bytes(skb, rest->offset, &ext, sizeof(ext)))
			return false;
		if (fragment)
			len = sizeof(ext);
		else if (*proto == IPPROTO_AH)
			len = (ext.len + 2) * 4;
		else
			len = (ext.len + 1) * 8;
		if (rest->len < len)
			return false;
		tap_pull(rest, len);
		*proto = ext.proto;
		if (!fragment || !ext.frag)
			continue;
		*frag = TAP_FRAG_ANY;
		if (ext.frag & bpf_htons(IP6_OFFSET)) {
			*frag |= TAP_FRAG_LATER;
			*proto = IPPROTO_FRAGMENT;
			break;
		}
	}
	return true;
}

/* ipv6_sanity_check(); returns whether ports may follow. */
static __always_inline bool tap_extract_ip6(struct __sk_buff *skb, struct tap_key *key,
					    struct tap_rest *rest)
{
	const u32 addresses = sizeof(key->ipv6_src) + sizeof(key->ipv6_dst);
	struct tap_ip6 ip6;
	u8 proto, frag = 0;
	u32 len;

	if (rest->len < sizeof(ip6) + addresses ||
	    bpf_skb_load_bytes(skb, rest->offset, &ip6, sizeof(ip6)))
		return false;
	len = bpf_ntohs(ip6.len);
	tap_pull(rest, sizeof(ip6) + addresses);
	if (rest->len < len || rest->len - len > TAP_MAX_PADDING ||
	    bpf_skb_load_bytes(skb, rest->offset - addresses, key->ipv6_src, addresses))
		return false;
	rest->len = len;
	proto = ip6.proto;
	if (!tap_pass_ip6_exts(skb, &proto, &frag, rest))
		return false;
	key->ipv6_label = ip6.label & bpf_htonl(0xfffff);
	key->nw_tos = bpf_ntohl(ip6.label) >> 20;
	key->nw_ttl = ip6.ttl;
	key->nw_proto = proto;
	key->nw_frag = frag;
	return true;
}

static __always_inline void tap_extract_arp(struct __sk_buff *skb, struct tap_key *key,
					    struct tap_rest *rest)
{
	struct tap_arp arp;

	if (rest->len < sizeof(arp) || bpf_skb_load_bytes(skb, rest->offset, &arp, sizeof(arp)))
		return;
	if (arp.hrd != bpf_htons(ARPHRD_ETHER) || arp.pro != bpf_htons(ETH_P_IP) ||
	    arp.hln != ETH_ALEN || arp.pln != sizeof(key->nw_src))
		return;
	__builtin_memcpy(&key->nw_src, arp.spa, sizeof(arp.spa));
	__builtin_memcpy(&key->nw_dst, arp.tpa, sizeof(arp.tpa));
	__builtin_memcpy(key->arp_sha, arp.sha, sizeof(arp.sha));
	__builtin_memcpy(key->arp_tha, arp.tha, sizeof(arp.tha));
	if (bpf_ntohs(arp.op) <= 0xff)
		key->nw_proto = bpf_ntohs(arp.op);
}

static __always_inline void tap_extract_ports(struct __sk_buff *skb, struct tap_key *key,
					      struct tap_rest *rest)
{
	u8 proto = key->nw_proto;
	union tap_ports ports;
	u32 len = 8;
	__be16 ctl;

	if (proto == IPPROTO_TCP)
		len = TCP_HLEN;
	else if (proto == IPPROTO_SCTP)
		len = SCTP_HLEN;
	else if (proto != IPPROTO_UDP && proto != IPPROTO_ICMP && proto != IPPROTO_IGMP &&
		 proto != IPPROTO_ICMPV6)
		return;
	if (rest->len < len || bpf_skb_load_bytes(skb, rest->offset, &ports, sizeof(ports)))
		return;
	if (proto == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, rest->offset + TCP_CTL, &ctl, sizeof(ctl)))
			return;
		len = bpf_ntohs(ctl) >> 12 << 2;
		if (len < TCP_HLEN || rest->len < len)
			return;
		key->tcp_flags = ctl & bpf_htons(TCP_FLAGS);
	} else if (proto != IPPROTO_UDP && proto != IPPROTO_SCTP) {
		key->tp_src = bpf_htons(ports.icmp[0]);
		key->tp_dst = bpf_htons(ports.icmp[1]);
		return;
	}
	key->tp_src = ports.port[0];
	key->tp_dst = ports.port[1];
}

/*
 * Extracts the key of a frame. @vlan_limit tags are parsed: Open vSwitch's
 * other_config:vlan-limit, which is 1 unless set, and TAP_MAX_TAGS for its 0.
 */
static __always_inline void tap_extract(struct __sk_buff *skb, u32 vlan_limit,
					union tap_flow *flow)
{
	struct tap_rest rest = { .offset = ETH_HLEN, .len = skb->len - ETH_HLEN };
	struct tap_key *key = &flow->key;
	__be16 type;
	bool ports;

	__builtin_memset(flow, 0, sizeof(*flow));
	/* With the EtherType, to where a tag's TPID belongs. */
	if (skb->len < ETH_HLEN || bpf_skb_load_bytes(skb, 0, key, ETH_HLEN))
		return;
	type = tap_extract_type(skb, tap_extract_tags(skb, vlan_limit, key, &rest), &rest);
	key->dl_type = type;
	if (type == bpf_htons(ETH_P_IP))
		ports = tap_extract_ip(skb, key, &rest);
	else if (type == bpf_htons(ETH_P_IPV6))
		ports = tap_extract_ip6(skb, key, &rest);
	else
		ports = false;
	if (type == bpf_htons(ETH_P_ARP) || type == bpf_htons(ETH_P_RARP))
		tap_extract_arp(skb, key, &rest);
	if (ports && !(key->nw_frag & TAP_FRAG_LATER))
		tap_extract_ports(skb, key, &rest);
}

/* Whether the match selects a frame of that key. */
static __always_inline bool tap_matches(const union tap_flow *flow, const struct tap_match *match)
{
	u64 differs = 0;
	int i;

#pragma unroll
	for (i = 0; i < TAP_KEY_WORDS; i++)
		differs |= (flow->word[i] ^ match->value[i]) & match->mask[i];
	return !differs;
}

#endif /* TAP_FLOW_KEY_H */
