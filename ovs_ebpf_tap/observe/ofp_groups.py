"""A bridge's groups, as OFPMP_GROUP_DESC tells of them.

The formats are those of `ofputil_decode_group_desc_reply` in `lib/ofp-group.c`. What is malformed
raises ValueError or struct.error.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from ovs_ebpf_tap.model.flow import Actions, Group
from ovs_ebpf_tap.observe.ofp import OF15
from ovs_ebpf_tap.observe.ofp_pipeline import bucket_of

# Length, type, number; in OpenFlow 1.5 the bytes of all buckets.
_GROUP = Struct("!HBxI")
_GROUP_15 = Struct("!HBxIH6x")
_ALL = 0
"""The type of groups that do all of their buckets."""

# Length; in OpenFlow 1.5 the bytes of the actions, behind which there are properties.
_BUCKET = Struct("!H14x")
_BUCKET_15 = Struct("!HH4x")


def groups(version: int, content: bytes) -> Iterator[tuple[int, Group]]:
    """The number of each group, and what it does."""
    at = 0
    while at < len(content):
        if version == OF15:
            length, kind, number, size = _GROUP_15.unpack_from(content, at)
            start = at + _GROUP_15.size
            end = start + size
        else:
            length, kind, number = _GROUP.unpack_from(content, at)
            start, end = at + _GROUP.size, at + length
        at += length
        if not start <= end <= at <= len(content):
            raise ValueError("a group has a wrong length")
        buckets = tuple(_buckets(version, content[start:end]))
        yield number, Group(buckets, every=kind == _ALL)


def _buckets(version: int, content: bytes) -> Iterator[Actions]:
    at = 0
    while at < len(content):
        if version == OF15:
            length, size = _BUCKET_15.unpack_from(content, at)
            start = at + _BUCKET_15.size
            end = start + size
        else:
            (length,) = _BUCKET.unpack_from(content, at)
            start, end = at + _BUCKET.size, at + length
        at += length
        if not start <= end <= at <= len(content):
            raise ValueError("a bucket has a wrong length")
        yield bucket_of(content[start:end])
