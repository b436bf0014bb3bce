"""One switch with one sidecar for each kind of hook, for many cases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from parity.case_bridge import Bench


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A switch with a running sidecar; the parameter is the kind of hooks."""
    with Bench(request.param) as started:
        yield started
