"""What the demonstration prints."""

from __future__ import annotations

import shlex


def heading(text: str) -> None:
    """Begin a part of the demonstration."""
    print(f"\n== {text}", flush=True)


def say(text: str) -> None:
    """Show lines, indented."""
    print("\n".join(f"   {line}".rstrip() for line in text.splitlines()), flush=True)


def say_command(*argv: str) -> None:
    """Show a command; a line for each part of an ovs-vsctl command that has several."""
    parts: list[list[str]] = [[]]
    for word in argv:
        if word == "--":
            parts.append([])
        parts[-1].append(word)
    say("$ " + " \\\n    ".join(map(shlex.join, parts)))
