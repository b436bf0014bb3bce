"""What is made of the kernel's notifications, which a socket pair stands in for."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EBADF, ENOBUFS
from typing import cast

import pytest

from ovs_ebpf_tap.model.desired import PRIORITY
from ovs_ebpf_tap.model.device import Departure, Device
from ovs_ebpf_tap.observe import links, tc
from ovs_ebpf_tap.observe.devices import Changes, DeviceMonitor

UP = 0x10001
INT = struct.Struct("=i")


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def link(ifindex: int, name: str, *more: bytes, kind: int = links.NEWLINK) -> bytes:
    head = struct.pack("=BxHiII", 0, 1, ifindex, UP, 0)
    return message(kind, head + attribute(3, name.encode() + b"\0") + b"".join(more))


def qdisc(ifindex: int, name: str, kind: int) -> bytes:
    head = struct.pack("=BxxxiIII", 0, ifindex, 0, tc.INGRESS_PARENT, 0)
    return message(kind, head + attribute(1, name.encode() + b"\0"))


def filter_gone(ifindex: int, priority: int) -> bytes:
    head = struct.pack("=BxxxiIII", 0, ifindex, 0, 0xFFFFFFF2, priority << 16)
    return message(tc.DELTFILTER, head)


@dataclass
class Notifier:
    """A monitor, and the kernel's end of its socket."""

    monitor: DeviceMonitor
    kernel: socket.socket

    def changes(self, *messages: bytes) -> Changes:
        for each in messages:
            self.kernel.send(each)
        return self.monitor.run()

    def names(self) -> dict[str, int]:
        return {name: each.ifindex for name, each in self.monitor.devices.items()}


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    """What there is when devices are listed."""
    devices = [Device(1, "lo", 65536, True, True)]
    monkeypatch.setattr(links, "list_devices", lambda: list(devices))
    monkeypatch.setattr(tc, "list_ingress_qdiscs", dict)
    return devices


@pytest.fixture
def notifier(listed: list[Device]) -> Iterator[Notifier]:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    monitor = DeviceMonitor(ours)
    monitor.refresh()
    with kernel:
        yield Notifier(monitor, kernel)
    ours.close()


def test_nothing_is_notified(notifier: Notifier) -> None:
    assert notifier.changes() == Changes()
    assert notifier.names() == {"lo": 1}


def test_a_device_comes_and_goes(notifier: Notifier) -> None:
    assert notifier.changes(link(7, "a")) == Changes(devices=True, appeared={7})
    assert notifier.changes(link(7, "a")) == Changes()
    assert notifier.monitor.is_up(7)
    assert notifier.changes(link(7, "a", kind=links.DELLINK)) == Changes(devices=True)
    assert notifier.names() == {"lo": 1}
    assert not notifier.monitor.is_up(7)


def test_a_device_leaves_by_all_its_names(notifier: Notifier) -> None:
    notifier.changes(link(7, "a"), link(7, "b"))
    where = attribute(45, INT.pack(2)), attribute(49, INT.pack(9))
    changes = notifier.changes(link(7, "b", *where, kind=links.DELLINK))
    assert changes.left == dict.fromkeys("ab", Departure(nsid=2, ifindex=9))


def test_what_others_remove(notifier: Notifier) -> None:
    for gone, hooks, freed in (
        (qdisc(7, "clsact", tc.DELQDISC), True, set()),
        (qdisc(7, "ingress", tc.DELQDISC), False, {7}),
        (qdisc(7, "ingress", tc.NEWQDISC), False, set()),
        (filter_gone(7, PRIORITY), True, set()),
        (filter_gone(7, 5), False, set()),
    ):
        changes = notifier.changes(gone)
        assert (changes.hooks, changes.freed) == (hooks, freed)


class LossySocket:
    """Says once that notifications were lost, before it gives what is left of them."""

    def __init__(self, opened: socket.socket) -> None:
        self._opened = opened
        self._errors = [ENOBUFS]

    def recv(self, size: int) -> bytes:
        if self._errors:
            raise OSError(self._errors.pop(), "error")
        return self._opened.recv(size)


def test_after_a_loss_all_is_read_anew(notifier: Notifier, listed: list[Device]) -> None:
    notifier.monitor._socket = cast(socket.socket, LossySocket(notifier.monitor._socket))
    listed.append(Device(8, "b", 0, True, True))
    changes = notifier.changes(link(7, "gone meanwhile"))
    assert changes == Changes(devices=True, hooks=True, appeared={8})
    assert notifier.names() == {"lo": 1, "b": 8}
    assert notifier.changes(link(8, "b")) == Changes()


def test_after_a_loss_it_is_tried_until_devices_are_listed(
    notifier: Notifier, listed: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    notifier.monitor._socket = cast(socket.socket, LossySocket(notifier.monitor._socket))

    def fail() -> list[Device]:
        raise OSError(ENOBUFS, "no room")

    with monkeypatch.context() as broken:
        broken.setattr(links, "list_devices", fail)
        with pytest.raises(OSError, match="no room"):
            notifier.changes()
    listed.append(Device(8, "b", 0, True, True))
    assert notifier.changes() == Changes(devices=True, hooks=True, appeared={8})


def test_other_errors_are_raised(notifier: Notifier) -> None:
    broken = LossySocket(notifier.monitor._socket)
    broken._errors = [EBADF]
    notifier.monitor._socket = cast(socket.socket, broken)
    with pytest.raises(OSError, match="error"):
        notifier.changes()
