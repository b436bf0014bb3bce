"""Named points in the code, at which a test can act: it kills the process there.

A probe does nothing unless a handler was added; only tests add one. Each name is at one or more
places, where it tells what has just been done or is about to be done.
"""

from __future__ import annotations

from collections.abc import Callable

handlers: list[Callable[[str, object], None]] = []
"""Called for each point that is reached, with its name and subject."""


def probe(point: str, subject: object = None) -> None:
    """Tells the handlers that the code has reached a point; `subject` is what is done there."""
    for handler in handlers:
        handler(point, subject)
