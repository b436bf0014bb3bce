"""Text made fit to be read: foreign text on one line, and tables."""

import re
from collections.abc import Container, Iterable, Sequence

LONGEST = 400
"""Characters; the middle of what is longer is left out."""


def printable(text: str) -> str:
    """The text with control characters and line ends spelled out, and not too long to be read."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def unescaped(path: str) -> str:
    """A path out of `/proc/self/mounts` or `mountinfo`: spaces and the like are octal there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def align(rows: Iterable[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """A line for each row, its columns padded to equal width and two spaces apart.

    All rows have as many cells. Columns are aligned to the left, but for those whose index is in
    `right`; spaces at a line's end are dropped.
    """
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
