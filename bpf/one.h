/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The programs of hooks that have one thing to do: one rule, or one edit of the
 * copies that arrive. Each is loaded for its hook alone, with that in the place
 * of its constants: the sidecar puts it there (ovs_ebpf_tap/template.py), and the
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
	/* Filters take more than a program of this kind has room for; runs are for several. */
	rule->match = 0;
	rule->run = 0;
}

static __always_inline void tap_fill_port(struct tap_port *port)
{
	port->mode = TAP_OF_PORT(mode);
	port->tag = TAP_OF_PORT(tag);
	port->admitted = TAP_OF_PORT(admitted);
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
		skb->tc_index = TAP_COPY | edit;
	return fits;
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

	if (!(shape & TAP_SHAPE_ACTION) && skb->tc_index & TAP_COPY)
		return tap_arrived(skb);
	tap_fill_rule(&rule);
	tap_fill_port(&port);
	packet.tagged = tap_outer_tag(skb, &packet.tag, &packet.tag_len);
	if (!tap_enter(&port, &packet) || packet.vid == TAP_PARKED_VLAN ||
	    !tap_selects(skb, &rule, &packet, 0))
		return done;
	edit = tap_needs_edit(&rule, &packet) ? rule.edit : 0;
	/* An action's copy has its mark from the original, where somebody else's may be. */
	if ((edit && rule.flags & TAP_RULE_EDIT_HERE) ||
	    (shape & TAP_SHAPE_ACTION && skb->tc_index)) {
		tap_start(skb, first, shape);
		return done;
	}
	if (rule.flags & TAP_RULE_ONCE && !tap_once(&rule, tap_digest(skb, &packet)))
		return done;
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

/* Changes copies that have come to their output device, as tap_finish does. */
int tap_out(struct __sk_buff *skb)
{
	struct tap_work work;
	struct tap_edit edit;

	if (!(skb->tc_index & TAP_COPY))
		return TAP_NEXT;
	if (skb->tc_index != (TAP_COPY | TAP_CONSTANT(TAP_CONSTANT_FIRST)))
		return tap_arrived(skb);
	skb->tc_index = 0;
	tap_fill_edit(&edit);
	tap_work_out(skb, &edit, &work);
	return tap_change_tags(skb, &work.change) ? tap_trim(skb, &edit) : TAP_DROP;
}

/* Runs behind the action: the copy has its mark, and the original keeps none. */
int tap_unmark(struct __sk_buff *skb)
{
	if (skb->tc_index & TAP_COPY)
		skb->tc_index = 0;
	return TAP_NEXT;
}

#endif /* TAP_ONE_H */
