"""Text that others chose, made fit for one line."""


def printable(text: str) -> str:
    """The text with control characters and line ends spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
