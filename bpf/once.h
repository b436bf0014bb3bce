/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Exactly once: several hooks that copy to one output see the same packet, and
 * nothing on the packet tells: the userspace datapath carries bytes only, and
 * a mark would be part of the flow key. So the hooks count.
 *
 * Take all frames of one content, in one VLAN, for one group of rules. Let `arrived` be how many of
 * them arrived at selected source ports, and departed(P) how many left through
 * the selected destination port P. A packet arrives once and leaves a port
 * once, so the number of packets is at least the largest of these counts, and
 * it is that largest count where every packet of the content takes the same
 * way, as a switch makes it do. Hence a hook copies a frame if, and only if,
 * its own count then exceeds the copies made so far. No order of events is
 * assumed: the userspace datapath can send a frame before the ingress hook of
 * its arrival has run.
 *
 * Counts are forgotten TAP_FORGET_MS after the last frame of their content, or
 * earlier if a table of TAP_SETS * TAP_WAYS contents is too small. A packet
 * that stays in the switch for longer is copied twice.
 */
#ifndef TAP_ONCE_H
#define TAP_ONCE_H

#define TAP_SETS 8192
#define TAP_WAYS 4
/* Times are kept in ticks of the kernel's: no clock is as cheap. */
#define TAP_FORGET	TAP_CONSTANT(TAP_CONSTANT_FORGET)
#define TAP_RACE	TAP_CONSTANT(TAP_CONSTANT_RACE)
/* Keeps a sender from choosing frames whose digests collide. */
#define TAP_SEED	((u64)TAP_CONSTANT(TAP_CONSTANT_SEED_HIGH) << 32 |	\
			 TAP_CONSTANT(TAP_CONSTANT_SEED_LOW))

#define TAP_DIGEST_LEN 64

/* What a hook knows of its packet. */
struct tap_packet {
	struct tap_tag tag;	/* outermost tag */
	u32 tagged;
	u32 tag_len;		/* of that tag, if it is in the frame: 4 */
	u32 vid;		/* the VLAN that the packet is in */
	u32 tunnel;		/* its tag is not the port's own, but its payload */
	u64 digest;
};

/* One content, for one group; times in ticks. */
struct tap_frame {
	u32 tag;
	u32 born;	/* tells a content from its forgotten former life */
	u32 used;	/* last frame seen */
	u32 raced;	/* last copy made on a departure */
	u32 arrived;
	u32 copies;
};

struct tap_frames {
	u32 lock;
	u32 choice;	/* of TAP_FIND */
	struct tap_frame way[TAP_WAYS];
};

/* One content, for one group, at one port that it leaves through. */
struct tap_departure {
	u32 tag;
	u32 born;	/* of the frame it counts */
	u32 used;
	u32 count;
};

struct tap_departures {
	u32 lock;
	u32 choice;	/* of TAP_FIND */
	struct tap_departure way[TAP_WAYS];
};

/* key: low bits of a digest; value: the contents that share them */
BPF_TABLE("array", u32, struct tap_frames, frames, TAP_SETS);
/* key: low bits of a digest mixed with the hook; value: likewise */
BPF_TABLE("array", u32, struct tap_departures, departures, TAP_SETS);

static __always_inline u64 tap_mix(u64 h, u64 word)
{
	h = (h ^ word) * 0x9e3779b97f4a7c15ULL;
	return h ^ (h >> 29);
}

/* The bits of bytes @at to @at + @n - 1 of a frame in the word that holds them. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define TAP_BYTES(at, n)	(~(~0ULL << 8 * (n)) << (at) % 8 * 8)
#else
#define TAP_BYTES(at, n)	(~(~0ULL << 8 * (n)) << (8 - (at) % 8 - (n)) * 8)
#endif
#define TAP_CLEAR(word, at, n)	((word)[(at) / 8] &= ~TAP_BYTES(at, n))

/*
 * Clears what the way through the switch may fill in or lose: the checksums that
 * a sender leaves to its device, and that an upcall completes, and the DEI bit of
 * a tag behind the port's own.
 */
static __always_inline void tap_forget(u64 *word)
{
	u8 *frame = (u8 *)word;
	u16 type = frame[12] << 8 | frame[13];

	if (type == ETH_P_IP && frame[14] == 0x45) {
		if (frame[23] == IPPROTO_TCP)
			TAP_CLEAR(word, 50, 2);
		else if (frame[23] == IPPROTO_UDP)
			TAP_CLEAR(word, 40, 2);
		else if (frame[23] == IPPROTO_SCTP)
			TAP_CLEAR(word, 42, 4);
	} else if (type == ETH_P_IPV6 && frame[20] == IPPROTO_UDP) {
		TAP_CLEAR(word, 60, 2);
	} else if (tap_is_vlan(type)) {
		frame[14] &= ~(VLAN_DEI_MASK >> 8);
	}
}

/* Fills the rest of the @frame's head, from @at on, with the bytes from @start on. */
static __always_inline void tap_load_head(struct __sk_buff *skb, u8 *frame, const u32 at, u32 start)
{
	u32 len = skb->len - start;

	if (len >= TAP_DIGEST_LEN - at)
		len = TAP_DIGEST_LEN - at;
	/*
	 * Changes no length there is, but tells the verifier that it is neither
	 * zero nor too long; the compiler would see that there is no need.
	 */
	asm volatile("" : "+r"(len));
	len = ((len - 1) & (TAP_DIGEST_LEN - 1)) + 1;
	bpf_skb_load_bytes(skb, start, frame + at, len);
}

/* Most frames: their head is at hand as it is. */
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

/* Without the tag of the port's own, and with what is payload to the bridge. */
static __always_inline bool tap_load(struct __sk_buff *skb, const struct tap_packet *packet,
				     u8 *frame)
{
	if (bpf_skb_load_bytes(skb, 0, frame, TAP_MACS_LEN))
		return false;
	if (packet->tunnel && packet->tagged) {
		frame[12] = packet->tag.tpid >> 8;
		frame[13] = packet->tag.tpid;
		frame[14] = packet->tag.tci >> 8;
		frame[15] = packet->tag.tci;
		tap_load_head(skb, frame, TAP_MACS_LEN + TAP_TAG_LEN,
			      TAP_MACS_LEN + packet->tag_len);
	} else {
		tap_load_head(skb, frame, TAP_MACS_LEN, TAP_MACS_LEN + packet->tag_len);
	}
	return true;
}

/*
 * Digest of the frame's head, its VLAN in the bridge, and its length; the same
 * whether its VLAN tag is in metadata, in the frame, or gone. It need not tell
 * any two frames apart: contents that share it are counted together, and the
 * counts still hold.
 */
static __always_inline u64 tap_digest(struct __sk_buff *skb, const struct tap_packet *packet)
{
	/* Longer than what is digested: room for the verifier's bound. */
	u64 word[TAP_DIGEST_LEN / 8 + 3] = {};
	u32 len = skb->len - packet->tag_len;
	u64 h;
	u32 i;

	if (packet->tunnel && packet->tagged)
		len += TAP_TAG_LEN;
	if (!tap_load_linear(skb, packet, word) && !tap_load(skb, packet, (u8 *)word))
		return 0;
	tap_forget(word);
	h = TAP_SEED ^ len ^ (u64)packet->vid << 32;
#pragma unroll
	for (i = 0; i < TAP_DIGEST_LEN / 8; i++)
		h = tap_mix(h, word[i]);
	return h;
}

/*
 * The compiler has no exchange. What it takes for an addition is made one before the programs are
 * loaded (with_exchanges() in ovs_ebpf_tap/template.py).
 */
static __always_inline u32 tap_exchange(u32 *where, u64 value)
{
	asm volatile("lock *(u32 *)(%1 + 0) += %0" : "+r"(value) : "r"(where) : "memory");
	return value;
}

/*
 * bpf_spin_lock() also disables interrupts, which takes longer than all else here
 * (52 ns of 60). There is no need: classifiers run with softirqs off, so nobody on
 * this CPU can want the lock that it holds. Who has waited for TAP_SPINS tries,
 * for a holder that was interrupted, goes on without: a count may then be off.
 */
#define TAP_SPINS 64

static __always_inline bool tap_lock(u32 *lock)
{
	u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < TAP_SPINS; i++) {
		if (!tap_exchange(lock, 1))
			return true;
	}
	return false;
}

static __always_inline void tap_unlock(u32 *lock, bool locked)
{
	if (locked)
		tap_exchange(lock, 0);
}

/* Ticks since @then, which another CPU may have noted after we took @now. */
static __always_inline u32 tap_age(u32 now, u32 then)
{
	u32 age = now - then;

	return age > -TAP_FORGET ? 0 : age;
}

/*
 * Finds the way of tag @want in @set, or else the one unused for longest, and
 * says in @live whether it holds that tag, and was used @within ticks.
 *
 * The choice goes through the set's own memory: the verifier then knows only
 * that it is some way, and follows one path from here on instead of one for
 * each way.
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
			if ((set)->way[__i].tag == (want) &&		\
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

/* Counts an arrival; returns whether it is to be copied. */
static __always_inline bool tap_arrive(struct tap_frame *frame, u32 now)
{
	frame->arrived++;
	if ((s32)(frame->arrived - frame->copies) > 0) {
		frame->copies = frame->arrived;
		return true;
	}
	if (tap_age(now, frame->raced) <= TAP_RACE)
		return false;
	/* The copies in advance were of other packets, from other ports. */
	frame->copies++;
	frame->arrived = frame->copies;
	return true;
}

/* Counts a departure through the hook; returns the count. */
static __always_inline u32 tap_depart(u64 key, u32 born, u32 now)
{
	u32 index = key & (TAP_SETS - 1), tag = key >> 32, count;
	struct tap_departures *set = departures.lookup(&index);
	struct tap_departure *way;
	bool live, locked;

	if (!set)
		return 1;
	locked = tap_lock(&set->lock);
	/* It counts for as long as the frame that it was born with is not forgotten. */
	TAP_FIND(set, tag, now, ~0U, way, live);
	if (!live || way->born != born) {
		way->tag = tag;
		way->born = born;
		way->count = 0;
	}
	way->used = now;
	count = ++way->count;
	tap_unlock(&set->lock, locked);
	return count;
}

/* Whether a departure, the hook's @count-th of the frame, is to be copied. */
static __always_inline bool tap_exceeds(struct tap_frame *frame, u32 count, u32 now)
{
	if ((s32)(count - frame->copies) <= 0)
		return false;
	frame->copies = count;
	frame->raced = now;
	return true;
}

/* Whether this hook is the one to copy the packet to @rule's group. */
static __always_inline bool tap_once(const struct tap_rule *rule, u64 digest)
{
	u64 key = tap_mix(digest, rule->group);
	u32 index = key & (TAP_SETS - 1), tag = key >> 32;
	struct tap_frames *set = frames.lookup(&index);
	u32 now = bpf_jiffies64();
	bool live, locked, copy;
	struct tap_frame *way;

	if (!set)
		return true;
	locked = tap_lock(&set->lock);
	TAP_FIND(set, tag, now, TAP_FORGET, way, live);
	if (!live) {
		way->tag = tag;
		way->born = now;
		way->raced = now - TAP_RACE - 1;
		way->arrived = 0;
		way->copies = 0;
	}
	way->used = now;
	if (rule->flags & TAP_RULE_ARRIVAL)
		copy = tap_arrive(way, now);
	else
		copy = tap_exceeds(way, tap_depart(tap_mix(key, rule->hook), way->born, now), now);
	tap_unlock(&set->lock, locked);
	return copy;
}

#endif /* TAP_ONCE_H */
