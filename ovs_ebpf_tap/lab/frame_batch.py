"""Many frames with one system call: sendmmsg(2), which Python's `socket` lacks."""

from __future__ import annotations

import ctypes
import mmap
import os

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    """`struct msghdr`."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    """`struct mmsghdr`."""

    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint32))


class FrameBatch:
    """One frame, to be sent `count` times with each call."""

    def __init__(self, frame: bytes, count: int) -> None:
        # The time to copy a frame depends on its offset in the page: here it is always 0.
        self._frame = mmap.mmap(-1, len(frame))
        self._frame.write(frame)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._frame))
        self._iovec = _Iovec(address, len(frame))
        self._messages = (_Mmsghdr * count)()
        for message in self._messages:
            message.header.iov, message.header.iov_length = ctypes.pointer(self._iovec), 1

    def send(self, descriptor: int) -> int:
        """Sends them through a socket; returns how many it took. Raises OSError if none."""
        taken = int(_libc.sendmmsg(descriptor, self._messages, len(self._messages), 0))
        if taken < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return taken
