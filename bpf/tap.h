/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract between the programs and the sidecar: what the maps hold.
 *
 * The sidecar reads this very file (ovs_ebpf_tap/abi.py), so keep to its small
 * dialect: "#define TAP_NAME number", and structs without implicit padding,
 * of __u8, __be16, __be32, __u32 and __u64 members and arrays of them.
 *
 * How a packet finds its rules, and they what they need:
 *
 *	ingress / egress		rules
 *	ifindex -> { first, shape } -->	[first .. first + n) --> edits, vlans, matches
 *			     `------------------------------> ports --> vlans
 *
 * The rules of a hook are written once, to a range that no hook names, and
 * then published by one 8-byte update of the hook's entry. A place that was
 * taken back, in any of these maps, is not written again for
 * TAP_QUARANTINE_MS, so a program never sees half a change.
 */
#ifndef TAP_H
#define TAP_H

/* Raised whenever the layout below changes its meaning. */
#define TAP_ABI 2

/* 802.1Q reserves it, so a mirror that selects only it selects nothing. */
#define TAP_PARKED_VLAN 4095

#define TAP_MAX_HOOKS 16384
#define TAP_MAX_RULES 131072
#define TAP_MAX_RULES_PER_HOOK 256
#define TAP_MAX_MIRRORS 4096
#define TAP_MAX_PORTS 4096
#define TAP_MAX_EDITS 16384
#define TAP_MAX_VLAN_SETS 2048
#define TAP_MAX_MATCHES 1024
#define TAP_QUARANTINE_MS 1000

/* A packet's headers end within these bytes, whatever the kernel minds in cutting it. */
#define TAP_HEADERS_LEN 160

/* Places of programs in the map of those that others go on with. */
#define TAP_NEXT_RULES 0
#define TAP_NEXT_EXTRACT 1
#define TAP_NEXT_FINISH 2

/*
 * What a program has in the place of constants that are only known when it is
 * loaded: loads of 64 bits with this in the upper half, and in the lower half the
 * number of a word of the rule, the port's settings, the edit, or the hook's entry.
 */
#define TAP_CONSTANT_MARK 0x7a90c0de
#define TAP_CONSTANT_RULE 0
#define TAP_CONSTANT_PORT 16
#define TAP_CONSTANT_EDIT 32
#define TAP_CONSTANT_FIRST 48
#define TAP_CONSTANT_SHAPE 49
/* What becomes of packets without a tag, any of them; 0: it depends. */
#define TAP_CONSTANT_PLAIN 50
/* They are not copied. */
#define TAP_PLAIN_NONE 1
/* They are copied as they are. */
#define TAP_PLAIN_AS_IS 2
/* And the output's hook makes the rule's edit. */
#define TAP_PLAIN_EDIT 3
/* The VLAN whose tag a copy without one gets, if the edit changes no more of it; 0: it depends. */
#define TAP_CONSTANT_PUSH 51
/* And what every program has there: spans of time in the kernel's ticks. */
#define TAP_CONSTANT_FORGET 58
#define TAP_CONSTANT_RACE 59
/* 64 bits: what tells a copy from an original. */
#define TAP_CONSTANT_COPY 62
/* And what a rule's match lets one see at a glance. */
#define TAP_CONSTANT_GLANCE 64
/* And, in every program, secrets of 64 bits. */
#define TAP_CONSTANT_SECRET 128
#define TAP_SECRETS 56
/* What such programs are made of: tap_one and tap_out, in a map with room for their code. */
#define TAP_TEMPLATE_ONE 0
#define TAP_TEMPLATE_OUT 1
#define TAP_TEMPLATES 2
#define TAP_TEMPLATE_LEN 32768

/* How long counts of a content are kept after its last frame. */
#define TAP_FORGET_MS 1000
/* Longest time by which a departure can outrun the hook of its own arrival. */
#define TAP_RACE_MS 20

/* Bytes of a set of VLANs: bit v % 8 of byte v / 8 says whether VLAN v is in it. */
#define TAP_VLAN_SET_LEN 512

/* Deliver the copy to the output device's ingress: it is an internal port. */
#define TAP_RULE_TO_INGRESS 1
/* Other hooks may see the same packet: copy it only once to this output. */
#define TAP_RULE_ONCE 2
/* The hook sees packets that arrive in the switch, not packets that leave. */
#define TAP_RULE_ARRIVAL 4
/* The output device has a hook of ours, which is to pass the copy over. */
#define TAP_RULE_TO_HOOK 8
/* Make the edit for the time of the clone: the output's hook can't. */
#define TAP_RULE_EDIT_HERE 16
/* The edit changes frames with a VLAN tag only. */
#define TAP_RULE_EDIT_TAGGED 32
/* The edit changes frames with a tag of VLAN 0 and priority 0 only. */
#define TAP_RULE_EDIT_BARE 64
/* Leave out what is sent to the addresses of link protocols. */
#define TAP_RULE_NO_RESERVED 128
/* As Open vSwitch's userspace datapath sends: an 802.1ad tag counts in a frame's length. */
#define TAP_RULE_NETDEV 256
/* As there, the DEI bit of the outermost tag is lost where a packet arrives. */
#define TAP_RULE_NO_DEI 512
/* Another rule of the run counts the packet, which has several outputs. */
#define TAP_RULE_UNCOUNTED 1024

/*
 * One copy to make. Rules of one group are next to each other, and in a group
 * those of one run: what they select, they all copy, and later runs do not.
 */
struct tap_rule {
	__u32 hook;	/* ifindex of the hook's device: the entry is not stale */
	__u32 output;	/* ifindex of the output device */
	__u32 group;	/* what a packet is copied to once: a port or a VLAN */
	__u32 flags;	/* TAP_RULE_* */
	__u32 max_len;	/* longest frame, without a VLAN tag, that the output takes */
	__u32 slot;	/* the mirror's place in the counters map */
	__u32 vlans;	/* place of the VLANs that are copied; 0: all */
	__u32 edit;	/* place of what the copy needs changed; 0: nothing */
	__u32 match;	/* place of the match that selects; 0: none */
	__u32 run;	/* tells a run from the others of its group */
};

/* The rules of a hook, by place in the rules map. */
struct tap_hook {
	__u32 first;	/* of a hook without rules but with a program: its edit */
	__u32 shape;	/* TAP_SHAPE_*, and how many rules */
	__u32 program;	/* id of the hook's own program; 0: it has none */
	__u32 pad;
};

#define TAP_SHAPE_RULES 0x3ff
/* The rules have TAP_RULE_ARRIVAL: no copies come to this hook. */
#define TAP_SHAPE_ARRIVAL 0x400
/* A filter's action makes the copies: what the programs return says whether. */
#define TAP_SHAPE_ACTION 0x800
/* Some rule has TAP_RULE_ONCE. */
#define TAP_SHAPE_ONCE 0x1000
/* Some rule has a match. */
#define TAP_SHAPE_MATCH 0x2000
/* Shift of how many VLAN tags a match sees, up to 2. */
#define TAP_SHAPE_LIMIT 14
/* Shift of the port's place in the ports map; 0: a trunk of all VLANs. */
#define TAP_SHAPE_PORT 16

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
	__u32 admitted;	/* place of the VLANs that frames may be tagged with; 0: all */
	__u32 max_len;	/* longest frame that Open vSwitch takes in; 0: any */
};

#define TAP_KEEP_VID 0xffff
#define TAP_PRIORITY_NEVER 0
#define TAP_PRIORITY_IF_NONZERO 1
#define TAP_PRIORITY_ALWAYS 2

/* What a copy needs changed. */
struct tap_edit {
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
 * A program's code, with zeroes behind it. A map is named by its place in the
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

/* What is kept of a mirror while it is offloaded. */
struct tap_mirror {
	__u32 slot;	/* its place in the counters map */
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

/* In place of the bit of a VLAN tag that Open vSwitch does not match on. */
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
 * What of a match shows where most packets have their headers: masks and values as
 * in the frame. What is not parsed, of a malformed packet, is 0 in its key; so only
 * of the addresses may a value be 0, and where a mask is 0, nothing is asked for.
 */
struct tap_glance {
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
