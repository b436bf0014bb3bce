/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract between the programs and the sidecar: what the maps hold.
 *
 * The sidecar reads this very file (ovs_ebpf_tap/abi.py), so keep to its small
 * dialect: "#define TAP_NAME number", and structs of __u32 and __u64 members
 * without implicit padding.
 *
 * How a packet finds its rules:
 *
 *	ingress / egress		rules
 *	ifindex -> { first, n } ----->	[first .. first + n)
 *
 * The rules of a hook are written once, to a range that no hook names, and
 * then published by one 8-byte update of the hook's entry. A range that was
 * taken back is not written again for TAP_QUARANTINE_MS, so a program never
 * sees half a change.
 */
#ifndef TAP_H
#define TAP_H

/* Raised whenever the layout below changes its meaning. */
#define TAP_ABI 1

/* 802.1Q reserves it, so a mirror that selects only it selects nothing. */
#define TAP_PARKED_VLAN 4095

#define TAP_MAX_HOOKS 16384
#define TAP_MAX_RULES 65536
#define TAP_MAX_RULES_PER_HOOK 32
#define TAP_MAX_MIRRORS 4096
#define TAP_QUARANTINE_MS 1000

/* Deliver the copy to the output device's ingress: it is an internal port. */
#define TAP_RULE_TO_INGRESS 1
/* Other hooks may see the same packet: copy it only once to this output. */
#define TAP_RULE_ONCE 2
/* The hook sees packets that arrive in the switch, not packets that leave. */
#define TAP_RULE_ARRIVAL 4
/* The output device has a hook of ours, which is to pass the copy over. */
#define TAP_RULE_TO_HOOK 8
/* The hook is on an output device: what it sees may be a copy of ours. */
#define TAP_RULE_SEES_COPIES 16

/* One copy to make. */
struct tap_rule {
	__u32 hook;	/* ifindex of the hook's device: the entry is not stale */
	__u32 output;	/* ifindex of the output device */
	__u32 flags;	/* TAP_RULE_* */
	__u32 max_len;	/* longest frame, without a VLAN tag, that the output takes */
	__u32 slot;	/* the mirror's place in the counters map */
	__u32 pad;
};

/* The rules of a hook, by place in the rules map. */
struct tap_hook {
	__u32 first;
	__u32 n;
};

/* What a mirror did, on one CPU. */
struct tap_counters {
	__u64 packets;	/* copies delivered to the output device */
	__u64 bytes;	/* of these copies, VLAN tags included */
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

#endif /* TAP_H */
