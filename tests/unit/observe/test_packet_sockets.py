"""For how long Open vSwitch is waited for to empty its sockets."""

from __future__ import annotations

import pytest

from ovs_ebpf_tap.observe import packet_sockets
from ovs_ebpf_tap.observe.packet_sockets import SocketDrain

NOW = 100.0


class Sockets:
    """Bytes that wait on devices, by ifindex, and a clock."""

    def __init__(self, waiting: dict[int, int]) -> None:
        self.waiting = waiting
        self.now = NOW

    def finish(self, drain: SocketDrain, until: float = 10.0) -> float:
        """Seconds until it is done."""
        while not drain.done:
            assert self.now < NOW + until
            self.now = drain.wake
            drain.run()
        return self.now - NOW


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Sockets:
    made = Sockets({})
    monkeypatch.setattr(packet_sockets, "queued", lambda: dict(made.waiting))
    monkeypatch.setattr("time.monotonic", lambda: made.now)
    return made


def test_empty_sockets(sockets: Sockets) -> None:
    """Frames that were just taken out may still be under way."""
    sockets.waiting = {1: 0, 2: 0}
    assert sockets.finish(SocketDrain.begin([1, 2])) == pytest.approx(packet_sockets._IN_HAND)


def test_devices_without_a_socket_are_given_a_while(sockets: Sockets) -> None:
    sockets.waiting = {1: 0}
    assert sockets.finish(SocketDrain.begin([1, 2])) == pytest.approx(packet_sockets._UNKNOWN)


def test_a_socket_that_is_emptied(sockets: Sockets) -> None:
    sockets.waiting = {1: 5000, 2: 7}
    drain = SocketDrain.begin([1])
    for _ in range(5):
        sockets.now = drain.wake
        drain.run()
        assert not drain.done
    sockets.waiting = {1: 0, 2: 7}
    sockets.finish(drain)


def test_a_socket_that_nobody_empties(sockets: Sockets) -> None:
    sockets.waiting = {1: 5000}
    seconds = sockets.finish(SocketDrain.begin([1]))
    assert seconds == pytest.approx(packet_sockets._LIMIT, abs=0.02)


def test_it_is_not_looked_before_it_is_time(sockets: Sockets) -> None:
    sockets.waiting = {1: 0}
    drain = SocketDrain.begin([1])
    drain.run()
    assert not drain.done
