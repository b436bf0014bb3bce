"""A tap device as a virtual machine has it: a program writes and reads its frames."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable

from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.waiting import patience, wait_for

# Of <linux/if_tun.h>.
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFREQ = struct.Struct("16sH22x")
_LONGEST_FRAME = 1 << 17


class TapDevice(Resource):
    """A tap device in namespace `ns`; what it is sent is read at once, and kept."""

    def __init__(self, ns: Netns, name: str, mac: str, ip: str, queue: int) -> None:
        self.ns = ns
        self.name = self.device = self.port = name
        self.mac = mac
        self.ip = ip
        self._queue = queue
        self._frames: list[bytes] = []
        self._last_seen = 0.0
        self._descriptor = self._wake = -1
        self._thread = threading.Thread(target=self._read_all, name=f"tap-{name}", daemon=True)

    def open(self) -> None:
        """Create the device."""
        self._descriptor = self.ns.call(lambda: os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
        self._wake = os.eventfd(0)
        try:
            request = _IFREQ.pack(self.device.encode(), _IFF_TAP | _IFF_NO_PI)
            fcntl.ioctl(self._descriptor, _TUNSETIFF, request)
            setting = ("txqueuelen", str(self._queue), "up")
            self.ns.run("ip", "link", "set", self.device, *setting)
        except BaseException:
            self._close_descriptors()
            raise
        self._thread.start()

    def close(self) -> None:
        """Remove the device. Closing again does nothing."""
        if self._descriptor >= 0:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._close_descriptors()

    def send(self, frames: Iterable[bytes]) -> int:
        """Have the machine send each frame once, in order; returns how many."""
        sent = 0
        for frame in frames:
            os.write(self._descriptor, frame)
            sent += 1
        return sent

    def frames(self) -> list[bytes]:
        """The frames that the machine has received, in order."""
        return list(self._frames)

    def multiset(self) -> Counter[bytes]:
        """How often the machine has received each frame."""
        return Counter(self._frames)

    def clear(self) -> None:
        """Forget what was received so far."""
        self._frames.clear()

    def wait_count(self, count: int, seconds: float = 10.0) -> None:
        """Wait until at least `count` frames are there. Raises TimeoutError."""
        what = f"reception of {count} frames on {self.device}"
        wait_for(lambda: len(self._frames) >= count, seconds, what)

    def wait_quiet(self, idle: float = 0.2, seconds: float = 30.0) -> None:
        """Wait until nothing was received for `patience(idle)`. Raises TimeoutError."""
        self._last_seen = max(self._last_seen, time.monotonic())
        wait_for(
            lambda: time.monotonic() - self._last_seen >= patience(idle),
            seconds,
            f"quiet on {self.device}",
        )

    def _read_all(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while all(fd != self._wake for fd, _ in poll.poll()):
            try:
                self._frames.append(os.read(self._descriptor, _LONGEST_FRAME))
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    return  # The device was removed.
                continue
            self._last_seen = time.monotonic()

    def _close_descriptors(self) -> None:
        os.close(self._descriptor)
        os.close(self._wake)
        self._descriptor = self._wake = -1
