"""What a lab opens and has to close again, also when a test fails."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Resource(ABC):
    """Open within a with-block."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def open(self) -> None:
        """Make it."""

    @abstractmethod
    def close(self) -> None:
        """Remove it; idempotent."""
