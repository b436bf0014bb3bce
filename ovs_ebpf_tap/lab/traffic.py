"""Frames and connections into the lab: one by one, at a rate, by iperf3 and by ping."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import ovs_ebpf_tap
from ovs_ebpf_tap.lab.capture import Capture, CapturePoint, Direction
from ovs_ebpf_tap.lab.frames import Station
from ovs_ebpf_tap.lab.netns import CommandError, Netns
from ovs_ebpf_tap.lab.waiting import patience, wait_for

__all__ = [
    "AddressedAttachment",
    "Capture",
    "Direction",
    "Flood",
    "Stream",
    "Throughput",
    "iperf",
    "ping",
    "round_trips",
    "send",
    "tcp_load",
]

_IPERF_PORT = 5201
_TCP_LISTEN = "0A"
_TOOK = re.compile(r" time=([0-9.]+) ms")


class AddressedAttachment(CapturePoint, Station, Protocol):
    """A device that has addresses too."""


def send(where: CapturePoint, frames: Iterable[bytes]) -> int:
    """Send each frame through a device once, in order, as a program on that host would.

    Returns how many. OSError if the device refuses one, e.g. as longer than its MTU.
    """
    sent = 0
    with open_sender(where.ns, where.device) as opened:
        for frame in frames:
            _send_one(opened, frame)
            sent += 1
    return sent


@contextlib.contextmanager
def open_sender(ns: Netns, device: str) -> Iterator[socket.socket]:
    """A socket to send frames through a device with; it receives nothing."""
    # Protocol 0, and no PACKET_QDISC_BYPASS, which would also pass by TC egress.
    with ns.socket(socket.AF_PACKET, socket.SOCK_RAW) as opened:
        opened.bind((device, 0))
        yield opened


def _send_one(opened: socket.socket, frame: bytes) -> None:
    deadline = time.monotonic() + patience(5)
    while True:
        try:
            opened.send(frame)
            return
        except OSError as error:
            # The device's queue is full and the frame was not taken.
            if error.errno != errno.ENOBUFS or time.monotonic() > deadline:
                raise
        time.sleep(0.001)


class Stream:
    """Numbered frames at a steady rate, from a process of its own.

    `rate` is in frames a second (0: as many as it can), `size` in bytes a frame; `stream_id`
    (below 65536) marks them for `parse_seq`, numbers start at 0. `count` ends it early.
    A machine too slow for `rate` sends fewer, so compare with what `stop` returns.
    """

    _program = "ovs_ebpf_tap.lab.sender"

    def __init__(
        self,
        source: AddressedAttachment,
        destination: Station,
        rate: float = 10_000,
        size: int = 64,
        stream_id: int = 1,
        vlans: Iterable[int] = (),
        count: int = 0,
    ) -> None:
        self.stream_id = stream_id
        self.sent = 0
        self._source = source
        self._options = {
            "device": source.device,
            "source": f"{source.mac},{source.ip}",
            "destination": f"{destination.mac},{destination.ip}",
            "stream": stream_id,
            "rate": rate,
            "size": size,
            "count": count,
        }
        self._vlans = tuple(vlans)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.stop()
        else:
            self.kill()

    def start(self) -> None:
        """Start sending; returns when it sends. CommandError if it can't."""
        options = [f"--{name}={value}" for name, value in self._options.items()]
        options += [f"--vlan={vlan}" for vlan in self._vlans]
        self._process = self._source.ns.popen(
            sys.executable,
            "-m",
            self._program,
            *options,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONPATH": _python_path()},
        )
        if not _read_line(self._process):
            self.stop()

    def stop(self) -> int:
        """End it, and return how many frames it has sent. Again does nothing.

        Raises CommandError if the sender failed.
        """
        return self._finish(patience(30))

    def wait(self, seconds: float = 60.0) -> int:
        """Let it send its `count`, then as `stop`; subprocess.TimeoutExpired when that is late."""
        if self._process is not None:
            self._process.wait(patience(seconds))
        return self.stop()

    def kill(self) -> None:
        """End it without asking for figures."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _finish(self, timeout: float) -> int:
        process, self._process = self._process, None
        if process is None:
            return self.sent
        try:
            # Closes its standard input, which is what it waits for.
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if process.returncode != 0:
            argv = [str(word) for word in process.args]  # type: ignore[union-attr]
            raise CommandError(
                subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)
            )
        self.sent = int(stdout)
        return self.sent


class Flood(Stream):
    """One frame of `size` bytes over and over, as fast as the kernel takes it."""

    _program = "ovs_ebpf_tap.lab.flood"

    def __init__(self, source: AddressedAttachment, destination: Station, size: int) -> None:
        super().__init__(source, destination, rate=0, size=size)


@dataclass(frozen=True)
class Throughput:
    """What an iperf3 run told: bits a second that arrived, and the packets (UDP) or segments."""

    bits_per_second: float
    retransmits: int
    packets: int
    lost_packets: int


def iperf(
    client: AddressedAttachment,
    server: AddressedAttachment,
    protocol: str = "tcp",
    seconds: int = 3,
    bandwidth: str = "0",
    length: int | None = None,
) -> Throughput:
    """Run iperf3 from `client` to `server`.

    `protocol` is "tcp" or "udp", `bandwidth` as iperf3's -b ("10M"; "0": no limit), `length` its
    bytes a datagram or write. Raises CommandError, TimeoutError.
    """
    options = ["-b", bandwidth, "-t", str(seconds)]
    options += ["-u"] if protocol == "udp" else []
    options += [] if length is None else ["-l", str(length)]
    with _iperf_server(server):
        done = client.ns.run("iperf3", "-c", server.ip, "-J", *options, timeout=seconds + 20)
    return _throughput(json.loads(done.stdout)["end"])


@contextlib.contextmanager
def tcp_load(client: AddressedAttachment, server: AddressedAttachment) -> Iterator[None]:
    """A TCP connection that iperf3 sends through from `client` to `server`, for the block's time.

    Raises TimeoutError.
    """
    quiet = subprocess.DEVNULL
    with _iperf_server(server):
        command = ("iperf3", "-c", server.ip, "-t", "86400")
        sending = client.ns.popen(*command, stdout=quiet, stderr=quiet)
        try:
            yield
        finally:
            sending.kill()
            sending.wait()


@contextlib.contextmanager
def _iperf_server(server: AddressedAttachment) -> Iterator[None]:
    """An iperf3 that serves one connection."""
    quiet = subprocess.DEVNULL
    command = ("iperf3", "-s", "-1", "-B", server.ip)
    listening = server.ns.popen(*command, stdout=quiet, stderr=quiet)
    try:
        wait_for(lambda: _listens(listening, _IPERF_PORT), what="the iperf3 server")
        yield
    finally:
        listening.kill()
        listening.wait()


def ping(source: CapturePoint, destination: Station, count: int = 3, wait: float = 1.0) -> int:
    """Ping, at 20 a second, and return the number of replies; `wait` is in seconds, for the last.

    No reply is no error.
    """
    options = ("-c", str(count), "-i", "0.05", "-W", f"{patience(wait):g}", "-q")
    done = source.ns.run("ping", *options, destination.ip, check=False, timeout=count + wait + 10)
    for line in done.stdout.splitlines():
        if "received" in line:
            return int(line.split(",")[1].split()[0])
    raise CommandError(done)


def round_trips(
    source: CapturePoint, destination: Station, count: int, interval: float
) -> list[float]:
    """Ping every so many seconds; returns how long each reply took, in seconds."""
    options = ("-c", str(count), "-i", f"{interval:g}", "-W", f"{patience(1):g}")
    done = source.ns.run(
        "ping", *options, destination.ip, check=False, timeout=count * interval + 10
    )
    return [float(took) / 1000 for took in _TOOK.findall(done.stdout)]


def _python_path() -> str:
    """Where another interpreter finds this package, installed or not."""
    package = Path(ovs_ebpf_tap.__path__[0]).parent
    return os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))


def _read_line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline() if process.stdout is not None else ""


def _listens(server: subprocess.Popen[str], port: int) -> bool:
    """Whether a TCP socket listens at `port` in the server's namespace."""
    if server.poll() is not None:
        raise RuntimeError(f"the server at port {port} ended with status {server.returncode}")
    sockets = [
        line.split() for line in Path(f"/proc/{server.pid}/net/tcp").read_text().splitlines()
    ]
    return any(s[1].endswith(f":{port:04X}") and s[3] == _TCP_LISTEN for s in sockets)


def _throughput(end: dict[str, dict[str, float]]) -> Throughput:
    received = end.get("sum_received") or end["sum"]
    datagrams = end.get("sum", {})
    return Throughput(
        bits_per_second=received["bits_per_second"],
        retransmits=int(end.get("sum_sent", {}).get("retransmits", 0)),
        packets=int(datagrams.get("packets", 0)),
        lost_packets=int(datagrams.get("lost_packets", 0)),
    )
