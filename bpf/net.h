/* SPDX-License-Identifier: GPL-2.0-only */
/* Numbers of the protocols that are parsed, under the kernel's names. */
#ifndef TAP_NET_H
#define TAP_NET_H

#define ETH_P_802_3_MIN	0x0600
#define ETH_P_IP	0x0800
#define ETH_P_ARP	0x0806
#define ETH_P_RARP	0x8035
#define ETH_P_8021Q	0x8100
#define ETH_P_IPV6	0x86dd
#define ETH_P_8021AD	0x88a8

#define IPPROTO_HOPOPTS	0
#define IPPROTO_ICMP	1
#define IPPROTO_IGMP	2
#define IPPROTO_IPIP	4
#define IPPROTO_TCP	6
#define IPPROTO_UDP	17
#define IPPROTO_ROUTING	43
#define IPPROTO_FRAGMENT	44
#define IPPROTO_AH	51
#define IPPROTO_ICMPV6	58
#define IPPROTO_DSTOPTS	60
#define IPPROTO_SCTP	132

#define ETH_HLEN	14
#define ETH_ALEN	6

#define ARPHRD_ETHER	1

#define IP_MF		0x2000
#define IP_OFFSET	0x1fff
#define IP6_OFFSET	0xfff8

#define TCP_HLEN	20
#define TCP_CTL		12
#define TCP_FLAGS	0x0fff
#define SCTP_HLEN	12

#endif /* TAP_NET_H */
