"""Which frames are selected, by a mask and a value for a frame's key."""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import Self

from ovs_ebpf_tap import abi

_KEY = abi.layout("key")

_DL_ADDRESSES = slice(_KEY.places["dl_dst"].start, _KEY.places["dl_src"].stop)


@dataclass(frozen=True)
class Match:
    """Selects the frames whose key has `value` under `mask`; both are a `struct tap_key`."""

    mask: bytes
    value: bytes

    def pack(self) -> bytes:
        """As a `struct tap_match`."""
        return self.mask + self.value

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The reverse of `pack`."""
        half = len(data) // 2
        return cls(data[:half], data[half:])

    def both(self, other: Match) -> Match | None:
        """What both select; None if that is nothing."""
        pairs = zip(self.mask, self.value, other.mask, other.value, strict=True)
        if any((a ^ b) & m & n for m, a, n, b in pairs):
            return None
        return Match(_or(self.mask, other.mask), _or(self.value, other.value))

    def prefilter(self) -> dict[str, int]:
        """The members of a `struct tap_prefilter`: what the usual offsets of headers tell."""
        dl_mask = struct.unpack("=3I", self.mask[_DL_ADDRESSES])
        dl = struct.unpack("=3I", self.value[_DL_ADDRESSES])
        return {
            **{f"dl_mask_{n}": mask for n, mask in enumerate(dl_mask)},
            **{f"dl_{n}": value for n, value in enumerate(dl)},
            "dl_type": self._exactly("dl_type"),
            "nw_proto": self._exactly("nw_proto"),
            "nw_src_mask": self._mask_if_set("nw_src"),
            "nw_src": _native(self.value[_KEY.places["nw_src"]]),
            "nw_dst_mask": self._mask_if_set("nw_dst"),
            "nw_dst": _native(self.value[_KEY.places["nw_dst"]]),
            "tp_mask": _native(
                self._mask_if_set("tp_src").to_bytes(2, sys.byteorder)
                + self._mask_if_set("tp_dst").to_bytes(2, sys.byteorder)
            ),
            "tp": _native(self.value[_KEY.places["tp_src"]] + self.value[_KEY.places["tp_dst"]]),
        }

    def _exactly(self, member: str) -> int:
        """The value that the member has to have; 0 if it may have others, or is to be 0."""
        place = _KEY.places[member]
        return _native(self.value[place]) if set(self.mask[place]) == {0xFF} else 0

    def _mask_if_set(self, member: str) -> int:
        """The mask if the value is not 0: what is not parsed is 0 in a key."""
        place = _KEY.places[member]
        return _native(self.mask[place]) if any(self.value[place]) else 0

    @property
    def on_tags(self) -> bool:
        """Whether it depends on the frame's VLAN tag."""
        return any(self.mask[_KEY.places["vlan_tci"]]) or any(self.mask[_KEY.places["vlan_tpid"]])


ANY = Match(bytes(_KEY.size), bytes(_KEY.size))
"""Selects all frames."""


def _native(data: bytes) -> int:
    """The number that the programs read there."""
    return int.from_bytes(data, sys.byteorder)


def _or(one: bytes, other: bytes) -> bytes:
    return bytes(a | b for a, b in zip(one, other, strict=True))
