/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Constants that the sidecar binds before it loads a program
 * (ovs_ebpf_tap/ebpf/template.py). Each is a member of a struct of tap.h.
 */
#ifndef TAP_CONSTANTS_H
#define TAP_CONSTANTS_H

#include "tap.h"

/*
 * A 64-bit load, which the compiler cannot see through: TAP_CONSTANT_MARK in the
 * upper half, and in the lower one the struct's TAP_CONSTANT_* and the offset in it.
 */
#define TAP_CONSTANT_64(number, offset)						\
	({									\
		u64 __value;							\
		asm("%0 = %1 ll"						\
		    : "=r"(__value)						\
		    : "i"((u64)TAP_CONSTANT_MARK << 32 | (number) << 16 | (offset)));	\
		__value;							\
	})
#define TAP_CONSTANT(number, type, member)					\
	((u32)TAP_CONSTANT_64(number, __builtin_offsetof(struct type, member)))

#define TAP_COPY_TAG								\
	TAP_CONSTANT_64(TAP_CONSTANT_GLOBAL, __builtin_offsetof(struct tap_global, copy_tag))
#define TAP_SECRET(n)								\
	TAP_CONSTANT_64(TAP_CONSTANT_GLOBAL,					\
			__builtin_offsetof(struct tap_global, secret) + 8 * (n))
#define TAP_FORGET_TICKS	TAP_CONSTANT(TAP_CONSTANT_GLOBAL, tap_global, forget_ticks)
#define TAP_RACE_TICKS		TAP_CONSTANT(TAP_CONSTANT_GLOBAL, tap_global, race_ticks)

#define TAP_OF_HOOK(member)	TAP_CONSTANT(TAP_CONSTANT_HOOK, tap_hook, member)
#define TAP_OF_RULE(member)	TAP_CONSTANT(TAP_CONSTANT_RULE, tap_rule, member)
#define TAP_OF_PORT(member)	TAP_CONSTANT(TAP_CONSTANT_PORT, tap_port, member)
#define TAP_OF_REWRITE(member)	TAP_CONSTANT(TAP_CONSTANT_REWRITE, tap_rewrite, member)
#define TAP_OF_SHORTCUT(member)	TAP_CONSTANT(TAP_CONSTANT_SHORTCUT, tap_shortcut, member)
#define TAP_OF_PREFILTER(member) TAP_CONSTANT(TAP_CONSTANT_PREFILTER, tap_prefilter, member)

#endif /* TAP_CONSTANTS_H */
