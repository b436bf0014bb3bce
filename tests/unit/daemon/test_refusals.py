"""What the kernel refused is planned without, and tried again."""

from __future__ import annotations

from errno import EBUSY, EMFILE
from uuid import UUID

import pytest

from ovs_ebpf_tap.daemon.refusals import Refusals

NOW = 1000.0
BUSY = OSError(EBUSY, "Device or resource busy")
MIRROR = UUID(int=1)


@pytest.fixture
def refusals() -> Refusals:
    return Refusals()


def test_what_is_refused_is_new_once(refusals: Refusals) -> None:
    assert not refusals
    assert not refusals.note({}, (), NOW)
    assert refusals.note({7: BUSY}, (), NOW)
    assert not refusals.note({7: BUSY}, (), NOW)
    assert refusals.note({7: BUSY, 8: BUSY}, (), NOW)
    assert refusals
    assert refusals.reasons == {
        7: "hook refused: Device or resource busy",
        8: "hook refused: Device or resource busy",
    }


@pytest.mark.parametrize(("error", "seconds"), [(BUSY, 5.0), (OSError(EMFILE, "too many"), 0.5)])
def test_a_hook_is_tried_again(refusals: Refusals, error: OSError, seconds: float) -> None:
    """Sooner where it is we who lacked something."""
    refusals.note({7: error}, (), NOW)
    refusals.expire(NOW + seconds - 0.1)
    assert refusals.reasons
    refusals.expire(NOW + seconds)
    assert not refusals


def test_a_mirror_without_a_slot_is_tried_again(refusals: Refusals) -> None:
    assert refusals.note({}, [MIRROR], NOW)
    assert not refusals.note({}, [MIRROR], NOW + 0.4)
    assert refusals.unplaced == {MIRROR}
    refusals.expire(NOW + 0.5)
    assert refusals.unplaced == frozenset()


def test_a_device_that_is_free_is_tried_again(refusals: Refusals) -> None:
    refusals.note({7: BUSY, 8: BUSY}, (), NOW)
    assert not refusals.forget({9})
    assert refusals.forget({7, 9})
    assert refusals.reasons.keys() == {8}
