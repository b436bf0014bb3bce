"""ethtool's requests: how a device's driver is set.

The only module that makes them: `include/uapi/linux/ethtool.h`.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_GET_DRIVER = 0x03
_GET_GRO = 0x2B
_VALUE = struct.Struct("II")
_DRIVER = struct.Struct("I32s32s32s32s32s12sIIIII")
_IFREQ = struct.Struct("16sP16x")


def _ask(device: str, request: bytes) -> bytes:
    """The answer to a request, of the same length. Raises OSError."""
    buffer = ctypes.create_string_buffer(request, len(request))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        fcntl.ioctl(opened, _SIOCETHTOOL, _IFREQ.pack(device.encode(), ctypes.addressof(buffer)))
    return buffer.raw


def has_gro(device: str) -> bool:
    """Whether packets that arrive on the device may be joined to longer ones."""
    try:
        return bool(_VALUE.unpack(_ask(device, _VALUE.pack(_GET_GRO, 0)))[1])
    except OSError:
        return False


def driver(device: str) -> str:
    """The name of the device's driver; empty if it has none to tell of."""
    empty = _DRIVER.pack(_GET_DRIVER, *[b""] * 6, *[0] * 5)
    try:
        return str(_DRIVER.unpack(_ask(device, empty))[1].rstrip(b"\0").decode())
    except OSError:
        return ""
