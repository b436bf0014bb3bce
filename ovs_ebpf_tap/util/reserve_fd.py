"""A file descriptor that is kept for when there are no others."""

from __future__ import annotations

import contextlib
import os


class ReserveFd:
    """Keeps one open from the first `keep` on, which can be lent to one that needs it to go on."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def keep(self) -> None:
        """Keeps one again, if there is one to be had."""
        if self._fd is None:
            with contextlib.suppress(OSError):
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def lend(self) -> None:
        """Gives it up: the next that is opened takes its place."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
