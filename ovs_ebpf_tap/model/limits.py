"""How much there may be of mirrors and rules."""

from __future__ import annotations

from ovs_ebpf_tap import abi

MAX_MIRRORS = abi.constant("MAX_MIRRORS")
"""Mirrors that are offloaded on a host, or that share ports with each other."""

MAX_RULES = abi.constant("MAX_RULES")
"""Rules on a host; ports that mirrors select, in all, that share ports with each other."""

MAX_RULES_PER_HOOK = abi.constant("MAX_RULES_PER_HOOK")

MAX_GENEVE_OPTIONS = abi.constant("MAX_OPTIONS")
"""Kinds of Geneve options that programs can know of a bridge."""

MAX_NATIVE_MIRRORS = 32
"""Mirrors that OVS takes on a bridge: MAX_MIRRORS in `ofproto/ofproto-dpif-mirror.h`."""
