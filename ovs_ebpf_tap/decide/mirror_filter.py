"""`Mirror.filter`: the text of an exact-match flow, as a mask and a value for a frame's key.

Open vSwitch 3.4 and later: `parse_ofp_exact_flow` in `lib/ofp-flow.c`, with the grammar of
`ofputil_parse_key_value` in `lib/ofp-parse.c` and the fields of `lib/meta-flow.c`
(`mf_are_prereqs_ok`, `mf_is_set`, `mf_parse_value`, `mf_set_flow_value`). What these functions
take, and refuse, is what counts here, also where it is odd: fields are set in the order of the
text, so prerequisites have to come first, and `tp_dst` is the port of TCP alone.

What this takes, OVS takes. OVS takes more spellings of numbers, e.g. 300.0.0.1 for 44.0.0.1.
"""

from __future__ import annotations

from functools import lru_cache

from ovs_ebpf_tap.decide.filter_flow import FIELDS, IN_PORTS, PROTOCOLS, UNSUPPORTED, FilterFlow
from ovs_ebpf_tap.decide.filter_syntax import split_fields
from ovs_ebpf_tap.model.match import Match


class InvalidFilterError(ValueError):
    """Open vSwitch refuses the filter, and the mirror with it; the text says why."""


class UnsupportedFilterError(ValueError):
    """Open vSwitch may take the filter, but matches on more than frames; the text is the field."""


@lru_cache(1024)
def parse(text: str) -> Match:
    """The match that a filter stands for; without any field it selects every frame.

    Raises InvalidFilterError, or UnsupportedFilterError if all else in the filter is valid.
    """
    try:
        flow, unsupported = _read(text)
    except ValueError as error:
        raise InvalidFilterError(str(error)) from None
    if unsupported:
        raise UnsupportedFilterError(unsupported[0])
    return flow.match()


def _read(text: str) -> tuple[FilterFlow, list[str]]:
    """The flow of a filter, and the fields that are not of frames. ValueError: OVS refuses it."""
    flow = FilterFlow()
    unsupported = []
    for name, value in split_fields(text):
        if name in PROTOCOLS:
            flow.set_protocol(*PROTOCOLS[name])
        elif name in FIELDS:
            flow.set_field(name, FIELDS[name], value)
        elif name in IN_PORTS:
            raise ValueError(f"{name} is for select_src_port to say")
        elif UNSUPPORTED.fullmatch(name):
            unsupported.append(name)
        else:
            raise ValueError(f"unknown field {name!r}")
    return flow, unsupported
