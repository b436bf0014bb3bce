/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The programs of hooks that have one thing to do: one rule, or one edit of the
 * copies that arrive. Each is loaded for its hook alone, with that in the place
 * of its constants: the sidecar puts it there (ovs_ebpf_tap/ebpf/template.py), and the
 * verifier removes what it leaves no way to. So a plain mirror's hook looks
 * nothing up but its counters.
 */
#ifndef TAP_ONE_H
#define TAP_ONE_H

#define TAP_OF_RULE(member)						\
	TAP_CONSTANT(TAP_CONSTANT_RULE + __builtin_offsetof(struct tap_rule, member) / 4)
#define TAP_OF_PORT(member)						\
	TAP_CONSTANT(TAP_CONSTANT_PORT + __builtin_offsetof(struct tap_port, member) / 4)
#define TAP_OF_EDIT(member)						\
	TAP_CONSTANT(TAP_CONSTANT_EDIT + __builtin_offsetof(struct tap_edit, member) / 4)

#define TAP_OF_GLANCE(member)						\
	TAP_CONSTANT(TAP_CONSTANT_GLANCE + __builtin_offsetof(struct tap_glance, member) / 4)

static __always_inline void tap_fill_rule(struct tap_rule *rule)
{
	rule->hook = TAP_OF_RULE(hook);
	rule->output = TAP_OF_RULE(output);
	rule->group = TAP_OF_RULE(group);
	rule->flags = TAP_OF_RULE(flags);
	rule->max_len = TAP_OF_RULE(max_len);
	rule->slot = TAP_OF_RULE(slot);
	rule->vlans = TAP_OF_RULE(vlans);
	rule->edit = TAP_OF_RULE(edit);
	/* Not looked up here: see tap_glance_misses(). */
	rule->match = 0;
	/* For several rules. */
	rule->run = 0;
}

static __always_inline void tap_fill_port(struct tap_port *port)
{
	port->mode = TAP_OF_PORT(mode);
	port->tag = TAP_OF_PORT(tag);
	port->admitted = TAP_OF_PORT(admitted);
	port->max_len = TAP_OF_PORT(max_len);
}

static __always_inline bool tap_has_ports(u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

/* Whether an IP protocol or ports, @at bytes into the frame, are none that the match selects. */
static __always_inline bool tap_transport_misses(const u8 *data, u8 proto, u32 at, bool ports)
{
	if (TAP_OF_GLANCE(nw_proto) && proto != TAP_OF_GLANCE(nw_proto))
		return true;
	return TAP_OF_GLANCE(tp_mask) && ports && tap_has_ports(proto) &&
	       (*(u32 *)(data + at) ^ TAP_OF_GLANCE(tp)) & TAP_OF_GLANCE(tp_mask);
}

static __always_inline bool tap_ip_misses(const u8 *data)
{
	return (*(u32 *)(data + 26) ^ TAP_OF_GLANCE(nw_src)) & TAP_OF_GLANCE(nw_src_mask) ||
	       (*(u32 *)(data + 30) ^ TAP_OF_GLANCE(nw_dst)) & TAP_OF_GLANCE(nw_dst_mask) ||
	       tap_transport_misses(data, data[23], 34, data[14] == 0x45);
}

static __always_inline bool tap_dl_misses(const u32 *data)
{
	return (data[0] ^ TAP_OF_GLANCE(dl_0)) & TAP_OF_GLANCE(dl_mask_0) ||
	       (data[1] ^ TAP_OF_GLANCE(dl_1)) & TAP_OF_GLANCE(dl_mask_1) ||
	       (data[2] ^ TAP_OF_GLANCE(dl_2)) & TAP_OF_GLANCE(dl_mask_2);
}

/*
 * Whether a look at where most packets have their headers shows that the match does
 * not select this one. What is left takes the whole key to tell.
 */
static __always_inline bool tap_glance_misses(struct __sk_buff *skb)
{
	const u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u32 type;

	if (data + 38 > end)
		return false;
	if (tap_dl_misses((u32 *)data))
		return true;
	type = *(u16 *)(data + 12);
	if (!TAP_OF_GLANCE(dl_type) || tap_is_vlan(bpf_ntohs(type)) ||
	    bpf_ntohs(type) < ETH_P_802_3_MIN)
		return false;
	if (type != TAP_OF_GLANCE(dl_type))
		return true;
	if (type == bpf_htons(ETH_P_IP))
		return tap_ip_misses(data);
	return type == bpf_htons(ETH_P_IPV6) && data + 58 <= end && !tap_is_ip6_ext(data[20]) &&
	       tap_transport_misses(data, data[20], 54, true);
}

/*
 * Leaves the copy to the filter's action, which clones without touching the
 * original's head; returns whether it is to be made.
 */
static __always_inline bool tap_leave(struct __sk_buff *skb, const struct tap_rule *rule, u32 edit)
{
	u32 len = skb->len + (skb->vlan_present ? TAP_TAG_LEN : 0);
	bool fits = edit || tap_fits(skb, rule->max_len, rule->flags);

	tap_account(rule, len, fits);
	if (edit || rule->flags & TAP_RULE_TO_HOOK)
		tap_mark(skb, edit);
	return fits;
}

static __always_inline bool tap_is_untagged(struct __sk_buff *skb)
{
	return !skb->vlan_present && !tap_is_vlan(tap_type(skb));
}

/*
 * Most packets of most hooks. There is nothing to find out, and what is kept in
 * registers here is not moved to the stack and back.
 */
static __always_inline int tap_copy_plain(struct __sk_buff *skb, u32 shape)
{
	u32 len = skb->len, slot = TAP_OF_RULE(slot), flags = TAP_OF_RULE(flags);
	u32 edit = TAP_CONSTANT(TAP_CONSTANT_PLAIN) == TAP_PLAIN_EDIT ? TAP_OF_RULE(edit) : 0;
	bool marked = edit || flags & TAP_RULE_TO_HOOK;
	bool fits = edit || len <= TAP_OF_RULE(max_len) || skb->gso_size;
	bool copied = fits;

	if (TAP_OF_PORT(max_len) && len > TAP_OF_PORT(max_len))
		return tap_done(shape);
	if (fits && marked)
		tap_mark(skb, edit);
	if (fits && !(shape & TAP_SHAPE_ACTION)) {
		copied = !bpf_clone_redirect(skb, TAP_OF_RULE(output),
					     flags & TAP_RULE_TO_INGRESS ? BPF_F_INGRESS : 0);
		if (marked)
			tap_unset_mark(skb);
	}
	tap_count(slot, flags, len, copied);
	return fits && shape & TAP_SHAPE_ACTION ? TAP_MATCH : tap_done(shape);
}

/*
 * As a classifier whose action copies, it returns whether that is to run; else it
 * copies by itself, and returns TAP_NEXT. What is changed before it is copied is
 * left to tap_rules: few packets need it, and every hook's program would be long.
 */
int tap_one(struct __sk_buff *skb)
{
	u32 first = TAP_CONSTANT(TAP_CONSTANT_FIRST), shape = TAP_CONSTANT(TAP_CONSTANT_SHAPE);
	int done = tap_done(shape);
	struct tap_packet packet;
	struct tap_rule rule;
	struct tap_port port;
	u32 edit;

	if (!(shape & (TAP_SHAPE_ACTION | TAP_SHAPE_ARRIVAL)) && tap_is_copy(skb))
		return tap_arrived(skb);
	if (TAP_CONSTANT(TAP_CONSTANT_PLAIN) && tap_is_untagged(skb))
		return TAP_CONSTANT(TAP_CONSTANT_PLAIN) == TAP_PLAIN_NONE ?
		       done : tap_copy_plain(skb, shape);
	tap_fill_rule(&rule);
	tap_fill_port(&port);
	packet.tagged = tap_outer_tag(skb, &packet.tag, &packet.tag_len);
	if (!tap_enter(skb, &port, &packet) || packet.vid == TAP_PARKED_VLAN ||
	    !tap_selects(skb, &rule, &packet, 0))
		return done;
	if (TAP_OF_RULE(match)) {
		if (!tap_glance_misses(skb))
			tap_start(skb, first, shape);
		return done;
	}
	edit = tap_needs_edit(&rule, &packet) ? rule.edit : 0;
	if (edit && rule.flags & TAP_RULE_EDIT_HERE) {
		tap_start(skb, first, shape);
		return done;
	}
	if (rule.flags & TAP_RULE_ONCE) {
		if (!tap_digest_common(skb, &packet)) {
			tap_start(skb, first, shape);
			return done;
		}
		if (!tap_once(&rule, &packet))
			return done;
	}
	if (shape & TAP_SHAPE_ACTION)
		return tap_leave(skb, &rule, edit) ? TAP_MATCH : done;
	tap_copy(skb, &rule, edit);
	return done;
}

static __always_inline void tap_fill_edit(struct tap_edit *edit)
{
	edit->in_mode = TAP_OF_EDIT(in_mode);
	edit->in_tag = TAP_OF_EDIT(in_tag);
	edit->in_tpid = TAP_OF_EDIT(in_tpid);
	edit->set_vid = TAP_OF_EDIT(set_vid);
	edit->out_mode = TAP_OF_EDIT(out_mode);
	edit->out_tag = TAP_OF_EDIT(out_tag);
	edit->priority = TAP_OF_EDIT(priority);
	edit->limit = TAP_OF_EDIT(limit);
	edit->snaplen = TAP_OF_EDIT(snaplen);
	edit->max_len = TAP_OF_EDIT(max_len);
	edit->flags = TAP_OF_EDIT(flags);
}

/* Most copies of most mirrors that change them. The tag is in the metadata, the length stays. */
static __always_inline int tap_out_plain(struct __sk_buff *skb)
{
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), TAP_CONSTANT(TAP_CONSTANT_PUSH)))
		return TAP_DROP;
	return skb->len <= TAP_OF_EDIT(max_len) || skb->gso_size ? TAP_NEXT : TAP_DROP;
}

/* Changes copies that have come to their output device, as tap_finish does. */
int tap_out(struct __sk_buff *skb)
{
	struct tap_work work;
	struct tap_edit edit;

	if (!tap_is_copy(skb))
		return TAP_NEXT;
	if (skb->cb[TAP_CB_EDIT] != TAP_CONSTANT(TAP_CONSTANT_FIRST))
		return tap_arrived(skb);
	tap_unset_mark(skb);
	if (TAP_CONSTANT(TAP_CONSTANT_PUSH) && tap_is_untagged(skb))
		return tap_out_plain(skb);
	tap_fill_edit(&edit);
	tap_work_out(skb, &edit, &work);
	return tap_change_tags(skb, &work.change) ? tap_trim(skb, &edit) : TAP_DROP;
}

/* Runs behind the action: the copy has its mark, and the original keeps none. */
int tap_unmark(struct __sk_buff *skb)
{
	if (tap_is_copy(skb))
		tap_unset_mark(skb);
	return TAP_NEXT;
}

#endif /* TAP_ONE_H */
