"""Logs: one line an event on stderr, `key=value` behind the event's name."""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from ovs_ebpf_tap.util.text import printable


class _Stderr:
    """Standard error, which may be a file on a full disk, or a pipe whose reader is gone.

    What can't be written then is lost, and no reason to copy no more.
    """

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure() -> None:
    """Sends structlog's events to stderr."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _made_printable,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "event"], drop_missing=True
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )


def _made_printable(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Names, and what peers send, are others' text."""
    return {
        key: printable(value) if isinstance(value, str) else value for key, value in event.items()
    }
