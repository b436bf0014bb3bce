"""What a frame takes to be sent through a device, in CPU time of the sender's thread."""

from __future__ import annotations

import socket
import statistics
import time
from typing import Self

from ovs_ebpf_tap.lab.frame_batch import FrameBatch
from ovs_ebpf_tap.lab.netns import Netns

BATCH = 256
"""Frames a system call."""


class BatchSender:
    """Sends the same frame again and again."""

    def __init__(self, opened: socket.socket, frame: bytes) -> None:
        self._socket = opened
        self._frames = FrameBatch(frame, BATCH)

    @classmethod
    def open(cls, ns: Netns, device: str, frame: bytes) -> Self:
        """On a device in a namespace."""
        opened = ns.socket(socket.AF_PACKET, socket.SOCK_RAW)
        opened.bind((device, 0))
        return cls(opened, frame)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def cost(self, batches: int) -> float:
        """CPU time in ns a frame, median of batches. Raises OSError if frames are not taken."""
        return statistics.median(self._batch() for _ in range(batches)) / BATCH

    def _batch(self) -> int:
        began = time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID)
        if self._frames.send(self._socket.fileno()) != BATCH:
            raise OSError(0, "not all frames were sent")
        return time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID) - began
