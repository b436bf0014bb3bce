"""The spare file descriptor."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest

from ovs_ebpf_tap.util.reserve_fd import ReserveFd


@pytest.fixture
def spare() -> Iterator[ReserveFd]:
    """Of a process that can open no more."""
    kept = ReserveFd()
    kept.keep()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    yield kept
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    kept.lend()


def can_open() -> bool:
    try:
        os.close(os.dup(0))
    except OSError:
        return False
    return True


def test_it_is_there_when_there_are_no_others(spare: ReserveFd) -> None:
    assert not can_open()
    spare.lend()
    spare.lend()
    assert can_open()
    spare.keep()
    spare.keep()
    assert not can_open()


def test_there_may_be_none_to_keep_again(spare: ReserveFd) -> None:
    spare.lend()
    taken = os.dup(0)
    spare.keep()
    os.close(taken)
    assert can_open()
    spare.keep()
    assert not can_open()
