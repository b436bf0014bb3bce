/* SPDX-License-Identifier: GPL-2.0-only */
/* What programs return. */
#ifndef TAP_VERDICT_H
#define TAP_VERDICT_H

/* The packet goes on: TCX_NEXT, and TC_ACT_UNSPEC of a direct-action classifier */
#define TAP_NEXT	(-1)
/* TCX_DROP, and TC_ACT_SHOT */
#define TAP_DROP	2
/* Of a classifier whose filter has an action: whether that runs. */
#define TAP_MATCH	(-1)
#define TAP_NO_MATCH	0

#endif /* TAP_VERDICT_H */
