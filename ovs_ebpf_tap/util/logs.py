"""Logs: one line an event on stderr, in the format that is asked for."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

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


LOGFMT, JSON, CONSOLE = FORMATS = ("logfmt", "json", "console")

_FIRST = ("timestamp", "level", "event")


def configure(chosen: str = LOGFMT) -> None:
    """Sends structlog's events to stderr, in one of FORMATS."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _made_printable,
            _renderer(chosen),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )


def _renderer(chosen: str) -> Processor:
    if chosen == JSON:
        return structlog.processors.JSONRenderer(serializer=_as_json)
    if chosen == CONSOLE:
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.processors.LogfmtRenderer(key_order=_FIRST, drop_missing=True)


def _as_json(event: EventDict, **options: Any) -> str:
    """With the same keys first as in the other formats."""
    first = {key: event[key] for key in _FIRST if key in event}
    return json.dumps({**first, **event}, **options)


def _made_printable(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Names, and what peers send, are others' text."""
    return {
        key: printable(value) if isinstance(value, str) else value for key, value in event.items()
    }
