"""Waiting for conditions, with longer limits on emulated machines."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from typing import TypeVar

import tenacity

T = TypeVar("T")

EMULATED = os.environ.get("OVS_EBPF_TAP_VM") == "1"
"""Whether this is a machine of `scripts/vm`."""

# Without hardware virtualisation, it runs about this much slower.
_EMULATED_FACTOR = 10.0


def patience(seconds: float) -> float:
    """How long to wait here for what takes at most `seconds` on a common machine."""
    return seconds * _EMULATED_FACTOR if EMULATED else seconds


def wait_for(
    condition: Callable[[], T],
    seconds: float = 10.0,
    what: str = "the condition",
    every: float = 0.01,
) -> T:
    """Call `condition` until it returns something true, and return that.

    Raises TimeoutError, naming `what`, after `patience(seconds)`.
    """
    try:
        return tenacity.Retrying(
            retry=tenacity.retry_if_result(operator.not_),
            wait=tenacity.wait_fixed(every),
            stop=tenacity.stop_after_delay(patience(seconds)),
        )(condition)
    except tenacity.RetryError:
        raise TimeoutError(f"{what} did not come about within {patience(seconds):g} s") from None
