"""The fast sender behind `traffic.Flood`: one frame over and over, many of it with each call.

It sends until its standard input ends, and then prints how many it has sent.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
import time

from ovs_ebpf_tap.lab.sender import STARTED, make_template, parse_options, told_to_stop

_BATCH = 64
_BATCHES = 16  # between two looks at standard input

_libc = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """`struct mmsghdr`, with the `struct msghdr` that it begins with."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


def main() -> int:
    """Send as the command line says; returns the exit status."""
    options = parse_options()
    frame, _ = make_template(options)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as opened:
        opened.bind((options.device, 0))
        print(_flood(opened, bytes(frame)), flush=True)
    return 0


def _flood(opened: socket.socket, frame: bytes) -> int:
    """Send the frame until told to stop; returns how often."""
    buffer = ctypes.create_string_buffer(frame, len(frame))
    vector = _Vector(ctypes.addressof(buffer), len(frame))
    messages = (_Message * _BATCH)()
    for message in messages:
        message.vectors = ctypes.pointer(vector)
        message.vector_count = 1
    print(STARTED, flush=True)
    sent = 0
    while not told_to_stop():
        for _ in range(_BATCHES):
            done = _libc.sendmmsg(opened.fileno(), messages, _BATCH, 0)
            if done > 0:
                sent += done
                continue
            error = ctypes.get_errno()
            if error != errno.ENOBUFS:
                raise OSError(error, os.strerror(error))
            # The device's queue is full.
            time.sleep(0.0001)
    return sent


if __name__ == "__main__":
    sys.exit(main())
