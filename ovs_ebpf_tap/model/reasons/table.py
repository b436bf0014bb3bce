"""README's table of the mirrors that are not offloaded.

`python -m ovs_ebpf_tap.model.reasons.table` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter
from types import ModuleType

from ovs_ebpf_tap.model.desired import INVALID
from ovs_ebpf_tap.model.reasons import packet_reasons, port_reasons, row_reasons
from ovs_ebpf_tap.model.reasons.reason import Reason

_MODULES = (row_reasons, port_reasons, packet_reasons)
_HEAD = ("Reason", "Why", "What to change")


def all_reasons() -> dict[str, Reason]:
    """Every reason, by name, in the order of the modules."""
    return {name: each for module in _MODULES for name, each in _reasons_of(module)}


def _reasons_of(module: ModuleType) -> Iterator[tuple[str, Reason]]:
    return ((name, each) for name, each in vars(module).items() if isinstance(each, Reason))


def render() -> str:
    """The table, in Markdown: a line for each reason, those for `invalid` mirrors first."""
    reasons = sorted(all_reasons().values(), key=lambda reason: reason.state != INVALID)
    lines = [_HEAD, ("---",) * len(_HEAD)]
    lines += [(f"`{_readable(each.template)}`", each.why, each.change) for each in reasons]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _readable(template: str) -> str:
    """The text with names in capitals in the place of the braces."""
    return "".join(
        literal + (name.upper() if name is not None else "")
        for literal, name, _, _ in Formatter().parse(template)
    )


if __name__ == "__main__":
    print(render(), end="")
