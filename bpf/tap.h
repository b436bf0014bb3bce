/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract between the programs and the sidecar: what the maps hold.
 *
 * The sidecar reads this very file (ovs_ebpf_tap/abi.py), so keep to its small
 * dialect: "#define TAP_NAME number", and structs without implicit padding,
 * of __u8, __be16, __be32, __u32 and __u64 members and arrays of them.
 *
 * From a packet's device to its rules, and from rules to what they refer to:
 *
 *	ingress / egress		rules
 *	ifindex -> { first, flags } -->	[first .. first + n) --> rewrites, vlans, matches
 *			     `------------------------------> ports --> vlans
 *
 * A device that carries the frames of several tunnel ports has an entry without
 * rules, with TAP_HOOK_TUNNELS; each of its ports has one in the map of tunnels.
 *
 * The rules of a hook are written once, to a range that no hook names, and
 * then published by one 8-byte update of the hook's entry. An index that was
 * given back, in any of these maps, is not reused for TAP_QUARANTINE_MS, so a
 * program never sees half a change.
 */
#ifndef TAP_H
#define TAP_H

/* Raised whenever a map changes its name, or the layout below its meaning. */
#define TAP_ABI 4

/* 802.1Q reserves this VLAN, so a mirror that selects only it selects nothing. */
#define TAP_PARKED_VLAN 4095

#define TAP_MAX_HOOKS 16384
#define TAP_MAX_TUNNELS 16384
#define TAP_MAX_RULES 131072
#define TAP_MAX_RULES_PER_HOOK 256
#define TAP_MAX_MIRRORS 4096
#define TAP_MAX_PORTS 4096
#define TAP_MAX_REWRITES 16384
#define TAP_MAX_VLAN_SETS 2048
#define TAP_MAX_MATCHES 1024
#define TAP_MAX_OPTION_SETS 16
#define TAP_MAX_OPTIONS 8
#define TAP_QUARANTINE_MS 1000

/* Upper bound of the length of a packet's headers, below which the kernel refuses to cut it. */
#define TAP_HEADERS_LEN 160

/* Indexes in the map of programs that others tail-call. */
#define TAP_NEXT_RULES 0
#define TAP_NEXT_EXTRACT 1
#define TAP_NEXT_FINISH 2
#define TAP_NEXT_TUNNEL 3

/*
 * Constants that are bound when a program is loaded. Each is a member of a struct
 * below. In the code it is a load of 64 bits, with TAP_CONSTANT_MARK in the upper
 * half, and in the lower one the struct's number << 16 | the member's offset.
 */
#define TAP_CONSTANT_MARK 0x7a90c0de
#define TAP_CONSTANT_GLOBAL 0
#define TAP_CONSTANT_HOOK 1
#define TAP_CONSTANT_RULE 2
#define TAP_CONSTANT_PORT 3
#define TAP_CONSTANT_REWRITE 4
#define TAP_CONSTANT_PREFILTER 5
#define TAP_CONSTANT_SHORTCUT 6

#define TAP_SECRETS 56

/* The same for all programs. */
struct tap_global {
	__u64 copy_tag;		/* copy_tag.h */
	__u64 secret[TAP_SECRETS];	/* factors for the digest of frames: dedup.h */
	__u32 forget_ticks;	/* TAP_FORGET_MS in ticks of the kernel */
	__u32 race_ticks;	/* TAP_RACE_MS likewise */
};

/* What a hook does with frames without a VLAN tag, the most frequent ones. */
struct tap_shortcut {
	__u32 untagged;	/* TAP_UNTAGGED_*: what the rule does with them */
	__u32 push_vid;	/* VLAN of the tag to push, if that is the whole rewrite; 0: it is not */
};

/* Depends on the rule's other members. */
#define TAP_UNTAGGED_DEPENDS 0
/* Does not copy them. */
#define TAP_UNTAGGED_NONE 1
/* Copies them unchanged. */
#define TAP_UNTAGGED_AS_IS 2
/* Copies them; the output's hook makes the rule's rewrite. */
#define TAP_UNTAGGED_REWRITE 3

/* Indexes of tap_specialized and tap_output in the map of templates. */
#define TAP_TEMPLATE_SPECIALIZED 0
#define TAP_TEMPLATE_OUTPUT 1
#define TAP_TEMPLATES 2
#define TAP_TEMPLATE_LEN 32768

/* How long counts of a content are kept after its last frame. */
#define TAP_FORGET_MS 1000
/* The longest time between a departure's hook and the hook of its own arrival after it. */
#define TAP_RACE_MS 20

/* Bytes of a set of VLANs: bit v % 8 of byte v / 8 says whether VLAN v is in it. */
#define TAP_VLAN_SET_LEN 512

/* Deliver the copy to the output device's ingress: it is an internal port. */
#define TAP_RULE_TO_INGRESS 1
/* Other hooks may see the same packet: copy it to this output only once. */
#define TAP_RULE_DEDUP 2
/* The hook sees packets that arrive in the switch, not packets that leave. */
#define TAP_RULE_ARRIVAL 4
/* The output device has a hook of ours, which is not to copy the copy again. */
#define TAP_RULE_TO_HOOK 8
/* Rewrite the packet itself for the time of the clone: the output's hook can't. */
#define TAP_RULE_REWRITE_HERE 16
/* The rewrite changes frames with a VLAN tag only. */
#define TAP_RULE_REWRITE_TAGGED 32
/* The rewrite changes frames with a tag of VLAN 0 and priority 0 only. */
#define TAP_RULE_REWRITE_BARE 64
/* Leave out frames to the addresses of link protocols. */
#define TAP_RULE_NO_RESERVED 128
/* As Open vSwitch's userspace datapath sends: an 802.1ad tag counts in a frame's length. */
#define TAP_RULE_NETDEV 256
/* As there, the DEI bit of the outermost tag is lost where a packet arrives. */
#define TAP_RULE_NO_DEI 512
/* Another rule of the selection counts the packet, which has several outputs. */
#define TAP_RULE_UNCOUNTED 1024

/*
 * One copy to make. Rules of one group are next to each other, and in a group
 * those of one selection: they all copy the packets that it includes, and the
 * group's later selections do not.
 */
struct tap_rule {
	__u32 hook;	/* ifindex of the hook's device, or number of its tunnel port: the entry is not stale */
	__u32 output;	/* ifindex of the output device */
	__u32 group;	/* what a packet is copied to once: a port or a VLAN */
	__u32 flags;	/* TAP_RULE_* */
	__u32 max_len;	/* longest frame, without a VLAN tag, that the output takes */
	__u32 slot;	/* index of the mirror's counters */
	__u32 vlans;	/* index of the set of VLANs that are copied; 0: all */
	__u32 rewrite;	/* index of what to change of the copy; 0: nothing */
	__u32 match;	/* index of the match that selects; 0: none */
	__u32 selection;	/* rules of a group with the same number copy the same packets */
};

/* A hook, by ifindex or tunnel: which rules it has. */
struct tap_hook {
	__u32 first;	/* index of its first rule; of tap_output's hook, of its rewrite */
	__u32 flags;	/* TAP_HOOK_*, and how many rules */
	__u32 program;	/* id of the hook's specialized program; 0: it has none */
	__u32 port;	/* number of the tunnel port, for both its directions; 0: the hook is a device's */
};

/* Mask of how many rules. */
#define TAP_HOOK_RULES 0x1ff
/* The device carries the frames of tunnel ports, which have the rules. */
#define TAP_HOOK_TUNNELS 0x200
/* The rules have TAP_RULE_ARRIVAL: no copies come to this hook. */
#define TAP_HOOK_ARRIVAL 0x400
/* A filter's action makes the copies: the program's return value says whether. */
#define TAP_HOOK_ACTION 0x800
/* Some rule has TAP_RULE_DEDUP. */
#define TAP_HOOK_DEDUP 0x1000
/* Some rule has a match. */
#define TAP_HOOK_MATCH 0x2000
/* Shift of how many VLAN tags a match sees, up to 2. */
#define TAP_HOOK_LIMIT_SHIFT 14
/* Shift of the port's index in the ports map; 0: a trunk of all VLANs. */
#define TAP_HOOK_PORT_SHIFT 16
/* Of a Geneve port's hook, shift of the index of the known options; 0: any frame is copied. */
#define TAP_HOOK_OPTIONS_SHIFT 28

/*
 * Which frames of a device are those of one tunnel port of Open vSwitch. IPv4 addresses
 * are mapped into IPv6's. What TAP_TUNNEL_ANY_* leave open is 0.
 */
struct tap_tunnel {
	__u32 ifindex;
	__u32 flags;	/* TAP_TUNNEL_* */
	__u32 key;
	__u8 remote[16];	/* the peer */
	__u8 local[16];
};

/* Frames that leave, which carry what the port's options say: nothing is left open. */
#define TAP_TUNNEL_LEAVING 1
#define TAP_TUNNEL_ANY_KEY 2
#define TAP_TUNNEL_ANY_REMOTE 4
#define TAP_TUNNEL_ANY_LOCAL 8
/* As TAP_TUNNEL_ANY_LOCAL, behind it: a flow tells the address. */
#define TAP_TUNNEL_FLOW_LOCAL 16

/* How a port's VLAN tags become the VLANs of packets in the bridge, and back. */
#define TAP_TAGS_KEEP 0
#define TAP_TAGS_ACCESS 1
#define TAP_TAGS_NATIVE 2
#define TAP_TAGS_TUNNEL 3
/* What has left through an access port: in its VLAN, and its tags are payload. */
#define TAP_TAGS_FORCED 4

/* The VLAN settings of a hook's port. */
struct tap_port {
	__u32 mode;	/* TAP_TAGS_* */
	__u32 tag;	/* the port's VLAN */
	__u32 admitted;	/* index of the set of VLANs that frames may be tagged with; 0: all */
	__u32 max_len;	/* longest frame that Open vSwitch takes in; 0: any */
};

/*
 * The Geneve options that a bridge knows, each as its class << 16 | its type << 8 |
 * TAP_OPTION | its length in words of 4 bytes; 0: none.
 */
struct tap_options {
	__u32 known[TAP_MAX_OPTIONS];
};

#define TAP_OPTION 0x80

#define TAP_KEEP_VID 0xffff
#define TAP_PRIORITY_NEVER 0
#define TAP_PRIORITY_IF_NONZERO 1
#define TAP_PRIORITY_ALWAYS 2

/* Changes to a copy. */
struct tap_rewrite {
	__u32 in_mode;	/* TAP_TAGS_* of the port that the packet passed */
	__u32 in_tag;
	__u32 in_tpid;
	__u32 set_vid;	/* VLAN to copy into, or TAP_KEEP_VID */
	__u32 out_mode;	/* TAP_TAGS_* of the output port */
	__u32 out_tag;
	__u32 priority;	/* TAP_PRIORITY_* of the output port */
	__u32 limit;	/* how many tags Open vSwitch looks at, up to 2 */
	__u32 snaplen;	/* longest copy; 0: any */
	__u32 max_len;	/* as in a rule */
	__u32 flags;	/* TAP_RULE_NETDEV, TAP_RULE_NO_DEI */
	__u32 pad;
};

/*
 * A program's code, with zeroes behind it. It names a map by its index in the
 * sidecar's list of maps.
 */
struct tap_template {
	__u8 code[TAP_TEMPLATE_LEN];
};

/* What a mirror did, on one CPU. */
struct tap_counters {
	__u64 packets;	/* copies delivered to the output device */
	__u64 bytes;	/* of these packets, VLAN tags included */
	__u64 drops;	/* copies that could not be made or delivered */
};

/* A mirror's row in OVSDB: the two halves of its UUID. */
struct tap_uuid {
	__u64 high;
	__u64 low;
};

/* State of an offloaded mirror. */
struct tap_mirror {
	__u32 slot;	/* index of its counters */
	__u32 pad;
	__u64 packets;	/* counted by programs of an earlier build, */
	__u64 bytes;	/* to be added to the counters map's sums */
	__u64 drops;
};

/*
 * What Open vSwitch's flow holds of a frame (miniflow_extract() in its
 * lib/flow.c), under that flow's names; what a frame does not have is 0.
 */
struct tap_key {
	__u8 dl_dst[6];
	__u8 dl_src[6];
	__be16 vlan_tpid;	/* of the outermost tag */
	__be16 vlan_tci;	/* with TAP_VLAN_PRESENT */
	__be16 dl_type;		/* behind the tags that are parsed, or TAP_NO_DL_TYPE */
	__u8 nw_frag;		/* TAP_FRAG_* */
	__u8 nw_tos;
	__u8 nw_ttl;
	__u8 nw_proto;		/* or the low byte of an ARP operation */
	__be16 tp_src;		/* or an ICMP type */
	__be16 tp_dst;		/* or an ICMP code */
	__be16 tcp_flags;
	__be32 ipv6_label;
	__be32 nw_src;		/* of IPv4 or ARP */
	__be32 nw_dst;
	__u8 arp_sha[6];
	__u8 arp_tha[6];
	__u8 pad[4];
	__u8 ipv6_src[16];
	__u8 ipv6_dst[16];
};

#define TAP_KEY_WORDS 11

/* There is a tag. In a frame this is the DEI bit, on which Open vSwitch does not match. */
#define TAP_VLAN_PRESENT 0x1000
/* An IEEE 802.3 frame, not Ethernet II. */
#define TAP_NO_DL_TYPE 0x05ff
#define TAP_FRAG_ANY 1
#define TAP_FRAG_LATER 2

/* Mirror.filter: a frame is selected if its key has this value under this mask. */
struct tap_match {
	__u64 mask[TAP_KEY_WORDS];
	__u64 value[TAP_KEY_WORDS];
};

/*
 * The part of a match that can be checked at the usual offsets of headers: masks and values
 * as in the frame. Fields of a malformed packet that are not parsed are 0 in its key; so only
 * addresses may have a value of 0. A mask of 0 matches everything.
 */
struct tap_prefilter {
	__u32 dl_mask_0;	/* of dl_dst and dl_src, in 32 bits each */
	__u32 dl_mask_1;
	__u32 dl_mask_2;
	__u32 dl_0;
	__u32 dl_1;
	__u32 dl_2;
	__u32 dl_type;		/* 0: any */
	__u32 nw_proto;		/* 0: any */
	__u32 nw_src_mask;	/* of IPv4 */
	__u32 nw_src;
	__u32 nw_dst_mask;
	__u32 nw_dst;
	__u32 tp_mask;		/* of tp_src and tp_dst */
	__u32 tp;
};

#endif /* TAP_H */
