"""Faults of our own: others go on, and the log has the traceback, once for each."""

from __future__ import annotations

import traceback

import structlog

TEXT = "internal error: {error}; see the log"

_KEPT = 64
"""Faults that are remembered."""

_seen: set[tuple[object, ...]] = set()

log = structlog.get_logger()


def reason(where: str, error: Exception) -> str:
    """What went wrong, in a line for people; `where` is for the log."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    fault = (type(error), *((frame.filename, frame.lineno) for frame in last))
    if fault not in _seen:
        if len(_seen) >= _KEPT:
            _seen.clear()
        _seen.add(fault)
        log.error("internal error", where=where, error=repr(error))
        for line in "".join(traceback.format_exception(error)).splitlines():
            log.error("traceback", line=line)
    return TEXT.format(error=f"{type(error).__name__}: {error}")
