"""The fast sender behind `traffic.Flood`: one frame over and over, many of it with each call.

It sends until its standard input ends, and then prints how many it has sent.
"""

from __future__ import annotations

import errno
import socket
import sys
import time

from ovs_ebpf_tap.lab.frame_batch import FrameBatch
from ovs_ebpf_tap.lab.sender import STARTED, make_template, parse_options, told_to_stop

_BATCH = 64
_BATCHES = 16  # between two looks at standard input


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
    batch = FrameBatch(frame, _BATCH)
    print(STARTED, flush=True)
    sent = 0
    while not told_to_stop():
        for _ in range(_BATCHES):
            try:
                sent += batch.send(opened.fileno())
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # The device's queue is full.
                time.sleep(0.0001)
    return sent


if __name__ == "__main__":
    sys.exit(main())
