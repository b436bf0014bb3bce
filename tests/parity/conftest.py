"""One switch with one sidecar for each kind of hook, for many cases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.ovs_daemons import NEWER_OVS
from parity.case_bridge import ParityBench


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Iterator[ParityBench]:
    """A switch with a running sidecar; the parameter is the kind of hooks."""
    with ParityBench(request.param) as started:
        yield started


@pytest.fixture(scope="session")
def newer_bench() -> Iterator[ParityBench]:
    """A newer Open vSwitch than the machine's with a running sidecar."""
    with ParityBench(attachments()[0], NEWER_OVS) as started:
        yield started
