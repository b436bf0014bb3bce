/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Deduplication: several hooks that copy to one output see the same packet. No mark
 * on the packet can tell them: the userspace datapath carries bytes only, and
 * skb->mark would be part of the flow key. So the hooks count.
 *
 * Consider all frames of one content, in one VLAN, for one group of rules. Let `arrived`
 * be how many of them arrived at selected source ports, and departed(P) how many left
 * through the selected destination port P. A packet arrives once, and leaves a port
 * once. So the number of packets is at least the largest of these counts, and equals
 * it if all packets of the content take the same way, as a switch has them do. Hence
 * a hook copies a frame if, and only if, its own count then exceeds the number of
 * copies made so far. The order of events does not matter: the userspace datapath can
 * send a frame before the ingress hook of its arrival has run. The only assumption is
 * that what leaves through a port has not arrived there.
 *
 * Counts are forgotten TAP_FORGET_MS after the last frame of their content, or
 * earlier if more than TAP_SETS * TAP_WAYS contents are in use. A packet that stays in
 * the switch for longer is copied twice. A count of departures is never forgotten
 * alone: the hook would count from 0 again, and miss copies.
 *
 * Senders choose frames, but know no secret and see no digest: two frames that differ
 * in the digested bytes have the same key with a probability of at most 2^-64.
 */
#ifndef TAP_DEDUP_H
#define TAP_DEDUP_H

#include "constants.h"
#include "flow_key.h"
#include "maps.h"
#include "net.h"
#include "tags.h"

#define TAP_DIGEST_LEN 64
/* Bytes digested from a transport header on that is not at the usual offset. */
#define TAP_TRANSPORT_LEN 24

/*
 * Adds the @n-th pair of 32-bit numbers to a digest. If two contents differ in a pair, by d in one
 * of its numbers, d != 0 and |d| < 2^32, the difference of their sums is d times a secret, plus
 * terms independent of that secret, mod 2^64. So whatever else is known, the upper 32 bits of the
 * difference have any given value with a probability of at most 2^-32; those of both sums, 2^-64.
 */
#define TAP_DIGEST_PAIR(digest, n, low, high)				\
	do {								\
		u32 __low = (low), __high = (high);			\
		(digest)->sum[0] += (TAP_SECRET(4 * (n)) + __low) *	\
				    (TAP_SECRET(4 * (n) + 1) + __high);	\
		(digest)->sum[1] += (TAP_SECRET(4 * (n) + 2) + __low) *	\
				    (TAP_SECRET(4 * (n) + 3) + __high);	\
	} while (0)

#define TAP_DIGEST_WORD(digest, n, word)	TAP_DIGEST_PAIR(digest, n, word, (word) >> 32)

/* Adds a number, multiplied by secrets that no pair uses. */
#define TAP_DIGEST_NUMBER(digest, n, number)				\
	do {								\
		(digest)->sum[0] += TAP_SECRET(2 * (n)) * (number);	\
		(digest)->sum[1] += TAP_SECRET(2 * (n) + 1) * (number);	\
	} while (0)

/* Numbers of pairs: 0 to 7 are the words of the head. */
#define TAP_PAIR_LENGTH		8
#define TAP_PAIR_MORE		9
#define TAP_PAIR_TRANSPORT	12
#define TAP_NUMBER_GROUP	26
#define TAP_NUMBER_HOOK		27

/* The key of a content: the upper half of each sum. The lower halves are less random. */
static __always_inline u64 tap_digest_key(const struct tap_digest *digest)
{
	return digest->sum[0] >> 32 << 32 | digest->sum[1] >> 32;
}

/* Mask of a frame's bytes @at to @at + @n - 1 in the 64-bit word that holds them. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define TAP_BYTES(at, n)	(~(~0ULL << 8 * (n)) << (at) % 8 * 8)
#else
#define TAP_BYTES(at, n)	(~(~0ULL << 8 * (n)) << (8 - (at) % 8 - (n)) * 8)
#endif
#define TAP_CLEAR(word, at, n)	((word)[(at) / 8] &= ~TAP_BYTES(at, n))

/* Whether the frame, without the port's tag, has its transport header at the usual offset. */
static __always_inline bool tap_is_common(const u8 *frame)
{
	u16 type = frame[12] << 8 | frame[13];

	if (type == ETH_P_IP)
		return frame[14] == 0x45;
	if (type == ETH_P_IPV6)
		return frame[20] == IPPROTO_TCP || frame[20] == IPPROTO_UDP ||
		       frame[20] == IPPROTO_SCTP;
	return !tap_is_vlan(type);
}

/*
 * Clears the checksums that a sender leaves to its device: an upcall, or Open
 * vSwitch with userspace-tso-enable, fills them in on the way through the switch.
 * If the packet is encapsulated, these may be the inner ones.
 */
static __always_inline void tap_clear_checksums(u64 *word)
{
	u8 *frame = (u8 *)word;
	u16 type = frame[12] << 8 | frame[13];

	if (type == ETH_P_IP) {
		TAP_CLEAR(word, 24, 2);
		if (frame[23] == IPPROTO_TCP)
			TAP_CLEAR(word, 50, 2);
		else if (frame[23] == IPPROTO_UDP)
			TAP_CLEAR(word, 40, 2);
		else if (frame[23] == IPPROTO_SCTP)
			TAP_CLEAR(word, 42, 4);
		else if (frame[23] == IPPROTO_IPIP)
			TAP_CLEAR(word, 60, 4);
	} else if (type == ETH_P_IPV6) {
		if (frame[20] == IPPROTO_UDP)
			TAP_CLEAR(word, 60, 2);
		else if (frame[20] == IPPROTO_SCTP)
			TAP_CLEAR(word, 62, 2);
	}
}

/* Fills bytes @at to @end - 1 of @frame with the packet's bytes from @start on. */
static __always_inline void tap_load_head(struct __sk_buff *skb, u8 *frame, const u32 at, u32 end,
					  u32 start)
{
	u32 len = skb->len - start;

	if (len >= end - at)
		len = end - at;
	/*
	 * The mask below changes no length that occurs. It proves to the verifier that the
	 * length is neither zero nor too long; the barrier keeps the compiler from
	 * removing it.
	 */
	asm volatile("" : "+r"(len));
	len = ((len - 1) & (TAP_DIGEST_LEN - 1)) + 1;
	bpf_skb_load_bytes(skb, start, frame + at, len);
}

/* Reads the head by direct packet access; returns whether it could, as for most frames. */
static __always_inline bool tap_load_linear(struct __sk_buff *skb, const struct tap_packet *packet,
					    u64 *word)
{
	u64 *data = (void *)(long)skb->data;
	u32 i;

	if (packet->tag_len || (packet->tunnel && packet->tagged) ||
	    (void *)(data + TAP_DIGEST_LEN / 8) > (void *)(long)skb->data_end)
		return false;
#pragma unroll
	for (i = 0; i < TAP_DIGEST_LEN / 8; i++)
		word[i] = data[i];
	return true;
}

/* Reads the first @end bytes, without the port's own tag, but with tags that are payload. */
static __always_inline bool tap_load(struct __sk_buff *skb, const struct tap_packet *packet,
				     u8 *frame, u32 end)
{
	if (bpf_skb_load_bytes(skb, 0, frame, TAP_MACS_LEN))
		return false;
	if (packet->tunnel && packet->tagged) {
		frame[12] = packet->tag.tpid >> 8;
		frame[13] = packet->tag.tpid;
		/* The switch may clear the DEI bit. */
		frame[14] = (packet->tag.tci & TAP_TCI_MASK) >> 8;
		frame[15] = packet->tag.tci;
		tap_load_head(skb, frame, TAP_MACS_LEN + TAP_TAG_LEN, end,
			      TAP_MACS_LEN + packet->tag_len);
	} else {
		tap_load_head(skb, frame, TAP_MACS_LEN, end, TAP_MACS_LEN + packet->tag_len);
	}
	return true;
}

/* A byte's offset in the packet minus its offset in the digested frame, behind the port's tag. */
static __always_inline u32 tap_shift(const struct tap_packet *packet)
{
	return packet->tag_len - (packet->tunnel && packet->tagged ? TAP_TAG_LEN : 0);
}

/* Starts a digest with the head, the length and the VLAN, which every content has. */
static __always_inline void tap_digest_head(struct __sk_buff *skb, struct tap_packet *packet,
					    const u64 *word)
{
	struct tap_digest *digest = &packet->digest;

	digest->sum[0] = 0;
	digest->sum[1] = 0;
	TAP_DIGEST_WORD(digest, 0, word[0]);
	TAP_DIGEST_WORD(digest, 1, word[1]);
	TAP_DIGEST_WORD(digest, 2, word[2]);
	TAP_DIGEST_WORD(digest, 3, word[3]);
	TAP_DIGEST_WORD(digest, 4, word[4]);
	TAP_DIGEST_WORD(digest, 5, word[5]);
	TAP_DIGEST_WORD(digest, 6, word[6]);
	TAP_DIGEST_WORD(digest, 7, word[7]);
	TAP_DIGEST_PAIR(digest, TAP_PAIR_LENGTH, skb->len - tap_shift(packet), packet->vid);
}

/* The 8 bytes behind the head, without the checksum: flags of TCP over IPv6. 0 if cut. */
static __always_inline u64 tap_load_more(struct __sk_buff *skb, const struct tap_packet *packet)
{
	u64 more;

	bpf_skb_load_bytes(skb, TAP_DIGEST_LEN + tap_shift(packet), &more, sizeof(more));
	TAP_CLEAR(&more, 70 - TAP_DIGEST_LEN, 2);
	return more;
}

/*
 * Digests a frame: its head, its VLAN in the bridge, and its length. The digest does not
 * depend on whether the VLAN tag is in the metadata, in the frame, or removed. Returns
 * false for a frame whose transport header is not at the usual offset. In all others,
 * the fields that Open vSwitch forwards by are in the head, except the flags of TCP over
 * IPv6.
 */
static __always_inline bool tap_digest_common(struct __sk_buff *skb, struct tap_packet *packet)
{
	/* Longer than the digested bytes: the verifier's bound is less tight. */
	u64 word[TAP_DIGEST_LEN / 8 + 3] = {};
	const u8 *frame = (const u8 *)word;
	u64 more;

	if (!tap_load_linear(skb, packet, word) &&
	    !tap_load(skb, packet, (u8 *)word, TAP_DIGEST_LEN))
		return false;
	if (!tap_is_common(frame))
		return false;
	packet->unknown = 0;
	tap_clear_checksums(word);
	tap_digest_head(skb, packet, word);
	if (frame[12] == ETH_P_IPV6 >> 8 && frame[13] == (ETH_P_IPV6 & 0xff) &&
	    frame[20] == IPPROTO_TCP) {
		more = tap_load_more(skb, packet);
		TAP_DIGEST_WORD(&packet->digest, TAP_PAIR_MORE, more);
	}
	return true;
}

/* A packet's transport header: its offset and its protocol. */
struct tap_transport {
	struct tap_rest rest;
	u32 network;	/* offset of the network header */
	u32 ip4;	/* whether that is an IPv4 header */
	u8 proto;
	u8 frag;
};

/* Skips tags, as many as Open vSwitch may read, and returns the EtherType behind them. */
static __always_inline __be16 tap_pass_tags(struct __sk_buff *skb, __be16 type,
					    struct tap_transport *transport)
{
	u32 i;

#pragma unroll
	for (i = 0; i < TAP_MAX_TAGS; i++) {
		if (!tap_is_vlan(bpf_ntohs(type)))
			break;
		if (bpf_skb_load_bytes(skb, transport->rest.offset + 2, &type, sizeof(type)))
			return 0;
		tap_pull(&transport->rest, TAP_TAG_LEN);
	}
	return type;
}

/* Finds the transport header; returns false if there is none that Open vSwitch would parse. */
static __always_inline bool tap_find_transport(struct __sk_buff *skb, __be16 type,
					       struct tap_transport *transport)
{
	struct tap_rest *rest = &transport->rest;
	struct tap_ip6 ip6;
	struct tap_ip ip;
	u32 ihl;

	type = tap_pass_tags(skb, type, transport);
	transport->network = rest->offset;
	if (type == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, rest->offset, &ip, sizeof(ip)))
			return false;
		ihl = (ip.ihl & 0xf) * 4;
		if (ihl < sizeof(ip) || rest->len < ihl)
			return false;
		transport->ip4 = 1;
		transport->proto = ip.proto;
		tap_pull(rest, ihl);
		return true;
	}
	if (type != bpf_htons(ETH_P_IPV6) || rest->len < TAP_IP6_LEN ||
	    bpf_skb_load_bytes(skb, rest->offset, &ip6, sizeof(ip6)))
		return false;
	transport->proto = ip6.proto;
	tap_pull(rest, TAP_IP6_LEN);
	return tap_pass_ip6_exts(skb, &transport->proto, &transport->frag, rest);
}

/* Clears a transport header's checksum, as tap_clear_checksums() does. */
static __always_inline void tap_clear_transport_checksum(u64 *word, u8 proto)
{
	if (proto == IPPROTO_TCP)
		TAP_CLEAR(word, 16, 2);
	else if (proto == IPPROTO_UDP)
		TAP_CLEAR(word, 6, 2);
	else if (proto == IPPROTO_SCTP)
		TAP_CLEAR(word, 8, 4);
}

/*
 * Digests a frame whose transport header is behind IPv4 options, IPv6 extension headers
 * or tags: its head up to there, and that header. In a head of fixed length, the checksum
 * that a device fills in would not be at the offset that is cleared.
 */
static __always_inline void tap_digest_found(struct __sk_buff *skb, struct tap_packet *packet,
					     const struct tap_transport *transport)
{
	u64 word[TAP_DIGEST_LEN / 8 + 3] = {}, more[TAP_TRANSPORT_LEN / 8 + 2] = {};
	u32 offset = transport->rest.offset, len = transport->rest.len;
	u32 shift = tap_shift(packet), end = offset - shift;

	if (end > TAP_DIGEST_LEN)
		end = TAP_DIGEST_LEN;
	tap_load(skb, packet, (u8 *)word, end);
	if (tap_is_vlan(((u8 *)word)[12] << 8 | ((u8 *)word)[13]))
		((u8 *)word)[14] &= ~(VLAN_DEI_MASK >> 8);
	if (transport->ip4) {
		if (transport->network - shift == ETH_HLEN)
			TAP_CLEAR(word, 24, 2);
		else if (transport->network - shift == ETH_HLEN + TAP_TAG_LEN)
			TAP_CLEAR(word, 28, 2);
		else
			TAP_CLEAR(word, 32, 2);
	}
	tap_digest_head(skb, packet, word);
	if (len) {
		if (len > TAP_TRANSPORT_LEN)
			len = TAP_TRANSPORT_LEN;
		asm volatile("" : "+r"(len));
		len = ((len - 1) & 31) + 1;
		bpf_skb_load_bytes(skb, offset, more, len);
	}
	tap_clear_transport_checksum(more, transport->proto);
	TAP_DIGEST_WORD(&packet->digest, TAP_PAIR_MORE, more[0]);
	TAP_DIGEST_WORD(&packet->digest, TAP_PAIR_MORE + 1, more[1]);
	TAP_DIGEST_WORD(&packet->digest, TAP_PAIR_MORE + 2, more[2]);
	TAP_DIGEST_PAIR(&packet->digest, TAP_PAIR_TRANSPORT, offset - shift,
			transport->proto | transport->frag << 8);
}

/* Digests any frame, but one with more IPv6 extension headers than are parsed. */
static __always_inline void tap_digest(struct __sk_buff *skb, struct tap_packet *packet)
{
	struct tap_transport transport = {};
	u32 at = ETH_HLEN + tap_shift(packet);
	__be16 type;

	if (tap_digest_common(skb, packet))
		return;
	packet->unknown = 1;
	if (packet->tunnel && packet->tagged)
		type = bpf_htons(packet->tag.tpid);
	else if (bpf_skb_load_bytes(skb, at - sizeof(type), &type, sizeof(type)))
		return;
	transport.rest.offset = at;
	transport.rest.len = skb->len - at;
	if (!tap_find_transport(skb, type, &transport)) {
		/* The head is all that can be digested. */
		transport.proto = 0;
		transport.ip4 = 0;
		transport.rest.offset = TAP_DIGEST_LEN + tap_shift(packet);
		transport.rest.len = 0;
	} else if (tap_is_ip6_ext(transport.proto) && !(transport.frag & TAP_FRAG_LATER)) {
		return;
	}
	packet->unknown = 0;
	tap_digest_found(skb, packet, &transport);
}

/*
 * An atomic exchange (BPF_XCHG), which bcc's compiler lacks. It compiles an atomic addition, which
 * with_exchanges() of ovs_ebpf_tap/ebpf/template.py replaces before the programs are loaded.
 */
static __always_inline u32 tap_exchange(u32 *where, u64 value)
{
	asm volatile("lock *(u32 *)(%1 + 0) += %0" : "+r"(value) : "r"(where) : "memory");
	return value;
}

/*
 * A spin lock. bpf_spin_lock() also disables interrupts, which takes 52 ns of 60 ns
 * for all of this file. That is not needed: classifiers run with softirqs disabled, so
 * nothing else on this CPU tries to take a lock that is held here. After 64 tries,
 * while the holder is interrupted, the caller goes on without the lock: a count may
 * then be wrong.
 *
 * Tries come in groups with one branch each: the verifier follows each branch to the
 * end. One that follows a successful try within its group reads the caller's own 1.
 */
#define TAP_SPIN_GROUP	3
#define TAP_SPIN_GROUPS	21

static __always_inline bool tap_lock(u32 *lock)
{
	u32 i, j, busy = tap_exchange(lock, 1);

	if (!busy)
		return true;
#pragma clang loop unroll(disable)
	for (i = 0; i < TAP_SPIN_GROUPS; i++) {
		busy = 1;
#pragma unroll
		for (j = 0; j < TAP_SPIN_GROUP; j++)
			busy &= tap_exchange(lock, 1);
		if (!busy)
			return true;
	}
	return false;
}

static __always_inline void tap_unlock(u32 *lock, bool locked)
{
	if (locked)
		tap_exchange(lock, 0);
}

/* Ticks from @then to @now; 0 if another CPU wrote @then after this one read @now. */
static __always_inline u32 tap_age(u32 now, u32 then)
{
	u32 age = now - then;

	return age > -TAP_FORGET_TICKS ? 0 : age;
}

/*
 * Sets @found to the way of @set that holds key @want and was used @within ticks,
 * or else to the least recently used one; @live says which of the two it is.
 *
 * The choice is stored in the set, that is in a map: the verifier then knows no value
 * of it, and follows one path from here on instead of one for each way.
 */
#define TAP_LIVE TAP_WAYS
#define TAP_FIND(set, want, now, within, found, live)			\
	do {								\
		volatile u32 *__choice = &(set)->choice;		\
		u32 __oldest = 0;					\
		*__choice = 0;						\
		_Pragma("unroll")					\
		for (int __i = 0; __i < TAP_WAYS; __i++) {		\
			u32 __age = tap_age(now, (set)->way[__i].used);	\
			if ((set)->way[__i].key == (want) &&		\
			    __age <= (within)) {			\
				*__choice = __i | TAP_LIVE;		\
				break;					\
			}						\
			if (__age > __oldest) {				\
				__oldest = __age;			\
				*__choice = __i;			\
			}						\
		}							\
		found = &(set)->way[*__choice & (TAP_WAYS - 1)];	\
		live = *__choice & TAP_LIVE;				\
	} while (0)

/*
 * Whether the frame's content has left through the device of the hook with this key. If
 * so, what arrives on that device is another packet, which is added to that count.
 */
static __always_inline bool tap_count_answer(u64 key, const struct tap_frame *frame)
{
	u32 index = key & (TAP_SETS - 1), i;
	struct tap_departures *set = departures.lookup(&index);
	bool found = false, locked;

	if (!set)
		return true;
	locked = tap_lock(&set->lock);
#pragma unroll
	for (i = 0; i < TAP_WAYS; i++) {
		if (set->way[i].key != key || set->way[i].created != frame->created)
			continue;
		set->way[i].count++;
		found = true;
	}
	tap_unlock(&set->lock, locked);
	return found || frame->lost;
}

/*
 * Counts an arrival; returns whether it is to be copied. @key is that of departures
 * through the same device.
 */
static __always_inline bool tap_count_arrival(struct tap_frame *frame, u64 key, u32 now)
{
	frame->arrived++;
	if ((s32)(frame->arrived - frame->copies) > 0) {
		frame->copies = frame->arrived;
		return true;
	}
	if (!tap_count_answer(key, frame) && tap_age(now, frame->raced) <= TAP_RACE_TICKS)
		return false;
	/* The copies counted so far were of other packets, from other ports. */
	frame->copies++;
	frame->arrived = frame->copies;
	return true;
}

/*
 * A departure names its frame by the slot in the frames map, in the lower bits, and
 * by part of the frame's key, in the upper ones.
 */
#define TAP_FRAME_KEY(key)	((u32)((key) >> 32) & ~(TAP_SETS * TAP_WAYS - 1))

/*
 * Called before a count of departures is overwritten. Marks its frame, if that is still
 * counted: a missing count then does not mean that the frame has not left there.
 */
static __always_inline void tap_evict_departure(const struct tap_departure *departure)
{
	u32 slot = departure->frame & (TAP_SETS * TAP_WAYS - 1);
	u32 index = slot / TAP_WAYS;
	struct tap_frames *set = frames.lookup(&index);
	struct tap_frame *frame;

	if (!set)
		return;
	frame = &set->way[slot % TAP_WAYS];
	if (frame->created == departure->created &&
	    TAP_FRAME_KEY(frame->key) == (departure->frame & ~(TAP_SETS * TAP_WAYS - 1)))
		frame->lost = 1;
}

/* Counts a departure of the frame in slot @slot through a hook; returns the new count. */
static __always_inline u32 tap_count_departure(u64 key, const struct tap_frame *frame, u32 slot,
					       u32 now)
{
	u32 index = key & (TAP_SETS - 1), count;
	struct tap_departures *set = departures.lookup(&index);
	struct tap_departure *way;
	bool live, locked;

	if (!set)
		return frame->copies + 1;
	locked = tap_lock(&set->lock);
	/* The count is valid for as long as the frame that it was created for is kept. */
	TAP_FIND(set, key, now, ~0U, way, live);
	if (!live || way->created != frame->created) {
		if (!live && way->count)
			tap_evict_departure(way);
		way->key = key;
		way->created = frame->created;
		way->frame = TAP_FRAME_KEY(frame->key) | slot;
		/* If a count may have been lost: as many departures as copies. */
		way->count = frame->lost ? frame->copies : 0;
	}
	way->used = now;
	count = ++way->count;
	tap_unlock(&set->lock, locked);
	return count;
}

/* Whether the hook copies the @count-th departure of the frame. */
static __always_inline bool tap_exceeds(struct tap_frame *frame, u32 count, u32 now)
{
	if ((s32)(count - frame->copies) <= 0)
		return false;
	frame->copies = count;
	frame->raced = now;
	return true;
}

/* Whether this hook is to copy the packet to @rule's group. */
static __always_inline bool tap_should_copy(const struct tap_rule *rule,
					    const struct tap_packet *packet)
{
	struct tap_digest digest = packet->digest;
	u32 index, now, slot, count;
	bool live, locked, copy;
	struct tap_frames *set;
	struct tap_frame *way;
	u64 key;

	if (packet->unknown)
		return true;
	TAP_DIGEST_NUMBER(&digest, TAP_NUMBER_GROUP, rule->group);
	key = tap_digest_key(&digest);
	index = key & (TAP_SETS - 1);
	set = frames.lookup(&index);
	if (!set)
		return true;
	now = bpf_jiffies64();
	locked = tap_lock(&set->lock);
	TAP_FIND(set, key, now, TAP_FORGET_TICKS, way, live);
	if (!live) {
		way->key = key;
		way->created = now;
		way->raced = now - TAP_RACE_TICKS - 1;
		way->arrived = 0;
		way->copies = 0;
		way->lost = 0;
	}
	way->used = now;
	TAP_DIGEST_NUMBER(&digest, TAP_NUMBER_HOOK, rule->hook);
	if (rule->flags & TAP_RULE_ARRIVAL) {
		copy = tap_count_arrival(way, tap_digest_key(&digest), now);
	} else {
		slot = index * TAP_WAYS + (set->choice & (TAP_WAYS - 1));
		count = tap_count_departure(tap_digest_key(&digest), way, slot, now);
		copy = tap_exceeds(way, count, now);
	}
	tap_unlock(&set->lock, locked);
	return copy;
}

#endif /* TAP_DEDUP_H */
