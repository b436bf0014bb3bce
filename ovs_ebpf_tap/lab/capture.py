"""Frames that pass a device, recorded exactly: as on the wire, in order, none lost unnoticed."""

from __future__ import annotations

import enum
import errno
import os
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from ovs_ebpf_tap.lab.frames import parse_seq
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.waiting import patience, wait_for

# Of <linux/if_packet.h> and <asm-generic/socket.h>; the socket module lacks them.
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_AUXDATA = 8
_PACKET_IGNORE_OUTGOING = 23
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_ETH_P_ALL = 3
_TP_STATUS_VLAN_VALID = 1 << 4
_TP_STATUS_VLAN_TPID_VALID = 1 << 6

_AUXDATA = struct.Struct("=IIIHHHH")
_TIMESPEC = struct.Struct("=qq")
_STATISTICS = struct.Struct("=II")
_LONGEST_FRAME = 1 << 17
_ANCILLARY_SPACE = socket.CMSG_SPACE(_AUXDATA.size) + socket.CMSG_SPACE(_TIMESPEC.size)
_CAPTURE_BUFFER = 256 << 20


class CapturePoint(Protocol):
    """A device in a namespace: a lab Host, for one."""

    @property
    def ns(self) -> Netns:
        """The namespace."""

    @property
    def device(self) -> str:
        """The device's name there."""


class Direction(enum.Enum):
    """Which frames of a device: those it receives, those sent through it, or all."""

    IN = "in"
    OUT = "out"
    BOTH = "both"


@dataclass(frozen=True)
class Record:
    """A captured frame, as on the wire, and the kernel's CLOCK_REALTIME in ns when it passed."""

    time_ns: int
    frame: bytes
    outgoing: bool


class CaptureLossError(AssertionError):
    """The capture itself lost frames, so that its records prove nothing."""


class Capture:
    """Records the frames of one device while the with-block runs; what it has stays readable.

    It sees arriving frames before a TC ingress program does, and leaving ones after TC egress.
    `only` leaves out the frames that it is false for.
    """

    def __init__(
        self,
        ns: Netns,
        device: str,
        direction: Direction = Direction.IN,
        only: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._ns = ns
        self._device = device
        self._direction = direction
        self._only = only
        self._records: list[Record] = []
        self._lost = 0
        self._last_seen = 0.0
        self._failure: Exception | None = None
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._wake = -1

    @classmethod
    def of(
        cls,
        where: CapturePoint,
        direction: Direction = Direction.IN,
        only: Callable[[bytes], bool] | None = None,
    ) -> Capture:
        """A capture on a host's own device."""
        return cls(where.ns, where.device, direction, only)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.stop()
        except CaptureLossError:
            if error is None:
                raise

    def start(self) -> None:
        """Record from here on; OSError if there is no such device."""
        opened = self._ns.socket(socket.AF_PACKET, socket.SOCK_RAW)
        try:
            self._prepare(opened)
        except BaseException:
            opened.close()
            raise
        self._socket = opened
        self._wake = os.eventfd(0)
        self._last_seen = time.monotonic()
        self._thread = threading.Thread(
            target=self._drain, args=(opened,), name=f"capture-{self._device}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Take what has arrived by now and end; idempotent. Raises CaptureLossError."""
        if self._thread is None or self._socket is None:
            return
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._thread = None
        os.close(self._wake)
        self._count_lost(self._socket)
        self._socket.close()
        self._socket = None
        self._check()

    def records(self) -> list[Record]:
        """What was captured so far, in order. Raises CaptureLossError."""
        if self._socket is not None:
            self._count_lost(self._socket)
        self._check()
        return list(self._records)

    def frames(self) -> list[bytes]:
        """The frames captured so far, in order. Raises CaptureLossError."""
        return [record.frame for record in self.records()]

    def multiset(self) -> Counter[bytes]:
        """How often each frame was captured so far. Raises CaptureLossError."""
        return Counter(self.frames())

    def sequences(self, stream: int) -> list[int]:
        """The numbers of the stream's frames captured so far, in order. Raises CaptureLossError."""
        parsed = (parse_seq(frame) for frame in self.frames())
        return [found[1] for found in parsed if found is not None and found[0] == stream]

    def clear(self) -> None:
        """Forget what was captured so far."""
        self._records.clear()

    def wait_count(self, count: int, seconds: float = 10.0) -> None:
        """Wait until at least `count` frames are there. Raises TimeoutError, CaptureLossError."""
        what = f"capture of {count} frames on {self._device}"
        try:
            wait_for(lambda: self._failure or len(self._records) >= count, seconds, what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {len(self._records)} were seen") from None
        self.records()

    def wait_quiet(self, idle: float = 0.2, seconds: float = 30.0) -> None:
        """Wait until nothing was captured for `patience(idle)` seconds.

        Raises TimeoutError, CaptureLossError.
        """

        def quiet() -> bool:
            return time.monotonic() - self._last_seen >= patience(idle) and not self._waiting()

        self._last_seen = max(self._last_seen, time.monotonic())
        wait_for(lambda: self._failure or quiet(), seconds, f"quiet on {self._device}")
        self.records()

    def _prepare(self, opened: socket.socket) -> None:
        opened.setblocking(False)
        # The kernel doubles the figure for its own overhead.
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _CAPTURE_BUFFER)
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        opened.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        if self._direction is Direction.IN:
            opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        # Bound last: until then it has no protocol and receives nothing, from no device.
        opened.bind((self._device, _ETH_P_ALL))

    def _drain(self, opened: socket.socket) -> None:
        poll = select.poll()
        poll.register(opened, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        try:
            stopping = False
            while not stopping:
                stopping = any(fd == self._wake for fd, _ in poll.poll())
                self._take_all(opened)
        except Exception as error:  # Kept for whoever reads the capture.
            self._failure = error

    def _take_all(self, opened: socket.socket) -> None:
        while True:
            try:
                frame, ancillary, flags, address = opened.recvmsg(_LONGEST_FRAME, _ANCILLARY_SPACE)
            except BlockingIOError:
                return
            except OSError as error:
                # Told once when the device goes down or away; frames from before are still queued.
                if error.errno not in (errno.ENETDOWN, errno.ENODEV):
                    raise
                continue
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise CaptureLossError(f"a frame on {self._device} was cut")
            self._add(frame, ancillary, address[2] == socket.PACKET_OUTGOING)

    def _add(self, frame: bytes, ancillary: list[tuple[int, int, bytes]], outgoing: bool) -> None:
        wanted = Direction.OUT if outgoing else Direction.IN
        if self._direction not in (wanted, Direction.BOTH):
            return
        record = _record(frame, ancillary, outgoing)
        if self._only is None or self._only(record.frame):
            self._records.append(record)
            self._last_seen = time.monotonic()

    def _waiting(self) -> bool:
        """Whether the kernel holds frames that the thread has not taken."""
        poll = select.poll()
        poll.register(self._socket or -1, select.POLLIN)
        return self._socket is not None and bool(poll.poll(0))

    def _count_lost(self, opened: socket.socket) -> None:
        counters = opened.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        self._lost += _STATISTICS.unpack(counters)[1]  # Reading sets them back to 0.

    def _check(self) -> None:
        if self._failure is not None:
            raise CaptureLossError(f"capture on {self._device} failed") from self._failure
        if self._lost:
            raise CaptureLossError(f"capture on {self._device} lost {self._lost} frames")


def _record(frame: bytes, ancillary: list[tuple[int, int, bytes]], outgoing: bool) -> Record:
    time_ns = 0
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            frame = _put_back_tag(frame, data)
        elif (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            time_ns = seconds * 1_000_000_000 + nanoseconds
    return Record(time_ns, frame, outgoing)


def _put_back_tag(frame: bytes, auxdata: bytes) -> bytes:
    """The frame with the outer VLAN tag that the kernel keeps beside it."""
    status, *_, tci, tpid = _AUXDATA.unpack(auxdata)
    if not status & _TP_STATUS_VLAN_VALID:
        return frame
    if not status & _TP_STATUS_VLAN_TPID_VALID:
        tpid = 0x8100
    return frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
