"""Which notifications are received."""

from __future__ import annotations

from ovs_ebpf_tap.model.desired import PRIORITIES
from ovs_ebpf_tap.observe.notifications import MOST_DEVICES, program


def test_programs_fit_the_kernel() -> None:
    """4096 instructions of 8 bytes."""
    assert len(program(range(1, MOST_DEVICES + 1), PRIORITIES)) <= 4096 * 8
    assert len(program(range(1, MOST_DEVICES + 2), PRIORITIES)) < 50 * 8
