/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * bcc compiles inside a tree of kernel headers, which many hypervisors lack.
 * The programs need none of it: this folder holds the few files that bcc asks
 * for by name, and no more than it asks of them.
 */
#define CONFIG_BPF_SYSCALL 1
