"""The one kind of error an operator is told of in one line."""


class TapError(Exception):
    """What went wrong and what to do about it, in one line without a traceback."""
