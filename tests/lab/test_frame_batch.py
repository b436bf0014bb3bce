"""A batch of frames, sent over a socket pair."""

from __future__ import annotations

import socket

import pytest

from ovs_ebpf_tap.lab.frame_batch import FrameBatch


def test_each_frame_is_sent_each_time() -> None:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    batch = FrameBatch(b"frame", 3)
    with sender, receiver:
        assert [batch.send(sender.fileno()) for _ in range(2)] == [3, 3]
        assert [receiver.recv(9) for _ in range(6)] == [b"frame"] * 6


def test_an_error_is_raised_if_no_frame_is_taken() -> None:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.close()
    with sender, pytest.raises(ConnectionRefusedError):
        FrameBatch(b"frame", 3).send(sender.fileno())
