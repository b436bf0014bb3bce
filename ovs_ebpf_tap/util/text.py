"""Text that others chose, made fit for one line."""

import re

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
