"""One switch with one sidecar for each kind of hook, for many cases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from parity.case_bridge import ParityBench


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Iterator[ParityBench]:
    """A switch with a running sidecar; the parameter is the kind of hooks."""
    with ParityBench(request.param) as started:
        yield started
