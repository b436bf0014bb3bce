"""What the compiler makes of the sources, for any kernel: the programs' code, and their maps."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf.bpf import MapLayout

# Programs that others go on with, and their places in the map of these.
NEXT = {
    "tap_rules": abi.constant("NEXT_RULES"),
    "tap_key": abi.constant("NEXT_EXTRACT"),
    "tap_finish": abi.constant("NEXT_FINISH"),
}
XDP = "tap_shorten"
"""The one that is no classifier."""

PROGRAMS = ("tap_ingress", "tap_egress", "tap_unmark", "tap_deliver", XDP, *NEXT)
# What is loaded for each hook anew, and the place of its template.
TEMPLATES = {
    "tap_one": abi.constant("TEMPLATE_ONE"),
    "tap_out": abi.constant("TEMPLATE_OUT"),
}
MAPS = (
    "ingress",
    "egress",
    "rules",
    "ports",
    "edits",
    "vlans",
    "matches",
    "next",
    "counters",
    "mirrors",
    "qdiscs",
    "frames",
    "departures",
    "scratch",
    "cutter",
    "templates",
)

LATER = frozenset({"tap_deliver", XDP, "cutter"})
"""What the pins of earlier versions lack, that an upgrade takes over."""


@dataclass(frozen=True)
class Object:
    """Maps by name, in the order of MAPS; code names a map by its place in that order."""

    maps: Mapping[str, MapLayout]
    codes: Mapping[str, bytes]

    def to_json(self) -> str:
        """As text, to be kept."""
        maps = {name: asdict(each) for name, each in self.maps.items()}
        codes = {name: base64.b64encode(code).decode() for name, code in self.codes.items()}
        return json.dumps({"maps": maps, "codes": codes})

    @classmethod
    def from_json(cls, text: str) -> Object:
        """What was kept. Raises ValueError if it is not whole."""
        try:
            read = json.loads(text)
            found = cls(
                maps={name: MapLayout(**read["maps"][name]) for name in MAPS},
                codes={
                    name: base64.b64decode(read["codes"][name], validate=True)
                    for name in (*PROGRAMS, *TEMPLATES)
                },
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"an object lacks {error}") from None
        return found
