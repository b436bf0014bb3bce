"""The paced sender behind `traffic.Stream`: a program, so that it has an interpreter of its own.

It sends numbered frames through a device of its network namespace at a steady rate, until its
standard input ends or the count is reached, and then prints how many it has sent.
"""

from __future__ import annotations

import argparse
import errno
import select
import socket
import sys
import time

from ovs_ebpf_tap.lab.frames import Address, pack_seq, sequenced

_TICK = 0.001
# After a pause it catches up in steps, so as not to overrun anyone's queue.
_MOST_A_TICK = 256
STARTED = "started"


def main() -> int:
    """Send as the command line says; returns the exit status."""
    options = parse_options()
    frame, offset = make_template(options)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as opened:
        opened.bind((options.device, 0))
        sender = _StreamSender(opened, frame, offset, options.stream)
        _pace(sender, options.rate, options.count)
    print(sender.sent, flush=True)
    return 0


def parse_options() -> argparse.Namespace:
    """What to send, and how."""
    parser = argparse.ArgumentParser(prog="python -m ovs_ebpf_tap.lab.sender")
    parser.add_argument("--device", required=True)
    parser.add_argument("--source", required=True, type=_address, metavar="MAC,IP")
    parser.add_argument("--destination", required=True, type=_address, metavar="MAC,IP")
    parser.add_argument("--stream", required=True, type=int)
    parser.add_argument("--rate", required=True, type=float, help="frames a second; 0: no limit")
    parser.add_argument("--size", required=True, type=int, help="bytes a frame")
    parser.add_argument("--count", type=int, default=0, help="frames to send; 0: until stopped")
    parser.add_argument("--vlan", type=int, action="append", default=[])
    return parser.parse_args()


def _address(text: str) -> Address:
    return Address(*text.split(","))


def make_template(options: argparse.Namespace) -> tuple[bytearray, int]:
    """Frame 0 of the stream, and where in it its number is."""
    stream = options.stream
    frame = sequenced(
        options.source, options.destination, stream, 0, options.size, tags=options.vlan
    )
    return bytearray(frame), frame.index(pack_seq(stream, 0))


class _StreamSender:
    """Sends the next frames of a stream."""

    def __init__(self, opened: socket.socket, frame: bytearray, offset: int, stream: int) -> None:
        self.sent = 0
        self._socket = opened
        self._frame = frame
        self._offset = offset
        self._stream = stream

    def send(self, count: int) -> None:
        for _ in range(count):
            numbered = pack_seq(self._stream, self.sent)
            self._frame[self._offset : self._offset + len(numbered)] = numbered
            try:
                self._socket.send(self._frame)
            except OSError as error:
                # The device's queue is full; the frame is sent at the next tick.
                if error.errno != errno.ENOBUFS:
                    raise
                return
            self.sent += 1


def _pace(sender: _StreamSender, rate: float, count: int) -> None:
    """Send at `rate` until told to stop, or `count` are sent if that is not 0."""
    start = time.monotonic()
    print(STARTED, flush=True)
    while not told_to_stop() and not (count and sender.sent >= count):
        due = (time.monotonic() - start) * rate - sender.sent if rate else _MOST_A_TICK
        if count:
            due = min(due, count - sender.sent)
        sender.send(min(int(due), _MOST_A_TICK))
        if due < _MOST_A_TICK:
            time.sleep(_TICK)


def told_to_stop() -> bool:
    """Whether standard input has ended."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


if __name__ == "__main__":
    sys.exit(main())
