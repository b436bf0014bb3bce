"""ethtool's requests: how a device's driver is set.

The only module that makes them: `include/uapi/linux/ethtool.h`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import socket
import struct
from pathlib import Path

_SIOCETHTOOL = 0x8946
_GET_DRIVER = 0x03
_GET_STRINGS = 0x1B
_GET_STRING_COUNTS = 0x37
_GET_FEATURES = 0x3A
_FEATURES = 4  # ETH_SS_FEATURES
_STRING = 32
_ACTIVE = 2
"""The place of the active ones, of the four words for each 32 features."""
_VALUE = struct.Struct("II")
_STRING_COUNT = struct.Struct("IIQI")
_STRINGS = struct.Struct("III")
_LOOPBACK = "lo"
_DRIVER = struct.Struct("I32s32s32s32s32s12sIIIII")
_IFREQ = struct.Struct("16sP16x")

_SYSFS = Path("/sys/class/net")


def _ask(device: str, request: bytes) -> bytes:
    """The answer to a request, of the same length. Raises OSError."""
    buffer = ctypes.create_string_buffer(request, len(request))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        fcntl.ioctl(
            opened, _SIOCETHTOOL, _IFREQ.pack(os.fsencode(device), ctypes.addressof(buffer))
        )
    return buffer.raw


def has_gro(device: str) -> bool:
    """Whether packets that arrive on the device may be joined to longer ones."""
    try:
        return "rx-gro" in features(device)
    except OSError:
        return False


def driver(device: str) -> str:
    """The name of the device's driver; empty if it has none to tell of."""
    empty = _DRIVER.pack(_GET_DRIVER, *[b""] * 6, *[0] * 5)
    try:
        return str(_DRIVER.unpack(_ask(device, empty))[1].rstrip(b"\0").decode(errors="replace"))
    except OSError:
        return ""


def takes_flows(device: str) -> bool:
    """Whether its hardware, or that of a device below it, may forward by TC's filters.

    Where that is not to be learned, it may.
    """
    there: list[str] = []
    with contextlib.suppress(FileNotFoundError):  # It is gone, or the sysfs of another namespace.
        there = os.listdir(_SYSFS / device)
    below = [name.removeprefix("lower_") for name in there if name.startswith("lower_")]
    try:
        return any("hw-tc-offload" in features(each) for each in (device, *below))
    except OSError:
        return True


def features(device: str) -> frozenset[str]:
    """The names of the device's active features, as `ethtool -k` has them but for its groups.

    Raises OSError.
    """
    names = _feature_names()
    blocks = -(-len(names) // 32)
    request = _VALUE.pack(_GET_FEATURES, blocks) + bytes(16 * blocks)
    words = struct.unpack_from(f"{4 * blocks}I", _ask(device, request), _VALUE.size)
    active = words[_ACTIVE::4]
    return frozenset(name for n, name in enumerate(names) if active[n // 32] >> n % 32 & 1)


@functools.cache
def _feature_names() -> tuple[str, ...]:
    """The names of the kernel's features, by number. Raises OSError."""
    counts = _STRING_COUNT.pack(_GET_STRING_COUNTS, 0, 1 << _FEATURES, 0)
    count = _STRING_COUNT.unpack(_ask(_LOOPBACK, counts))[-1]
    request = _STRINGS.pack(_GET_STRINGS, _FEATURES, count) + bytes(_STRING * count)
    names = _ask(_LOOPBACK, request)[_STRINGS.size :]
    places = range(0, len(names), _STRING)
    return tuple(names[at : at + _STRING].rstrip(b"\0").decode(errors="replace") for at in places)
