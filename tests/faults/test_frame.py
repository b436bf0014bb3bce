"""No fault at all: what moves alone come to."""

from __future__ import annotations

import pytest

from faults.fault import Fault
from faults.testbed import Testbed
from ovs_ebpf_tap.lab.kernel import attachments


@pytest.mark.parametrize("bare_ground", attachments(), indirect=True)
def test_no_fault(ground: Testbed, fault: Fault) -> None:
    with fault(f"none: moved to Open vSwitch and back, {ground.attach}"):
        ground.tap.native("m")
        ground.tap.offload("m")
