from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ovs_ebpf_tap.lab.netns import reap
from ovs_ebpf_tap.lab.switch import Switch


@pytest.fixture(scope="session", autouse=True)
def clean_slate() -> None:
    if os.geteuid() == 0:
        reap()


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as running:
        running.add_bridge()
        yield running
