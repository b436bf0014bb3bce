/* SPDX-License-Identifier: GPL-2.0-only */
/* All maps, and the values that are not part of the contract with the sidecar. */
#ifndef TAP_MAPS_H
#define TAP_MAPS_H

#include "tap.h"

struct tap_vlan_set {
	u8 bits[TAP_VLAN_SET_LEN];
};

struct tap_tag {
	u16 tpid;	/* 0: there is none */
	u16 tci;
};

/* A change of a frame's tags. */
struct tap_change {
	struct tap_tag tags[2];	/* before the change */
	struct tap_tag new_tags[2];
};

/* A change, and how many tags there are before and after it. */
struct tap_change_plan {
	struct tap_change change;
	u32 n;
	u32 n_new;
};

/*
 * Two sums of the family MULTILINEAR-HM (Lemire and Kaser, "Strongly universal string
 * hashing is fast", 2013) over a frame's content: tap_digest_key() makes the key of them.
 */
struct tap_digest {
	u64 sum[2];
};

/* Facts about the packet that a hook works on. */
struct tap_packet {
	struct tap_tag tag;	/* outermost tag */
	u32 tagged;
	u32 tag_len;		/* 4 if that tag is in the frame, 0 if in the metadata */
	u32 vid;		/* the VLAN that the packet is in */
	u32 tunnel;		/* its tag is not the port's own, but its payload */
	struct tap_digest digest;
	u32 unknown;		/* no digest: every hook copies */
};

/* A flow key, also as the words by which it is compared. */
union tap_flow {
	struct tap_key key;
	u64 word[TAP_KEY_WORDS];
};

/*
 * Intermediate results. The verifier follows paths separately while its knowledge of
 * registers and stack differs. It does not track values in a map or in the packet's
 * control block. So steps with many paths store their results there, and the verifier
 * merges the paths.
 */
struct tap_scratch {
	struct tap_packet packet;
	union tap_flow flow;
	struct tap_change_plan plan;
};

/* The tables of dedup.h are set-associative: sets of TAP_WAYS entries. */
#define TAP_SETS 8192
#define TAP_WAYS 4

/* One content, for one group. Times are in the kernel's ticks (jiffies), the cheapest clock. */
struct tap_frame {
	u64 key;
	u32 created;	/* distinguishes it from an earlier, forgotten one with this key */
	u32 used;	/* last frame seen */
	u32 raced;	/* last copy made on a departure */
	u32 arrived;
	u32 copies;
	u32 lost;	/* a count of its departures was overwritten */
};

struct tap_frames {
	u32 lock;
	u32 choice;	/* of TAP_FIND */
	struct tap_frame way[TAP_WAYS];
};

/* One content, for one group, at one port through which it leaves. */
struct tap_departure {
	u64 key;
	u32 created;	/* of the frame it counts */
	u32 used;
	u32 count;
	u32 frame;	/* that frame's slot (set * TAP_WAYS + way), and bits of its key */
};

struct tap_departures {
	u32 lock;
	u32 choice;	/* of TAP_FIND */
	struct tap_departure way[TAP_WAYS];
};

/* key: ifindex of a device with an ingress hook; value: its rules */
BPF_F_TABLE("hash", u32, struct tap_hook, ingress, TAP_MAX_HOOKS, BPF_F_NO_PREALLOC);
/* key: ifindex of a device with an egress hook; value: its rules */
BPF_F_TABLE("hash", u32, struct tap_hook, egress, TAP_MAX_HOOKS, BPF_F_NO_PREALLOC);
/* key: frames of a tunnel port at the hook of its device; value: its rules */
BPF_F_TABLE("hash", struct tap_tunnel, struct tap_hook, tunnels, TAP_MAX_TUNNELS,
	    BPF_F_NO_PREALLOC);
/* key: index; value: a rule. Hooks have ranges of them. */
BPF_TABLE("array", u32, struct tap_rule, rules, TAP_MAX_RULES);
/* key: index; value: the VLAN settings of a hook's port */
BPF_TABLE("array", u32, struct tap_port, ports, TAP_MAX_PORTS);
/* key: index; value: what to change of a copy */
BPF_TABLE("array", u32, struct tap_rewrite, rewrites, TAP_MAX_REWRITES);
/* key: index; value: a set of VLANs */
BPF_TABLE("array", u32, struct tap_vlan_set, vlans, TAP_MAX_VLAN_SETS);
/* key: index; value: what a mirror's filter selects */
BPF_TABLE("array", u32, struct tap_match, matches, TAP_MAX_MATCHES);
/* key: index; value: the options that the bridge of a Geneve port knows */
BPF_TABLE("array", u32, struct tap_options, options, TAP_MAX_OPTION_SETS);
/* key: a mirror's slot; value: its counters on each CPU */
BPF_TABLE("percpu_array", u32, struct tap_counters, counters, TAP_MAX_MIRRORS);
/* key: lower bits of a content's key; value: the contents that share them */
BPF_TABLE("array", u32, struct tap_frames, frames, TAP_SETS);
/* key: lower bits of the key of a content at a hook; value: likewise */
BPF_TABLE("array", u32, struct tap_departures, departures, TAP_SETS);
/* key: 0; value: intermediate results of one program, on each CPU */
BPF_TABLE("percpu_array", u32, struct tap_scratch, scratch, 1);
/* key: TAP_NEXT_*; value: a program to tail-call */
BPF_PROG_ARRAY(next, 4);
/* key: 0; value: ifindex of the cutter; 0 if there is none */
BPF_TABLE("array", u32, u32, cutter, 1);

/* For the sidecar alone. */

/* key: TAP_TEMPLATE_*; value: a program whose hook's constants are not bound yet */
BPF_TABLE("array", u32, struct tap_template, templates, TAP_TEMPLATES);
/* key: a mirror's UUID; value: its slot and older counts */
BPF_F_TABLE("hash", struct tap_uuid, struct tap_mirror, mirrors, TAP_MAX_MIRRORS,
	    BPF_F_NO_PREALLOC);
/* key: ifindex with a clsact qdisc that hooks use; value: whether it is ours to remove */
BPF_F_TABLE("hash", u32, u32, qdiscs, TAP_MAX_HOOKS, BPF_F_NO_PREALLOC);

#endif /* TAP_MAPS_H */
