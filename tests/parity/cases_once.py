"""Each packet is copied to an output once, however many reasons select it."""

from __future__ import annotations

from ovs_ebpf_tap.lab.frames import ETH_8021AD, Tag, with_tags
from parity.case import Case, CaseMirror, CasePort, announce, broadcast, flood, left, ports, talk

LEARNED = announce("a", "b", "c")
TALK = [
    ("a", talk("a", "b")),
    ("b", talk("b", "a")),
    ("c", talk("c", "a")),
    ("b", talk("b", "c")),
]
FLOODS = [("a", flood("a")), ("b", flood("b")), ("c", flood("c"))]

SELECTIONS = {
    "source": CaseMirror(src="a", output="m"),
    "destination": CaseMirror(dst="a", output="m"),
    "both_of_one_port": CaseMirror(src="a", dst="a", output="m"),
    "both_of_one_packet": CaseMirror(src="a", dst="b", output="m"),
    "several_sources": CaseMirror(src="a b c", output="m"),
    "several_destinations": CaseMirror(dst="a b c", output="m"),
    "all_as_both": CaseMirror(src="a b c", dst="a b c", output="m"),
    "all_ports": CaseMirror(select_all=True, output="m"),
}

# What is in a VLAN leaves with its tag, and without: a copy has what the first to leave has.
MIXED = ports(
    "m n o",
    a=CasePort(),
    b=CasePort(tag=10),
    c=CasePort(),
    d=CasePort(tag=10),
    e=CasePort(trunks=(10,)),
)
MIXED_MIRRORS = [
    CaseMirror(dst="b c", output="m"),
    CaseMirror(dst="c d", output="n"),
    CaseMirror(dst="d e", output="o"),
]
MIXED_FLOODS = [
    ("a", flood("a", [tag])) for tag in (Tag(10), Tag(10, pcp=5), Tag(10, tpid=ETH_8021AD))
]

CASES = [
    *(
        Case(f"{name}_learned", ports("a b c m"), [mirror], TALK, learn=LEARNED, all_hooks=True)
        for name, mirror in SELECTIONS.items()
    ),
    *(
        Case(f"{name}_flooded", ports("a b c m"), [mirror], FLOODS)
        for name, mirror in SELECTIONS.items()
    ),
    Case(
        "twice",
        ports("a b c m"),
        [CaseMirror(src="a", dst="b c", output="m")],
        [("a", [broadcast("a")] * 2), ("b", [broadcast("b")] * 2)],
        all_hooks=True,
    ),
    Case(
        "fifty_times",
        ports("a b c m"),
        [CaseMirror(src="a", dst="b c", output="m")],
        [("a", [broadcast("a")] * 50), ("b", [broadcast("b")] * 50)],
        all_hooks=True,
    ),
    Case(
        "fifty_times_to_destinations",
        ports("a b c d m"),
        [CaseMirror(dst="b c d", output="m")],
        [("a", [broadcast("a")] * 50)],
    ),
    Case(
        "in_two_vlans",
        ports("a b c m"),
        [CaseMirror(src="a", dst="b", output="m")],
        [("a", [with_tags(broadcast("a"), [vlan]) for vlan in (10, 20, 10, 20)])],
    ),
    Case(
        "in_two_vlans_of_access_ports",
        ports("m", a=CasePort(), b=CasePort(tag=10), c=CasePort(tag=20)),
        [CaseMirror(dst="b c", output="m")],
        [("a", [with_tags(broadcast("a"), [vlan]) for vlan in (10, 20, 10, 20)])],
    ),
    Case(
        "with_tags_and_without",
        MIXED,
        MIXED_MIRRORS,
        MIXED_FLOODS,
        datapaths=("system",),
    ),
    Case(
        "with_tags_and_without_in_batches",
        MIXED,
        left("and through others, not all of which take tags off", *MIXED_MIRRORS),
        MIXED_FLOODS,
        datapaths=("netdev",),
    ),
    Case(
        "with_tags_and_without_when_they_have_arrived",
        MIXED,
        [CaseMirror(select_all=True, output="m"), CaseMirror(dst="b c", output="m")],
        MIXED_FLOODS,
        all_hooks=True,
    ),
    Case(
        "from_two_sources",
        ports("a b c m"),
        [CaseMirror(src="a b", dst="c", output="m")],
        [("a", [broadcast("a")]), ("b", [broadcast("a")]), ("a", [broadcast("a")] * 3)],
    ),
    Case(
        "from_a_source_and_another_port",
        ports("a b c m"),
        [CaseMirror(src="a", dst="c", output="m")],
        [("a", [broadcast("a")]), ("b", [broadcast("a")]), ("a", [broadcast("a")] * 3)],
    ),
    Case(
        "from_different_vlans",
        ports("m", a=CasePort(tag=10), b=CasePort(tag=20), c=CasePort(tag=10), d=CasePort(tag=20)),
        [CaseMirror(src="a", dst="d", output="m")],
        [("a", [broadcast("a")] * 2), ("b", [broadcast("a")] * 2), ("a", [broadcast("a")])],
    ),
    Case(
        "mirrors_of_one_output",
        ports("a b c m"),
        [
            CaseMirror(src="a", output="m"),
            CaseMirror(dst="b", output="m"),
            CaseMirror(src="a c", dst="c", output="m"),
        ],
        [*TALK, *FLOODS],
        learn=LEARNED,
        all_hooks=True,
    ),
    Case(
        "mirrors_alike",
        ports("a b c m"),
        [CaseMirror(src="a", dst="b", output="m")] * 3,
        [*TALK, *FLOODS],
        learn=LEARNED,
    ),
    Case(
        "mirrors_of_different_outputs",
        ports("a b c m n o"),
        [
            CaseMirror(src="a", dst="b", output="m"),
            CaseMirror(src="a b", output="n"),
            CaseMirror(dst="b c", output="o"),
        ],
        [*TALK, *FLOODS],
        learn=LEARNED,
    ),
    Case(
        "two_of_all_ports",
        ports("a b c m n"),
        [CaseMirror(select_all=True, output="m"), CaseMirror(select_all=True, output="n")],
        FLOODS,
    ),
    Case(
        "all_ports_beside_one",
        ports("a b c m n"),
        [CaseMirror(select_all=True, output="m"), CaseMirror(src="a", dst="b", output="m")],
        FLOODS,
    ),
    Case(
        "arrivals_on_an_output",
        ports("a b m"),
        [CaseMirror(src="a m", dst="b", output="m"), CaseMirror(src="m", output="m")],
        [("m", flood("m")), ("a", flood("a"))],
    ),
    Case(
        "arrivals_on_another_output",
        ports("a b m n"),
        [
            CaseMirror(src="a", output="m"),
            CaseMirror(src="m", output="n"),
            CaseMirror(src="a", output="n"),
        ],
        [("m", flood("m")), ("a", flood("a"))],
    ),
    Case(
        "one_port_in_many",
        ports("a b m n o p q"),
        [CaseMirror(src="a", dst="a", output=output) for output in "mnopq"],
        FLOODS[:2],
    ),
    Case(
        "nothing_selected",
        ports("a b m"),
        [CaseMirror(output="m")],
        FLOODS[:2],
        silent=True,
    ),
    Case(
        "no_traffic_of_it",
        ports("a b c m"),
        [CaseMirror(src="c", output="m")],
        FLOODS[:2],
        silent=True,
    ),
]
