"""Logs: one line an event on stderr, `key=value` behind the event's name."""

from __future__ import annotations

import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

from ovs_ebpf_tap.text import printable


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _made_printable(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Names, and what peers send, are others' text."""
    return {
        key: printable(value) if isinstance(value, str) else value for key, value in event.items()
    }
