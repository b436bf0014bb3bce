"""What versions of Open vSwitch do differently, told from `ovs_version` of the Open_vSwitch row.

ovs-ctl writes it, not ovs-vswitchd: it may be missing. Development versions, `x.y.90`, may be from
before or after a change: those are as unknown as a version that is no version.
"""

from __future__ import annotations

import re

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", re.ASCII)
_DEVELOPMENT = 90

_Branch = tuple[int, int]

# Commit "ofproto-dpif-upcall: Mirror packets that are modified.": the first release of each
# branch that got it later than with its first one.
_MODIFIED: dict[_Branch, int] = {(2, 17): 8, (3, 0): 5, (3, 1): 3}
_MODIFIED_SINCE: _Branch = (3, 2)

# Commit "ofproto-dpif-upcall: Fix redundant mirror on metadata modification.", likewise.
_METADATA_FIXED: dict[_Branch, int] = {(3, 1): 6, (3, 2): 4, (3, 3): 3, (3, 4): 1}
_METADATA_FIXED_SINCE: _Branch = (3, 5)


def parse_version(text: str | None) -> tuple[int, int, int] | None:
    """`3.1.0` as numbers that compare; None for what is not such a version."""
    match = _VERSION.fullmatch(text or "")
    if match is None:
        return None
    major, minor, patch = (int(number) for number in match.groups())
    return major, minor, patch


def mirrors_modified_packets(version: str | None) -> bool | None:
    """Whether a packet that a flow modified counts as new, and is copied to an output again.

    None if that is not known. See `reset_mirror_ctx` in `ofproto/ofproto-dpif-xlate.c`.
    """
    return _has(version, _MODIFIED, _MODIFIED_SINCE)


def mirrors_after_metadata(version: str | None) -> bool | None:
    """Whether a packet counts as new, too, when a flow only loads a register or other metadata.

    None if that is not known.
    """
    if mirrors_modified_packets(version) is not True:
        return mirrors_modified_packets(version)
    fixed = _has(version, _METADATA_FIXED, _METADATA_FIXED_SINCE)
    return None if fixed is None else not fixed


def _has(version: str | None, first: dict[_Branch, int], since: _Branch) -> bool | None:
    """Whether a version has what came with these releases of branches, and with `since`."""
    parsed = parse_version(version)
    if parsed is None:
        return None
    *_, patch = parsed
    branch = parsed[:2]
    if branch >= since:
        return True
    if patch >= _DEVELOPMENT and branch >= min(first):
        return None
    return branch in first and patch >= first[branch]
