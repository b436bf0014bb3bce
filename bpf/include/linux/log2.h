/* SPDX-License-Identifier: GPL-2.0-only */
/* Asked for by bcc; the programs need nothing of it. */
