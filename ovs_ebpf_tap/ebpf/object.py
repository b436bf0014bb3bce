"""What the compiler makes of the sources, for any kernel: the programs' code, and their maps."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf.bpf import MapLayout

# Programs that others tail-call, and their indexes in the map of these.
NEXT = {
    "tap_rules": abi.constant("NEXT_RULES"),
    "tap_extract_key": abi.constant("NEXT_EXTRACT"),
    "tap_finish": abi.constant("NEXT_FINISH"),
    "tap_tunnel": abi.constant("NEXT_TUNNEL"),
}
XDP = "tap_shorten"
"""The one that is no classifier."""

PROGRAMS = ("tap_ingress", "tap_egress", "tap_untag", "tap_deliver", XDP, *NEXT)
# What is loaded for each hook anew, and the index of its template.
TEMPLATES = {
    "tap_specialized": abi.constant("TEMPLATE_SPECIALIZED"),
    "tap_output": abi.constant("TEMPLATE_OUTPUT"),
}
MAPS = (
    "ingress",
    "egress",
    "tunnels",
    "rules",
    "ports",
    "rewrites",
    "vlans",
    "matches",
    "options",
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

COPY_TAG = "copy_tag"
"""The map with the copy tag, which no program reads."""

LATER = frozenset({"tap_deliver", XDP, "cutter", "tap_tunnel", "tunnels", "options"})
"""What the pins of earlier versions lack, that an upgrade takes over."""

FORMER = {
    "tap_untag": "tap_unmark",
    "tap_extract_key": "tap_key",
    "rewrites": "edits",
    COPY_TAG: "mark",
}
"""What earlier versions pin under another name, until ABI 2."""

PROGRAM_NAMES = frozenset({*PROGRAMS, *TEMPLATES, "tap_one", "tap_out"})
"""Names of programs that hooks may have, those of earlier versions included."""


@dataclass(frozen=True)
class Object:
    """Maps by name, in the order of MAPS; code names a map by its index in that order."""

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
